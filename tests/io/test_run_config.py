"""The resolution of a run is found where the command line writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepsynth.__main__ import main
from deepsynth.io.run_config import mode_of, run_of


@pytest.mark.parametrize(
    "given", ["--data.mode=gundam", "--data.processor=OcrProcessor --data.processor.mode=gundam", ""]
)
def test_the_mode_of_a_run_is_the_one_that_was_given(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", "quickstart", *given.split(), "--print_config"]) == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    assert mode_of(tmp_path) == ("gundam" if given else None)


def test_weights_belong_to_a_run_wherever_it_keeps_them(tmp_path: Path) -> None:
    for folder in ("adapter", "checkpoints/best-adapter", "."):
        assert run_of(tmp_path / folder) == tmp_path.resolve()
    assert run_of(tmp_path / "merged") == tmp_path.resolve() / "merged"
