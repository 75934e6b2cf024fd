"""The commands of the first pages, and the files that they speak of."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from deepsynth.data import TextRenderer
from deepsynth.types import Document

ROOT = Path(__file__).parents[2]
FIRST_PAGES = [ROOT / "README.md", ROOT / "docs/getting-started.md"]


def commands(page: Path) -> list[str]:
    """Return the lines of a page's shell blocks."""
    found = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    return [line for block in found for line in block.splitlines() if line.strip()]


def prepare(folder: Path) -> None:
    """Lay out the scans, the new scans and the texts that the commands name."""
    renderer = TextRenderer(page_width_px=256, page_height_px=256, margin_px=10, font_size_px=12.0)
    for name in ("scans/page1", "scans/page2", "scans/page3", "new/a"):
        text = f"This is {name}."
        (page,) = renderer(Document(name, text), np.random.default_rng(0))
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        page.image.save(path)
        if not name.startswith("new"):
            path.with_suffix(".txt").write_text(text)
    (folder / "docs.jsonl").write_text(
        "".join(f'{{"id": "{i}", "text": "Document number {i} is short."}}\n' for i in range(40))
    )


def shortened(line: str) -> list[str]:
    """Return options that make a command short."""
    if line.startswith(("deepsynth fit", "deepsynth quickstart")):
        short = ["--trainer.max_steps=1", "--model.generation.max_new_tokens=4", "--trainer.enable_progress_bar=false"]
        return [*short, *(["--data.max_eval_documents=1"] if "quickstart" in line else ["--run_name=finetune"])]
    return ["--model.generation.max_new_tokens=4"] if line.startswith("deepsynth predict") else []
