"""Model cards and snapshots: what is said, and what must not be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deepsynth.hub.adapter import ADAPTER_FILES, Card, snapshot_adapter
from deepsynth.hub.client import asked_wait_s, classify
from deepsynth.hub.privacy import clean_text, is_local_path, redact
from deepsynth.hub.pull import Reference
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


def test_a_damaged_snapshot_is_named(tmp_path):
    spool = Spool(tmp_path / "spool")
    staged = spool.stage()
    (staged / "README.md").write_text("whole")
    snapshot = spool.seal(staged, Target("alice/ocr"), "step 1")
    snapshot.path("README.md").write_text("cut")
    with pytest.raises(ValueError, match="it has 3 bytes, not 5"):
        spool.pending()


@pytest.mark.parametrize("repo_id", ["ocr", "/home/me/ocr", "alice/ocr/x", "alice/a..b", "", "alice/--b"])
def test_a_target_must_be_a_name_on_the_hub(repo_id):
    with pytest.raises(ValueError, match="repo_id is"):
        Target(repo_id)


@pytest.mark.parametrize("revision", ["", "a b", "../x"])
def test_a_target_must_be_a_branch(revision):
    with pytest.raises(ValueError, match="revision is"):
        Target("alice/ocr", revision)


def test_references_are_read_and_written():
    for text in ("hf://alice/ocr", "hf://alice/ocr@v1", "hf://alice/ocr@refs/pr/1"):
        assert str(Reference.parse(text)) == text
    assert Reference.parse("hf://alice/ocr@refs/pr/1").revision == "refs/pr/1"
    for text in ("hf://alice", "hf://", "alice/ocr", "hf://a/b@", "hf://a/b/c"):
        with pytest.raises(ValueError, match="must be hf://owner/repo"):
            Reference.parse(text)


@pytest.mark.parametrize("prefix", ["hf_", "api_", "xet_", "hf_oauth_"])
def test_tokens_of_every_kind_are_removed(prefix: str) -> None:
    token = prefix + "Ab3-" * 8
    for clean in (redact, clean_text):
        assert clean(f"401 for {token}: log in") == "401 for <token>: log in"
        assert clean(f"'{token}'") == "'<token>'"
        assert clean(f"{prefix}short, and no_token_but_a_long_name_of_a_setting") == (
            f"{prefix}short, and no_token_but_a_long_name_of_a_setting"
        )


def test_texts_are_cleaned():
    assert redact(f"see https://x.y/z?X-Sig=abc&t={TOKEN} or {TOKEN}") == "see https://x.y/z or <token>"
    assert clean_text("read /home/me/a/b.txt and ~/c/d.txt") == "read b.txt and d.txt"
    assert clean_text("and/or https://hf.co/a/b, 1/2, <br/>") == "and/or https://hf.co/a/b, 1/2, <br/>"
    assert is_local_path("~/x")
    assert is_local_path(__file__)
    assert not is_local_path("alice/ocr-that-is-nowhere")
    assert not is_local_path("x" * 10_000 + "/")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "86400"}, 300.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
    ],
)
def test_the_hubs_requests_to_wait(headers, seconds):
    assert asked_wait_s(headers) == seconds


def test_errors_of_either_http_library_are_understood():
    assert classify(RuntimeError("DNS failure")).status == "retry"
    assert classify(ConnectionError("HTTP status client error (403 Forbidden)")).status == "refused"
    assert classify(ConnectionError("HTTP status server error (503 Service Unavailable)")).status == "retry"
    assert classify(json.JSONDecodeError("x", "", 0), last_status=401).status == "refused"
    assert classify(json.JSONDecodeError("x", "", 0)).status == "retry"
    assert classify(json.JSONDecodeError("x", "", 0), last_status=200).status == "retry"


def test_importing_the_hub_package_is_cheap():
    code = (
        "import sys, deepsynth.hub.worker, deepsynth.hub.adapter, deepsynth.hub.pull;"
        "print([m for m in ('torch', 'lightning', 'huggingface_hub', 'httpx', 'httpx2') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
