import logging
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

from deepsynth.data.rendering import page_cache
from deepsynth.data.rendering.page_cache import CachedRenderer
from deepsynth.data.rendering.renderer import Renderer, TextRenderer
from deepsynth.types import Document, Page
from tests.helpers.degradation_pages import box_page

DRAWN: list[str] = []


@dataclass(frozen=True)
class Drawing(Renderer):
    """Draws boxes, and notes that it did."""

    colour: tuple[int, int, int] = (0, 0, 0)
    fonts: tuple[str, ...] = ()
    pages: int = 2

    def __call__(self, document, rng):
        DRAWN.append(document.id)
        drawn = []
        for number in range(self.pages):
            left = float(rng.integers(1, 40))
            page = box_page([(left, 5.0, left + 20.25, 15.5), (left, 30.0, left + 9.0, 40.0)], 80, 60, self.colour)
            drawn.append(replace(page, text=document.text, number=number, stats={"cut": 1.5}))
        return drawn

    def count_pages(self, document, rng):
        return self.pages


DOCUMENT = Document(id="one", text="half of \u0ba8\u0bbf and \U0001f600 \u00e9\nline", language="ta")


@pytest.fixture(autouse=True)
def drawn():
    DRAWN.clear()
    return DRAWN


def same(one: list[Page], two: list[Page]) -> bool:
    return all(
        a.image.tobytes() == b.image.tobytes() and a.image.mode == b.image.mode and replace(a, image=b.image) == b
        for a, b in zip(one, two, strict=True)
    )


def test_a_page_comes_back_as_it_was_drawn(tmp_path, drawn):
    for colour in ((0, 0, 0), (200, 10, 90)):
        cached = CachedRenderer(Drawing(colour), tmp_path)
        first = cached(DOCUMENT, np.random.default_rng(1))
        second = cached(DOCUMENT, np.random.default_rng(1))
        assert same(first, second)
        assert same(second, Drawing(colour)(DOCUMENT, np.random.default_rng(1)))
    assert len(drawn) == 4


def test_the_generator_is_left_as_drawing_leaves_it(tmp_path):
    plain, drawing, reading = (np.random.default_rng(1) for _ in range(3))
    Drawing()(DOCUMENT, plain)
    CachedRenderer(Drawing(), tmp_path)(DOCUMENT, drawing)
    CachedRenderer(Drawing(), tmp_path)(DOCUMENT, reading)
    assert plain.random() == drawing.random() == reading.random()


def test_one_page_of_several(tmp_path, drawn):
    cached = CachedRenderer(Drawing(), tmp_path)
    second = cached.page(DOCUMENT, np.random.default_rng(1), 1)
    assert same([second], [Drawing()(DOCUMENT, np.random.default_rng(1))[1]])
    drawn.clear()
    assert same([cached.page(DOCUMENT, np.random.default_rng(1), 1)], [second])
    assert same([cached.page(DOCUMENT, np.random.default_rng(1), 0)], cached(DOCUMENT, np.random.default_rng(1))[:1])
    assert cached.count_pages(DOCUMENT, np.random.default_rng(1)) == 2
    assert drawn == []


def test_another_id_is_the_same_page(tmp_path, drawn):
    cached = CachedRenderer(Drawing(), tmp_path)
    cached(DOCUMENT, np.random.default_rng(1))
    cached(replace(DOCUMENT, id="two", target="x"), np.random.default_rng(1))
    assert drawn == ["one"]


@pytest.mark.parametrize(
    ("renderer", "document", "seed"),
    [
        (Drawing((1, 0, 0)), DOCUMENT, 1),
        (Drawing(pages=1), DOCUMENT, 1),
        (Drawing(), replace(DOCUMENT, text="other"), 1),
        (Drawing(), replace(DOCUMENT, language="zh"), 1),
        (Drawing(), DOCUMENT, 2),
    ],
    ids=["option", "other option", "text", "language", "seed"],
)
def test_what_changes_a_pixel_changes_the_key(tmp_path, drawn, renderer, document, seed):
    CachedRenderer(Drawing(), tmp_path)(DOCUMENT, np.random.default_rng(1))
    CachedRenderer(renderer, tmp_path)(document, np.random.default_rng(seed))
    assert len(drawn) == 2


def test_a_changed_font_changes_the_key(tmp_path, drawn):
    font = tmp_path / "fonts" / "my.ttf"
    font.parent.mkdir()
    for content in (b"one", b"two"):
        font.write_bytes(content)
        page_cache._font.cache_clear()
        CachedRenderer(Drawing(fonts=(str(font),)), tmp_path / "cache")(DOCUMENT, np.random.default_rng(1))
    assert len(drawn) == 2


def test_a_changed_library_or_program_changes_the_key(tmp_path, drawn, monkeypatch):
    CachedRenderer(Drawing(), tmp_path)(DOCUMENT, np.random.default_rng(1))
    with monkeypatch.context() as patched:
        patched.setattr(page_cache.PIL, "__version__", "99.0")
        CachedRenderer(Drawing(), tmp_path)(DOCUMENT, np.random.default_rng(1))
    with monkeypatch.context() as patched:
        patched.setattr(page_cache, "_code", lambda renderer: ["other code"])
        CachedRenderer(Drawing(), tmp_path)(DOCUMENT, np.random.default_rng(1))
    assert len(drawn) == 3


@pytest.mark.parametrize(
    "damage", [lambda data: data[:200], lambda data: b"", lambda data: data.replace(b'"text"', b'"tixt"')]
)
def test_a_damaged_file_is_drawn_anew_with_a_warning(tmp_path, drawn, caplog, damage):
    cached = CachedRenderer(Drawing(), tmp_path)
    first = cached(DOCUMENT, np.random.default_rng(1))
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(damage(file.read_bytes()))
    with caplog.at_level(logging.WARNING, "deepsynth"):
        assert same(first, cached(DOCUMENT, np.random.default_rng(1)))
    assert "is damaged" in caplog.text
    caplog.clear()
    assert same(first, cached(DOCUMENT, np.random.default_rng(1)))
    assert caplog.text == ""
    assert len(drawn) == 2


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, "deepsynth"):
        pages = CachedRenderer(Drawing(), tmp_path / "file")(DOCUMENT, np.random.default_rng(1))
    assert same(pages, Drawing()(DOCUMENT, np.random.default_rng(1)))
    assert "is not kept" in caplog.text


def test_a_renderer_without_stable_options_is_refused(tmp_path):
    class Odd(Renderer):
        def __call__(self, document, rng):
            return [Page(Image.new("RGB", (8, 8)), document.text)]

    with pytest.raises(ValueError, match="Odd cannot be cached"):
        CachedRenderer(Odd(), tmp_path)(DOCUMENT, np.random.default_rng(1))


def test_no_half_written_file_stays(tmp_path):
    CachedRenderer(Drawing(), tmp_path)(DOCUMENT, np.random.default_rng(1))
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {".png"}


def test_the_text_renderer_is_cached_and_pickled(tmp_path):
    cached = pickle.loads(pickle.dumps(CachedRenderer(TextRenderer(page_width_px=256, page_height_px=256), tmp_path)))
    document = Document(id="1", text="Some words in a paragraph that is long enough for two lines. " * 2)
    first = cached(document, np.random.default_rng(5))
    assert same(first, cached(document, np.random.default_rng(5)))
    assert first[0].lines
    assert len(list(tmp_path.rglob("*.png"))) == len(first)
