"""Builders for training tests: small pages, a small model."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import SingleDeviceStrategy

from deepsynth import PeftModule, TextImageDataModule
from deepsynth.data import JsonlSource, TextRenderer
from deepsynth.models.lora import LoraSettings
from deepsynth.modules.settings import EngineSettings, GenerationSettings

PAGE = {"page_width_px": 384, "page_height_px": 384, "margin_px": 10, "font_size_px": 14}


def make_data(path: Path, **kwargs: Any) -> TextImageDataModule:
    settings: dict[str, Any] = {"batch_size": 2, "val_fraction": 0.0, "test_fraction": 0.0, "num_workers": 0}
    return TextImageDataModule(JsonlSource(str(path)), TextRenderer(**PAGE), **{**settings, **kwargs})


def grouped(**settings: Any) -> dict[str, Any]:
    """Put settings of a module into their groups by their names: ``rank`` into ``lora``, ``loss`` into ``engine``, …"""
    groups = {"lora": LoraSettings, "engine": EngineSettings, "generation": GenerationSettings}
    found: dict[str, Any] = {}
    for group, kind in groups.items():
        own = {field.name: settings.pop(field.name) for field in fields(kind) if field.name in settings}
        if own:
            found[group] = kind(**own)
    return {**found, **settings}


def make_module(seed: int = 0, lr: float = 2e-3, **kwargs: Any) -> PeftModule:
    seed_everything(seed)
    settings: dict[str, Any] = {"max_new_tokens": 48, "schedule": "constant", **kwargs}
    return PeftModule(optimizer=lambda params: torch.optim.AdamW(params, lr=lr), **grouped(**settings))


def make_trainer(folder: Path, **kwargs: Any) -> Trainer:
    settings: dict[str, Any] = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        **kwargs,
    }
    return Trainer(**settings)


class RankOf(SingleDeviceStrategy):
    """A single process that takes itself for one of several ranks; nothing is communicated."""

    def __init__(self, rank: int, ranks: int) -> None:
        super().__init__(device=torch.device("cpu"))
        self.global_rank, self.world_size = rank, ranks

    @property
    def is_global_zero(self) -> bool:
        return self.global_rank == 0


class LoggingModule(LightningModule):
    """A module outside of a loop, where Lightning refuses to log: it keeps what callbacks log."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: dict[str, float] = {}

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        self.logged[name] = float(value)

    def log_dict(self, dictionary: Any, *args: Any, **kwargs: Any) -> None:
        for name, value in dictionary.items():
            self.log(name, value)
