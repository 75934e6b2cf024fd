"""The configuration and weights of an adapter that anybody may have written, before peft sees them.

peft takes what adapter_config.json says: other kinds of adapters, layers to repeat, expressions that never end. Here
only LoRA's shape is taken, and which modules have adapters is read from the names of the tensors.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepsynth.errors import UserError
from deepsynth.io.text import shortened
from deepsynth.modules.adapter import from_file_name, json_object

if TYPE_CHECKING:
    import torch

_FLAGS = ("use_rslora", "use_dora", "fan_in_fan_out", "lora_bias")
#: What describes the adapter, belongs to its training, or is read from the tensors.
_OTHERS = frozenset(
    [
        "peft_type",
        "peft_version",
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "task_type",
        "inference_mode",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "loftq_config",
        "eva_config",
        "corda_config",
        "megatron_core",
        "qalora_group_size",
    ]
)
#: Ways to begin that peft repeats on the base model's weights when it loads the adapter, or that change none of them.
_INITS = (True, False, None, "gaussian", "orthogonal", "eva", "pissa", "olora")
#: Names of modules, with at most one part left open: peft matches them as expressions.
_PATTERN = re.compile(r"\^?[\w.\\]*(\.\*)?[\w.\\]*\$?")
_MODULE = re.compile(r"base_model\.model\.(.+?)(\.base_layer)*\.lora_\w+(\.weight|\.bias)?")


def lora_config_of(adapter: Path, tensors: dict[str, torch.Tensor]) -> Any:
    """Return peft's ``LoraConfig`` of an adapter's folder.

    Args:
        adapter: folder with adapter_config.json.
        tensors: of the adapter's file, by the names that the model has.

    Raises:
        UserError: for a value that cannot be, or a setting that is not supported, naming file and key.
    """
    from peft import LoraConfig

    file = adapter / "adapter_config.json"
    settings = json_object(file)
    if settings.get("peft_type") != "LORA":
        raise _wrong(file, "peft_type", settings.get("peft_type"), "LORA")
    taken: dict[str, Any] = {"inference_mode": True, "task_type": "CAUSAL_LM"}
    for key, value in settings.items():
        if key in ("r", "lora_alpha"):
            taken[key] = _number(file, key, value, whole=key == "r")
        elif key in ("rank_pattern", "alpha_pattern"):
            taken[key] = _patterns(file, key, value)
        elif key == "target_parameters":
            taken[key] = _names(file, key, value)
        elif key in _FLAGS:
            if not isinstance(value, bool):
                raise _wrong(file, key, value, "true or false")
            taken[key] = value
        elif key == "init_lora_weights":
            if not isinstance(value, (bool, str, type(None))) or value not in _INITS:
                raise _wrong(file, key, value, f"true or one of {', '.join(map(str, _INITS[3:]))}")
            taken[key] = value
        elif key not in _OTHERS and value not in (None, False, [], {}, "none", ""):
            raise UserError(
                f"{file}: {shortened(repr(key))} is {shortened(repr(value))}, which cannot be exported; an adapter is "
                "LoRA on linear layers and experts"
            )
    held = {parameter.rpartition(".")[0] for parameter in taken.get("target_parameters") or ()}
    modules = {found[1] for name in tensors if (found := _MODULE.fullmatch(name))}
    taken["target_modules"] = sorted(m for m in modules if not any(f".{m}".endswith(f".{h}") for h in held))
    named = settings.get("target_modules")
    if isinstance(named, list):
        stray = [m for m in taken["target_modules"] if not any(f".{m}".endswith(f".{name}") for name in named)]
        if stray:
            raise _wrong(file, "target_modules", named, f"what the tensors are named after, such as {stray[0]}")
    return LoraConfig(**taken)


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of an adapter's file by the names that the model has.

    Raises:
        UserError: when the file is missing, damaged, or holds numbers that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.exists():
        raise UserError(f"adapter is {file.parent}, which has no adapter_model.safetensors; give a peft folder")
    try:
        stored = {from_file_name(name): tensor for name, tensor in load_file(file).items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} cannot be read ({error}); it is truncated or damaged") from error
    for name, tensor in stored.items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{file}: {shortened(name)} holds numbers that are not finite; the training has diverged")
    return stored


def _number(file: Path, key: str, value: Any, *, whole: bool) -> int | float:
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
        raise _wrong(file, key, value, "a whole number above 0" if whole else "a number above 0")
    return value


def _patterns(file: Path, key: str, value: Any) -> dict[str, int | float]:
    if not isinstance(value, dict):
        raise _wrong(file, key, value, "an object of numbers by the names of modules")
    for name in value:
        if not _PATTERN.fullmatch(name):
            raise _wrong(file, key, name, "the names of modules, with .* at most once")
    return {name: _number(file, f"{key}.{name}", found, whole=key == "rank_pattern") for name, found in value.items()}


def _names(file: Path, key: str, value: Any) -> list[str] | None:
    if value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        return value
    raise _wrong(file, key, value, "a list of names")


def _wrong(file: Path, key: str, value: Any, wanted: str) -> UserError:
    return UserError(f"{file}: {shortened(key)} is {shortened(repr(value))}; it must be {wanted}")
