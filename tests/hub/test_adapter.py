"""Model cards and snapshots: what is said, and what must not be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deepsynth.hub.adapter import ADAPTER_FILES, Card, snapshot_adapter
from deepsynth.hub.snapshot import Snapshot, Target
from deepsynth.hub.spool import Spool
from tests.helpers.hub_server import validate_card
from tests.helpers.local_hub import TOKEN


def card(tmp_path: Path, **kwargs) -> Card:
    settings = {
        "repo_id": "alice/ocr",
        "base_model": "deepseek-ai/DeepSeek-OCR",
        "version": "0.1.0",
        "datasets": ["wikimedia/wikipedia", str(tmp_path / "secret" / "pages.jsonl")],
        "languages": ["fa", "en-GB", "de", "not a language"],
        "recipe": {
            "model": {"lora": {"rank": 16}, "unset": None},
            "data": {"path": str(tmp_path / "secret" / "a.jsonl")},
        },
        "metrics": {"val/cer": 0.03125, "val/rouge1": 0.9},
        "metric_settings": {"samples": 64, "read with": f"the cache in {tmp_path}/secret/cache", "token": TOKEN},
        "step": 1200,
    }
    return Card(**{**settings, **kwargs})


def front_matter(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_a_card_says_what_was_trained_on_what_and_how_well(tmp_path):
    text = card(tmp_path, license="Apache-2.0").text()
    front = front_matter(text)
    assert validate_card(text, "model") == ([], [])
    assert front["base_model"] == "deepseek-ai/DeepSeek-OCR"
    assert front["license"] == "apache-2.0"
    assert front["datasets"] == ["wikimedia/wikipedia"]
    assert front["language"] == ["de", "en", "fa"]
    assert front["metrics"] == ["cer", "rouge"]
    for fact in (
        "0.03125",
        "1200 optimizer steps",
        "model.lora.rank | 16",
        "samples | 64",
        "DeepSynth 0.1.0",
        "pages.jsonl",
    ):
        assert fact in text
    assert "unset" not in text


@pytest.mark.parametrize("base", ["deepsynth/tiny-random", "/home/me/models/mine", "./mine", "models/mine"])
def test_a_card_names_no_base_that_is_not_on_the_hub(tmp_path, monkeypatch, base):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    text = card(tmp_path, base_model=base).text()
    assert "base_model" not in front_matter(text)
    assert "/home/me" not in text
    assert "models/mine" not in text


def test_neither_paths_nor_tokens_leave_this_machine(tmp_path):
    text = card(tmp_path).text()
    assert str(tmp_path) not in text
    assert "secret" not in text
    assert TOKEN not in text


def test_an_unknown_license_becomes_other_with_its_name(tmp_path):
    front = front_matter(card(tmp_path, license="My Own License").text())
    assert (front["license"], front["license_name"]) == ("other", "my-own-license")
    text = card(tmp_path).text()
    assert "license" not in front_matter(text)
    assert "that of the base model" in text


def test_a_snapshot_holds_the_listed_files_and_no_local_path(tmp_path):
    def save_adapter(folder: Path) -> None:
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path), "r": 4}))
        (folder / "tokenizer_config.json").write_text(json.dumps({"name_or_path": str(tmp_path), "unk": "/usr/x"}))
        (folder / "tokenizer.json").write_text(json.dumps({"vocab": {"/usr/lib": 1}}))
        (folder / "deepsynth.json").write_text(json.dumps({"model_name": str(tmp_path / "mine"), "prompt": "a\n/b"}))
        (folder / "optimizer.pt").write_bytes(b"big")
        (folder / "notes.txt").write_text("mine")

    spool = Spool(tmp_path / "spool")
    target = Target("alice/ocr", revision="trained")
    snapshot = snapshot_adapter(spool, target, save_adapter, card(tmp_path), "step 1200", tag="v1")
    assert set(snapshot.files) <= set(ADAPTER_FILES)
    assert {"optimizer.pt", "notes.txt"}.isdisjoint(snapshot.files)
    assert json.loads(snapshot.path("adapter_config.json").read_text())["base_model_name_or_path"] == (
        "deepseek-ai/DeepSeek-OCR"
    )
    assert json.loads(snapshot.path("tokenizer_config.json").read_text()) == {
        "name_or_path": tmp_path.name,
        "unk": "/usr/x",
    }
    assert "/usr/lib" in snapshot.path("tokenizer.json").read_text()
    assert json.loads(snapshot.path("deepsynth.json").read_text()) == {"model_name": "mine", "prompt": "a\n/b"}
    assert json.loads(snapshot.path("metrics.json").read_text())["metrics"]["val/cer"] == 0.03125
    assert str(tmp_path) not in "".join(snapshot.path(name).read_text() for name in snapshot.files)
    assert Snapshot.load(snapshot.folder) == snapshot
    assert [path.name for path in spool.folder.iterdir()] == [snapshot.folder.name]


def test_a_full_disk_leaves_no_half_snapshot(tmp_path):
    def save_adapter(folder: Path) -> None:
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    spool = Spool(tmp_path / "spool")
    with pytest.raises(OSError, match="No space left"):
        snapshot_adapter(spool, Target("alice/ocr"), save_adapter, card(tmp_path), "step 1")
    assert list(spool.folder.iterdir()) == []


def test_importing_the_hub_package_is_cheap():
    code = (
        "import sys, deepsynth.hub.worker, deepsynth.hub.adapter, deepsynth.hub.pull;"
        "print([m for m in ('torch', 'lightning', 'huggingface_hub', 'httpx', 'httpx2') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("license", "front", "shown"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}, "Apache-2.0"),
        ("cc-by-nc-sa-4.0", {"license": "cc-by-nc-sa-4.0"}, "cc-by-nc-sa-4.0"),
        ("lgpl-3.0", {"license": "lgpl-3.0"}, "lgpl-3.0"),
        (" Acme (v1.2)!", {"license": "other", "license_name": "acme-v1.2"}, "Acme (v1.2)!"),
        (None, {}, "that of the base model"),
    ],
)
def test_a_license_is_named_as_the_hub_names_it(tmp_path: Path, license: str | None, front: dict, shown: str) -> None:
    text = card(tmp_path, license=license).text()
    found = front_matter(text)
    assert {key: found[key] for key in ("license", "license_name") if key in found} == front
    assert f"- **License**: {shown}" in text.replace("**:  ", "**: ")


@pytest.mark.parametrize(
    ("changes", "key", "expected"),
    [
        ({"languages": ["EN-us", "en", "fas", "x", "abcd"]}, "language", ["en", "fas"]),
        ({"languages": ["not a language"]}, "language", None),
        ({"datasets": ["a/b", "a/b/c", "./a", "plain"]}, "datasets", ["a/b"]),
        ({"datasets": ["plain"]}, "datasets", None),
        ({"metrics": {"test/wer": 1.0, "val/bleu": 2.0}}, "metrics", ["wer", "bleu"]),
        ({"metrics": {"cer/loss": 1.0}}, "metrics", None),
        ({"base_model": "org/base"}, "base_model", "org/base"),
        ({"base_model": "org/base"}, "base_model_relation", "adapter"),
        ({"base_model": "deepsynth/tiny-random"}, "base_model_relation", None),
        ({"base_model": "base"}, "base_model", None),
        ({}, "library_name", "peft"),
        ({}, "pipeline_tag", "image-text-to-text"),
    ],
)
def test_the_front_matter_has_what_the_hub_can_show(tmp_path: Path, changes: dict, key: str, expected: object) -> None:
    assert front_matter(card(tmp_path, **changes).text()).get(key) == expected


def test_a_card_shows_numbers_and_settings_as_tables(tmp_path: Path) -> None:
    recipe = {"a": {"b": {"c": 1, "none": None}}, "text": "x | y\n z", "rate": 0.00012345678, "off": False}
    text = card(tmp_path, recipe=recipe, metrics={"val/cer": 1 / 3}, metric_settings={}).text()
    metrics, recipe_table = text.split("## Metrics")[1].split("## Recipe")
    assert metrics.strip().splitlines() == ["| metric | value |", "| --- | --- |", "| val/cer | 0.333333 |"]
    assert recipe_table.strip().splitlines() == [
        "| setting | value |",
        "| --- | --- |",
        "| a.b.c | 1 |",
        "| text | x \\| y z |",
        "| rate | 0.000123457 |",
        "| off | False |",
    ]
    bare = card(tmp_path, recipe={}, metrics={}, metric_settings={}, datasets=[]).text()
    assert "Nothing was measured before this state was pushed." in bare
    assert "## Recipe" not in bare
    assert "How they were measured" not in bare
    assert "- **Data**: not named" in bare
    assert bare.endswith("\n")


@pytest.mark.parametrize(
    ("base", "shown"),
    [
        ("org/base", "[org/base](https://huggingface.co/org/base)"),
        ("deepsynth/tiny-random", "deepsynth/tiny-random, a small model that is part of DeepSynth"),
        ("/models/base", "a model that is not on the Hub"),
    ],
)
def test_a_card_says_where_the_base_model_is(tmp_path: Path, base: str, shown: str) -> None:
    assert f"- **Base model**: {shown}\n" in card(tmp_path, base_model=base).text()


@pytest.mark.parametrize(
    ("base", "shown"), [("org/base", '"org/base"'), ("/models/base", '"PATH OF THE BASE MODEL"')], ids=["hub", "path"]
)
def test_the_code_of_a_card_loads_a_base_whose_classes_are_deepsynths(tmp_path: Path, base: str, shown: str) -> None:
    """It says what to import, and is Python."""
    code = card(tmp_path, base_model=base).text().split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    lines = code.splitlines()
    assert lines[0] == "import deepsynth.models"
    registered = next(number for number, line in enumerate(lines) if line.startswith("deepsynth.models.register()"))
    assert lines[registered + 1] == f"base_model = AutoModelForImageTextToText.from_pretrained({shown})"


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_the_state_of_the_optimizer_is_pushed_only_if_asked_for(tmp_path: Path, with_optimizer: bool) -> None:
    def save_adapter(folder: Path) -> None:
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"weights")

    snapshot = snapshot_adapter(
        Spool(tmp_path / "spool"),
        Target("alice/ocr"),
        save_adapter,
        card(tmp_path),
        "step 1200",
        tag="v1",
        save_optimizer=(lambda path: path.write_bytes(b"state") and None) if with_optimizer else None,
    )
    expected = {"README.md", "metrics.json", "adapter_model.safetensors"}
    assert set(snapshot.files) == (expected | {"optimizer.pt"} if with_optimizer else expected)
    assert (snapshot.message, snapshot.tag) == ("step 1200", "v1")
    assert json.loads(snapshot.path("metrics.json").read_text()) == {
        "step": 1200,
        "metrics": {"val/cer": 0.03125, "val/rouge1": 0.9},
        "settings": {"samples": 64, "read with": "the cache in cache", "token": "<token>"},
        "deepsynth": "0.1.0",
    }
