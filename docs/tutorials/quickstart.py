# %% [markdown]
# # The quickstart in Python
#
# The built-in model has only seen dark text on light pages. Here it learns light text on a dark background.
# It needs no GPU and takes minutes on two cores.

# %%
import csv
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from matplotlib import pyplot as plt

from deepsynth import PeftModule, Predictor, TextImageDataModule
from deepsynth.data import PythonDocsSource, TextRenderer
from deepsynth.data.text.cleaning import TextCleaning
from deepsynth.inference import Gallery
from deepsynth.modules import GenerationSettings, LoraSettings

STEPS = 150
seed_everything(0)

# %% [markdown]
# ## The pages
#
# The texts are the documentation that comes with Python. A renderer draws them, with colors as in a terminal.

# %%
source = PythonDocsSource(task="transcribe", min_chars=60, max_chars=200)
renderer = TextRenderer(
    page_width_px=256,
    page_height_px=256,
    margin_px=10,
    font_size_px=(10.0, 13.0),
    fonts=("DejaVu Sans Mono", "DejaVu Sans"),
    text_color=("white", "#d4d4d4", "#9cdcfe"),
    background_color=("black", "#1e1e1e", "#002b36"),
)
documents = [document for _, document in zip(range(4), source, strict=False)]
pages = [renderer(document, np.random.default_rng(number))[0] for number, document in enumerate(documents)]
Gallery(pages)

# %% [markdown]
# ## Before
#
# What does the model make of these pages? Nothing yet.

# %%
before = Predictor(model_name="deepsynth/tiny", max_new_tokens=210).predict([page.image for page in pages])
Gallery(pages, before)

# %% [markdown]
# ## Training
#
# The look of the letters is new, so the adapters go on the vision encoder and the projector.

# %%
data = TextImageDataModule(
    source,
    renderer,
    model_name="deepsynth/tiny",
    text=TextCleaning(line_breaks="source"),
    batch_size=2,
    eval_batch_size=8,
    max_eval_documents=8,
)
module = PeftModule(
    "deepsynth/tiny",
    lora=LoraSettings(attention=False, vision=True, projector=True, rank=32),
    generation=GenerationSettings(max_new_tokens=210),
    optimizer=lambda params: torch.optim.AdamW(params, lr=2e-3),
    schedule="linear",
    warmup_steps=5,
)
trainer = Trainer(
    max_steps=STEPS,
    val_check_interval=STEPS,
    check_val_every_n_epoch=None,
    gradient_clip_val=1.0,
    num_sanity_val_steps=0,
    logger=CSVLogger(".", name="logs"),
    log_every_n_steps=1,
    enable_checkpointing=False,
)
trainer.fit(module, data)
print({name: round(value.item(), 3) for name, value in trainer.callback_metrics.items() if name.startswith("val/")})

# %% [markdown]
# The loss of each batch is logged, so the learning curve can be drawn.

# %%
with open(Path(trainer.logger.log_dir) / "metrics.csv", newline="") as file:
    curve = [(int(row["step"]), float(row["train/loss"])) for row in csv.DictReader(file) if row["train/loss"]]
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(*zip(*curve, strict=True))
axes.set(xlabel="step", ylabel="loss of the batch", yscale="log")
figure.savefig("learning_curve.png", bbox_inches="tight")

# %% [markdown]
# ## After
#
# The adapter is a plain peft folder. One call predicts an image with it.

# %%
module.save_adapter(Path("adapter"))
after = Predictor("adapter", max_new_tokens=210).predict([page.image for page in pages])
Gallery(pages, after)
