"""Sources as files: read back they give the same samples, pixels, prompts, texts and boxes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lxml import etree
from PIL import Image

from deepsynth.__main__ import main
from deepsynth.data import DocumentSource, JsonlSource, OcrProcessor, ParquetSource, TextRenderer
from deepsynth.data.convert import convert
from deepsynth.data.formats.alto import read_alto
from deepsynth.data.formats.page_xml import read_page_xml
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.shards import Shard
from deepsynth.errors import UserError
from deepsynth.types import Document, Sample
from tests.helpers.training import PAGE

LONG = "Words of a docu\u00adment, and re\u00adspon\u00adsi\u00adbil\u00adi\u00adty for well-known pages. " * 5 + "\n\n"
LONG = LONG * 4
DOCUMENTS = [
    Document("a/long one", LONG, language="en", source="s"),
    Document("b", "a text & <more>", prompt="<image>\nRead it."),
]
NOISE = np.random.default_rng(0).integers(0, 256, (2, 70, 90, 3), dtype=np.uint8)
SCANS = [
    Document("in/r.png", "read me", image=Image.fromarray(NOISE[0]), prompt="<image>\nFree OCR.", language="en"),
    Document("in/r.png~prompt2", "one", image=Image.fromarray(NOISE[0]), prompt="How many?\n<image>"),
    Document("s", "two\nlines", image=Image.fromarray(NOISE[1, :50])),
]
SUMMARIES = [Document("c", LONG, target="short"), Document("d", "text", target="shorter")]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(TextRenderer(**PAGE), None, OcrProcessor("deepsynth/tiny-random"))


def samples(documents: Any, pipeline: Pipeline) -> list[Sample]:
    found = []
    for document in documents:
        numbers = [None] if document.is_whole else range(pipeline.count_pages(document))
        found += [pipeline.sample(document, number, 0) for number in numbers]
    return [sample for sample in found if sample is not None]


@pytest.mark.parametrize("documents", [DOCUMENTS, SCANS, SUMMARIES], ids=["pages", "scans", "summaries"])
@pytest.mark.parametrize(("form", "source"), [("jsonl", JsonlSource), ("parquet", ParquetSource)])
def test_rows_give_the_same_samples(
    form: Any, source: Any, documents: list[Document], pipeline: Pipeline, tmp_path: Path
) -> None:
    counts = []
    for shard in (Shard(0, 2), Shard(1, 2)):
        (line,) = convert(documents, pipeline, tmp_path, form, shard)
        told = re.fullmatch(r".*: (\d+) samples?", line)
        assert told
        counts.append(int(told[1]))
    before, after = samples(documents, pipeline), samples(source(tmp_path), pipeline)
    assert sum(counts) == sum(1 for _ in source(tmp_path)) >= 2
    assert len(after) >= 2
    order = [sample.id for sample in before]
    after.sort(key=lambda sample: order.index(sample.id))
    for one, other in zip(before, after, strict=True):
        assert (one.id, one.target, one.prompt, one.language) == (other.id, other.target, other.prompt, other.language)
        assert torch.equal(one.input_ids, other.input_ids)
        assert all(torch.equal(one.images[name], other.images[name]) for name in one.images)
    (line,) = convert(documents, pipeline, tmp_path, form, Shard(0, 2))
    assert line.endswith("is there already")
    with pytest.raises(UserError, match="holds a conversion with another shards: 2, and now 1"):
        list(convert(documents, pipeline, tmp_path, form))


@pytest.mark.parametrize("form", ["page", "alto"])
def test_layouts_have_the_text_the_order_and_the_boxes(form: Any, pipeline: Pipeline, tmp_path: Path) -> None:
    told = list(convert(DOCUMENTS, pipeline, tmp_path, form))
    pages = [page for d in DOCUMENTS for n in range(pipeline.count_pages(d)) for page in pipeline.pages(d, n, 0)]
    files = sorted(tmp_path.glob("*.xml"), key=lambda path: (path.name[0], path.stat().st_mtime_ns))
    assert len(files) == len(pages) > 2
    assert told == [f"{tmp_path}: {len(pages)} pages"]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert list(convert(DOCUMENTS, pipeline, tmp_path, form)) == told, "the same pages again"
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}, "and none is written twice"
    hyphens = 0
    for file, page in zip(files, pages, strict=True):
        read = read_page_xml(file) if form == "page" else read_alto(file)[0]
        assert (read.width, read.height) == page.image.size
        assert read.text == page.text
        lines = [line for region in read.regions for line in region.lines]
        assert [line.box for line in lines] == [pytest.approx(line.box, abs=1) for line in page.lines]
        hyphens += page.text.count("-\n")
        for line, drawn in zip(lines, page.lines, strict=True):
            words = [word.text for word in line.words]
            if form == "alto" and drawn.ending.startswith("-"):
                words[-1] += "-"
            assert words == line.text.split()
            for word in line.words:
                assert drawn.box[0] - 1 <= word.box[0] <= word.box[2] <= drawn.box[2] + 1
    assert hyphens


def test_the_files_have_the_structure_of_their_schemas(pipeline: Pipeline, tmp_path: Path) -> None:
    """Names, order and required attributes as the published schemas have them."""
    for form in ("page", "alto"):
        list(convert(DOCUMENTS[1:], pipeline, tmp_path / form, form))  # type: ignore[arg-type]
    page, alto = (etree.parse(str(next((tmp_path / form).glob("*.xml")))).getroot() for form in ("page", "alto"))
    names = [etree.QName(element).localname for element in page.iter()]
    assert names[:9] == [
        *("PcGts", "Metadata", "Creator", "Created", "LastChange"),
        *("Page", "ReadingOrder", "OrderedGroup", "RegionRefIndexed"),
    ]
    first = page.find(".//{*}TextLine")
    assert [etree.QName(e).localname for e in first] == ["Coords", *["Word"] * 4, "TextEquiv"]
    assert [etree.QName(e).localname for e in page.find(".//{*}TextRegion")] == ["Coords", "TextLine", "TextEquiv"]
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert [etree.QName(e).localname for e in alto] == ["Description", "Layout"]
    assert (tmp_path / "alto" / alto.findtext(".//{*}fileName")).is_file()
    line = alto.find(".//{*}TextLine")
    assert [etree.QName(e).localname for e in line] == ["String", "SP", "String", "SP", "String", "SP", "String"]
    assert all({"HPOS", "VPOS", "WIDTH", "HEIGHT"} <= set(e.keys()) for e in alto.iter("{*}TextBlock", "{*}String"))


def test_shards_are_named_by_two_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Shard.parse("3/4") == Shard.chosen("3/4") == Shard(3, 4)
    assert Shard.chosen(None) == Shard(0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (Shard.chosen(None), Shard.chosen("0/3")) == (Shard(1, 2), Shard(0, 3))
    for wrong in ("4/4", "1", "a/b"):
        with pytest.raises(UserError, match="it must be I/N with I from 0"):
            Shard.parse(wrong)


@pytest.mark.parametrize("form", ["jsonl", "parquet", "txt", "page"])
def test_what_gives_no_sample_is_named_and_passed_over_on_request(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for name in ("a", "b", "c", "d"):
        Image.new("L", (60, 40), 200).save(scans / f"{name}.png")
        (scans / f"{name}.txt").write_text(f"text {name}")
    (scans / "b.png").write_bytes((scans / "a.png").read_bytes()[:60])
    (scans / "d.txt").unlink()
    args = ["data", "convert", "--data.source=DocumentSource", f"--data.source.path={scans}", "--format", form]
    assert main([*args, "--output", str(out / "raised")]) == 1
    assert main([*args, "--output", str(out / "skipped"), "--data.on_error=skip"]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("skipped: ")]
    assert [line.split(": ")[1] for line in sorted(shown)] == [str(scans / "d.png"), "b.png#0"]
    written = out / "skipped"
    if form == "txt":
        texts = [document.text for document in DocumentSource(written, recursive=True)]
    elif form == "page":
        texts = [read_page_xml(path).text for path in written.glob("*.xml")]
    else:
        texts = [document.text for document in (JsonlSource if form == "jsonl" else ParquetSource)(written)]
    assert sorted(texts) == ["text a", "text c"]


def test_the_command_writes_what_it_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "docs.jsonl").write_text('{"id": "one", "text": "some text"}\n{"id": "two", "text": "other text"}\n')
    args = ["data", "convert", "--data.source=JsonlSource", f"--data.source.path={tmp_path / 'docs.jsonl'}"]
    assert main([*args, "--output", str(tmp_path / "out"), "--format", "page", "--shard", "1/2"]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [(name[:3], Path(name).suffix) for name in names] == [("con", ".json"), ("two", ".png"), ("two", ".xml")]
    assert main([*args, "--output", str(tmp_path / "some"), "--format", "txt", "--num", "1"]) == 0
    names = sorted(path.name for path in (tmp_path / "some").iterdir())
    assert [(name[:3], Path(name).suffix) for name in names] == [("con", ".json"), ("one", ".png"), ("one", ".txt")]
    assert (tmp_path / "some" / names[2]).read_text() == "some text\n"
    source = DocumentSource(tmp_path / "some")
    assert [document.text for document in source] == ["some text"]
    assert "2 files: 1 document (1 page), 1 with texts, for 1 of them; all are used" in caplog.messages[-1]
    (tmp_path / "some" / "convert.json").write_text('{"format": "a table of the user\'s"}')
    list(DocumentSource([tmp_path / "some"]))
    assert "not used: 1 tables that name no image here (convert.json)" in caplog.messages[-1]
