"""An adapter as tensors in a checkpoint and as a plain peft folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn


def adapter_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the trainable parameters by their names in ``module``, detached; nothing of the frozen base."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def check_adapter_keys(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Compare a checkpoint's adapter with the one that the model has.

    Raises:
        ValueError: listing keys that are missing, unexpected or of another shape.
    """
    own = {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    misshaped = [
        f"{name} is {tuple(state[name].shape)}, not {own[name]}"
        for name in sorted(own.keys() & state.keys())
        if tuple(state[name].shape) != own[name]
    ]
    complaints = [
        f"{len(names)} {kind} ({', '.join(names[:2])}{', …' if len(names) > 2 else ''})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped))
        if names
    ]
    if complaints:
        raise ValueError(
            f"the checkpoint's adapter does not fit this model: {'; '.join(complaints)}; "
            "use the model and the model.lora_* settings that it was trained with"
        )


def write_adapter(model: Any, processor: Any, settings: str, folder: Path) -> None:
    """Write adapter_model.safetensors, adapter_config.json, the processor and ``deepsynth.json`` into ``folder``.

    peft's own ``save_pretrained`` asks the Hub for the base model's configuration; nothing here needs a network. The
    files are written into a new folder that takes the old one's place when it is complete.

    Args:
        model: a peft model.
        processor: a Hugging Face processor.
        settings: JSON text for ``deepsynth.json``.
        folder: is made, or replaced.

    Raises:
        OSError: when the disk is full or the folder cannot be written; what was there still is.
    """
    from peft import get_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        save_file({name: t.detach().cpu().contiguous() for name, t in state.items()}, new / "adapter_model.safetensors")
        model.peft_config["default"].save_pretrained(str(new))
        processor.save_pretrained(str(new))
        (new / "deepsynth.json").write_text(settings)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)  # a disk that is full needs the room
        if isinstance(error, SafetensorError):
            raise OSError(f"the adapter could not be written to {folder}: {error}") from error
        raise
    replace_folder(new, folder)


def replace_folder(new: Path, folder: Path) -> None:
    """Put a complete folder in the place of another one, or of none."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)
