"""One tiny model of each family for all tests, and a run that has learned a batch by heart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.tiny_models import find_makers
from tests.models.families.runs import Run, overfit

MAKERS = find_makers()
FAMILIES = [pytest.param(name, marks=[pytest.mark.slow] if maker.SLOW else []) for name, maker in MAKERS.items()]


@pytest.fixture(scope="package", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Name of a file in ``tests/helpers/tiny_models``."""
    return str(request.param)


@pytest.fixture(scope="package")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the family's tiny model."""
    return Path(MAKERS[family].make(tmp_path_factory.mktemp(family) / "model"))


@pytest.fixture(scope="package")
def run(family: str, folder: Path) -> Run:
    """A run that has learned its documents by heart."""
    return overfit(folder, MAKERS[family].PAGES)
