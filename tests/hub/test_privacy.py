"""What is removed before anything leaves this machine, and what is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepsynth.hub.privacy import clean_json_files, clean_text, is_local_path, redact, without_local_paths
from tests.helpers.local_hub import TOKEN


@pytest.mark.parametrize("prefix", ["hf_", "api_", "xet_", "hf_oauth_"])
def test_tokens_of_every_kind_are_removed(prefix: str) -> None:
    token = prefix + "Ab3-" * 8
    for clean in (redact, clean_text):
        assert clean(f"401 for {token}: log in") == "401 for <token>: log in"
        assert clean(f"'{token}'") == "'<token>'"
        assert clean(f"{prefix}short, and no_token_but_a_long_name_of_a_setting") == (
            f"{prefix}short, and no_token_but_a_long_name_of_a_setting"
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"see https://x.y/z?X-Sig=abc&t={TOKEN} or {TOKEN}", "see https://x.y/z or <token>"),
        ("'http://x.y/z?a=1' and \"http://x.y/z?a=1\"", "'http://x.y/z' and \"http://x.y/z\""),
        ("is http://x.y/z it? No.", "is http://x.y/z it? No."),
        (f"x{TOKEN}", f"x{TOKEN}"),  # the middle of another word
        ("hf_" + "a" * 19, "hf_" + "a" * 19),
        ("hf_" + "a" * 20, "<token>"),
    ],
)
def test_tokens_and_signatures_are_removed(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert clean_text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("read /home/me/a/b.txt and ~/c/d.txt", "read b.txt and d.txt"),
        ("/a/b", "b"),
        ("(/home/me/x@2%+.png)", "(x@2%+.png)"),
        ("in /home/me/pages/ they are", "in pages they are"),
        ("and/or https://hf.co/a/b, 1/2, <br/>", "and/or https://hf.co/a/b, 1/2, <br/>"),
        ("</p>, hf://a/b, ./x/y and /word", "</p>, hf://a/b, ./x/y and /word"),
    ],
)
def test_paths_in_a_text_are_reduced_to_their_last_part(text: str, expected: str) -> None:
    assert clean_text(text) == expected


@pytest.mark.parametrize(
    "path", ["/x", "/", "~", "~/x", "./x", "../x", "file:x", "C:\\x", "d:/x", __file__, Path(__file__).name, "folder/x"]
)
def test_paths_of_this_machine_are_told_from_names(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / Path(__file__).name).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").touch()
    assert is_local_path(path)


@pytest.mark.parametrize(
    "name", ["", "a", "alice/ocr-that-is-nowhere", ".x.", "C:x", "/x\ny", "x" * 10_000 + "/", "a/\0"]
)
def test_what_is_no_path_of_this_machine(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()  # a word that happens to be the name of a folder is none either
    assert not is_local_path(name)


def test_nested_settings_lose_their_paths_and_keep_everything_else(tmp_path: Path) -> None:
    settings: dict[Any, Any] = {
        "files": ["/a/b.txt", ("/c/d.txt", 1)],
        "folder": tmp_path / "pages",
        "text": f"as in /a/b.txt with {TOKEN}",
        3: {"rate": 0.5, "none": None, "on": True},
    }
    before = repr(settings)
    assert without_local_paths(settings) == {
        "files": ["b.txt", ["d.txt", 1]],
        "folder": "pages",
        "text": "as in b.txt with <token>",
        "3": {"rate": 0.5, "none": None, "on": True},
    }
    assert repr(settings) == before


#: What the files of an adapter hold, and what is left of it.
FILES: dict[str, tuple[Any, Any]] = {
    "deepsynth.json": ({"note": "/a/b", "é": 1}, {"note": "b", "é": 1}),
    "metrics.json": ({"read": ["/a/b"]}, {"read": ["b"]}),
    "tokenizer_config.json": (
        {"name_or_path": "/a/b", "vocab_file": "/a/v", "data_dir": "/a/d", "file": "/a/f", "cache_folder": "/a/c"}
        | {"unk_token": "/a/b", "profile": "/a/b", "files": "/a/b", "some_path": 3, "hub_path": "alice/ocr"},
        {"name_or_path": "b", "vocab_file": "v", "data_dir": "d", "file": "f", "cache_folder": "c"}
        | {"unk_token": "/a/b", "profile": "/a/b", "files": "/a/b", "some_path": 3, "hub_path": "alice/ocr"},
    ),
    "tokenizer.json": ({"path": "/a/b"}, {"path": "/a/b"}),
    "vocab.json": ({"path": "/a/b"}, {"path": "/a/b"}),
    "added_tokens.json": ({"path": "/a/b"}, {"path": "/a/b"}),
    "list.json": (["/a/b"], ["/a/b"]),
}


@pytest.mark.parametrize("name", FILES)
def test_the_files_of_an_adapter_lose_their_paths(name: str, tmp_path: Path) -> None:
    content, expected = FILES[name]
    (tmp_path / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    clean_json_files(tmp_path, "alice/base")
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert json.loads(text) == expected
    assert text.endswith("\n") == (content != expected), "what has no path stays as it was written"
    assert "\\u" not in text


@pytest.mark.parametrize(("base", "expected"), [("alice/base", "alice/base"), ("/a/base", None), ("./base", None)])
def test_an_adapter_names_its_base_model_only_if_others_can_have_it(
    base: str, expected: str | None, tmp_path: Path
) -> None:
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": "/somewhere/base", "r": 4}))
    clean_json_files(tmp_path, base)
    assert json.loads(config.read_text()) == {"base_model_name_or_path": expected, "r": 4}
