# %% [markdown]
# # A new script: Persian from fonts to CER
#
# The built-in model knows Latin letters only. Here it sees Persian for the first time. Pages are drawn from texts, the
# model is tuned on them, and the character error rate is measured before and after. You need libfribidi (Debian:
# `libfribidi0`). The model is tiny and the training short: it learns a little, not Persian. With DeepSeek-OCR and a GPU
# the same steps go much further.

# %%
import json
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from matplotlib import pyplot as plt

from deepsynth import PeftModule, TextImageDataModule
from deepsynth.data import JsonlSource, TextRenderer
from deepsynth.data.text.cleaning import TextCleaning
from deepsynth.inference import Gallery
from deepsynth.modules import GenerationSettings, LoraSettings

STEPS = 150
seed_everything(0)

# %% [markdown]
# ## Texts
#
# Short lines of frequent words. With your own texts, write a JSON line with `id`, `text` and `language` for each.

# %%
WORDS = [
    "سلام",
    "دنیا",
    "کتاب",
    "خانه",
    "مدرسه",
    "آب",
    "نان",
    "روز",
    "شب",
    "دوست",
    "خوب",
    "بزرگ",
    "کوچک",
    "سفید",
    "سیاه",
    "شهر",
    "راه",
    "دست",
    "چشم",
    "باران",
]
rng = np.random.default_rng(0)
rows = [{"id": str(number), "text": " ".join(rng.choice(WORDS, 3)), "language": "fa"} for number in range(400)]
Path("persian.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")

# %% [markdown]
# ## Pages
#
# Look at them first. Letters join, lines run from right to left, and a character without a font would be an error.

# %%
source = JsonlSource("persian.jsonl")
renderer = TextRenderer(page_width_px=256, page_height_px=256, margin_px=12, font_size_px=(16.0, 22.0))
documents = [document for _, document in zip(range(4), source, strict=False)]
Gallery([renderer(document, np.random.default_rng(0))[0] for document in documents])

# %% [markdown]
# ## Before

# %%
data = TextImageDataModule(
    source,
    renderer,
    model_name="deepsynth/tiny",
    text=TextCleaning(line_breaks="source"),
    batch_size=4,
    eval_batch_size=8,
    max_eval_documents=8,
)
module = PeftModule(
    "deepsynth/tiny",
    lora=LoraSettings(attention=True, vision=True, projector=True, rank=32),
    generation=GenerationSettings(max_new_tokens=80),
    optimizer=lambda params: torch.optim.AdamW(params, lr=2e-3),
    warmup_steps=5,
)
trainer = Trainer(
    max_steps=STEPS,
    val_check_interval=STEPS,
    check_val_every_n_epoch=None,
    num_sanity_val_steps=0,
    gradient_clip_val=1.0,
    logger=False,
    enable_checkpointing=False,
)
(before,) = trainer.validate(module, data)

# %% [markdown]
# ## Training, and after

# %%
trainer.fit(module, data)
after = trainer.callback_metrics
print(f"CER before {before['val/cer']:.3f}, after {after['val/cer']:.3f}")
print(f"loss before {before['val/loss']:.3f}, after {after['val/loss']:.3f}")
assert after["val/loss"] < before["val/loss"]

# %%
figure, panels = plt.subplots(1, 2, figsize=(6, 3))
for axes, name in zip(panels, ("val/cer", "val/loss"), strict=True):
    axes.bar(["before", "after"], [float(before[name]), float(after[name])])
    axes.set_title(name)
figure.savefig("before_and_after.png", bbox_inches="tight")
