"""What is left out of the terminal is what the libraries really write."""

from __future__ import annotations

import logging
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.version import Version

from deepsynth.cli.console import KNOWN_CHATTER, KNOWN_NOISE, NOISE_WITHOUT_TRAINING, prepare

TESTED = (Path(__file__).parents[2] / "constraints" / "tested.txt").read_text()


@pytest.mark.parametrize(("module", "pattern"), [*KNOWN_NOISE, *NOISE_WITHOUT_TRAINING, *KNOWN_CHATTER])
def test_the_library_still_writes_it(module: str, pattern: str) -> None:
    """An upgrade that rewords a message shows here; fields of a text and breaks of its lines are left out.

    A library that is older than the pinned one may not write it yet.
    """
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    source = re.sub(r'"\n\s*r?f?"', "", Path(spec.origin).read_text(encoding="utf-8"))
    literal = max(re.split(r"\.\*|`list`|False", pattern), key=len).replace("\\", "")
    library = module.partition(".")[0]
    pinned = re.search(rf"^{library}==(.+)$", TESTED, re.MULTILINE)
    assert pinned is not None
    assert literal in source or Version(version(library)) < Version(pinned[1])


def test_advertisements_are_dropped_and_news_are_not(caplog: pytest.LogCaptureFixture) -> None:
    prepare(trains=True)
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO, logger=logger.name):
        for _, text in KNOWN_CHATTER:
            logger.info(text)
        logger.info("the run folder")
    assert [record.getMessage() for record in caplog.records] == ["the run folder"]
