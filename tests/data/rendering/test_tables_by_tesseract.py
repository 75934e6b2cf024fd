"""An independent program finds in every cell of a drawn table what the table says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.data.typesetting.paragraphs import TableStyle
from deepsynth.types import Document

WORDS = ("harbor", "crane", "gauge", "tide", "quay", "vessel", "cargo", "storm", "anchor", "lantern", "ledger", "mast")


def table(rng: np.random.Generator) -> str:
    """Return a table of words, names and numbers with a head of two rows."""
    head = "<tr><th rowspan=2>Name</th><th colspan=2>Amount</th><th rowspan=2>Remark</th></tr>"
    head += "<tr><th>first</th><th>second</th></tr>"
    rows = ""
    for _ in range(6):
        name, one, two = (str(rng.choice(WORDS)) for _ in range(3))
        amounts = f"<td align=right>{rng.integers(100, 99_999):,}</td><td align=right>{rng.integers(10, 999) / 10}</td>"
        rows += f"<tr><td>{name.title()}</td>{amounts}<td>{one} {two}</td></tr>"
    return f"<table>{head}{rows}</table>"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tesseract") is None, reason="needs tesseract (Debian package tesseract-ocr)")
def test_tesseract_finds_the_text_of_every_cell(tmp_path: Path) -> None:
    wrong: list[tuple[str, str]] = []
    cells = 0
    for number, style in enumerate(get_args(TableStyle)):
        options: dict[str, Any] = {"table_styles": (style,), "font_size_px": 24.0, "system_fonts": False}
        renderer = TextRenderer(markup="markdown", **options)
        for seed in range(2):
            rng = np.random.default_rng([number, seed])
            (page,) = renderer(Document("d", table(rng)), rng)
            crops = []
            for line in page.lines:
                left, top, right, bottom = map(int, line.box)
                # Rules are 8 pixels from the text; a little less shows none.
                crops.append(page.image.crop((left - 6, top - 6, right + 6, bottom + 6)))
            found = transcribed(crops, tmp_path)
            cells += len(crops)
            wrong += [(line.text, text) for line, text in zip(page.lines, found, strict=True) if line.text != text]
    assert cells == 4 * 2 * (5 + 6 * 4)
    assert len(wrong) <= 0.02 * cells, wrong


def transcribed(crops: list[Image.Image], folder: Path) -> list[str]:
    """Return what tesseract makes of each image of a line; a list of files is one call."""
    names = []
    for number, crop in enumerate(crops):
        framed = Image.new("RGB", (crop.width + 40, crop.height + 40), "white")
        framed.paste(crop, (20, 20))
        framed.save(folder / f"{number}.png", dpi=(100, 100))
        names.append(str(folder / f"{number}.png"))
    (folder / "list.txt").write_text("\n".join(names))
    command = ["tesseract", str(folder / "list.txt"), "-", "--psm", "7"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [" ".join(page.split()) for page in output.split("\f")[: len(crops)]]
