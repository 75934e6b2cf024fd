"""That a run which asks for Unsloth is recognized before anything is imported, and no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deepsynth.unsloth_import import asks_for_unsloth

ROOT = Path(__file__).parents[1]
UNSLOTH, PEFT = str(ROOT / "configs/backend/unsloth.yaml"), str(ROOT / "configs/backend/peft.yaml")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["fit"], False),
        (["fit", "--config", UNSLOTH], True),
        (["fit", f"--config={UNSLOTH}"], True),
        (["fit", "-c", UNSLOTH], True),
        (["fit", "--config", PEFT], False),
        (["fit", "--config", UNSLOTH, "--config", PEFT], False),
        (["fit", "--config", PEFT, "--config", UNSLOTH], True),
        (["fit", "--config", UNSLOTH, "--config", str(ROOT / "configs/callbacks/text_metrics.yaml")], True),
        (["fit", "--config", UNSLOTH, "--model", "PeftModule"], False),
        (["validate", "--model=deepsynth.modules.UnslothModule"], True),
        (["validate", "--model.class_path", "UnslothModule"], True),
        (["fit", "--model={class_path: UnslothModule, init_args: {lora: {rank: 4}}}"], True),
        (["fit", "--config", "nothing.yaml"], False),
        (["fit", "--config", UNSLOTH, "--model.init_args.lora.rank", "4"], True),
    ],
)
def test_the_last_class_named_counts(args: list[str], expected: bool) -> None:
    assert asks_for_unsloth(args) is expected


def test_a_broken_config_is_left_to_the_parser(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("model: {class_path: [UnslothModule")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfeclass_path")
    for name in ("broken.yaml", "bytes.yaml"):
        assert not asks_for_unsloth(["fit", "--config", str(tmp_path / name)])


def test_looking_imports_nothing_heavy() -> None:
    code = (
        "import sys; from deepsynth.unsloth_import import asks_for_unsloth;"
        f"assert asks_for_unsloth(['fit', '--config', {UNSLOTH!r}]);"
        "print([name for name in ('torch', 'transformers', 'lightning', 'unsloth') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
