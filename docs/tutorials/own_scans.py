# %% [markdown]
# # From a folder of scans to text files
#
# You have a folder of scans with the texts of some of them, and new scans without texts. This tutorial makes such a
# folder first, so that it runs anywhere; with your own scans leave the first cell out.
# It took 165 seconds on two cores that other programs used too.

# %%
import csv
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from deepsynth.__main__ import main
from deepsynth.data import PageAugmenter, TextRenderer
from deepsynth.inference import Gallery
from deepsynth.types import Document

STEPS = 60
WORDS = ["the", "letter", "of", "May", "was", "sent", "to", "Mr. Smith", "and", "arrived", "in", "London", "with", "12"]


def make_scan(folder: Path, number: int, *, with_text: bool) -> None:
    """Write a page that looks scanned, and its text beside it."""
    rng = np.random.default_rng(number)
    text = " ".join(rng.choice(WORDS, 12))
    renderer = TextRenderer(page_width_px=256, page_height_px=256, margin_px=12, font_size_px=13.0)
    (page,) = renderer(Document(str(number), text), rng)
    folder.mkdir(exist_ok=True)
    PageAugmenter("scan")(page, rng).image.save(folder / f"{number:03}.png")
    if with_text:
        (folder / f"{number:03}.txt").write_text(page.text)


for number in range(24):
    make_scan(Path("scans"), number, with_text=True)
for number in range(24, 28):
    make_scan(Path("new"), number, with_text=False)

# %% [markdown]
# ## Look at the data
#
# In a terminal this is `deepsynth data check --config finetune --config model/tiny --data.source.path=scans`. It names
# every file that cannot be used.

# %%
config = ["--config", "finetune", "--config", "model/tiny", "--data.source.path=scans"]
assert main(["data", "check", *config, "--output", "check"]) == 0

# %% [markdown]
# ## Train
#
# The configuration `finetune` is for DeepSeek-OCR; `model/tiny` puts the built-in model in its place.

# %%
assert main(["fit", *config, f"--trainer.max_steps={STEPS}", "--trainer.enable_progress_bar=false"]) == 0

# %% [markdown]
# `runs/finetune/report.html` shows the learning curves. The figures behind them are in `metrics.csv`.

# %%
with open("runs/finetune/metrics.csv", newline="") as file:
    rows = [(int(row["step"]), float(row["val/loss"])) for row in csv.DictReader(file) if row["val/loss"]]
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(*zip(*rows, strict=True), marker="o")
axes.set(xlabel="step", ylabel="loss of the held-out scans")
figure.savefig("held_out_loss.png", bbox_inches="tight")

# %% [markdown]
# ## Predict the new scans
#
# Model, prompt and resolution are those of the run. `results/` has a text file for each scan.

# %%
args = ["--ckpt_path", "runs/finetune", "--output", "results", "--format", "txt"]
assert main(["predict", "new", *args, "--trainer.enable_progress_bar=false"]) == 0

# %%
files = sorted(Path("new").glob("*.png"))
Gallery([Image.open(file) for file in files], [Path(f"results/{file.stem}.txt").read_text() for file in files])
