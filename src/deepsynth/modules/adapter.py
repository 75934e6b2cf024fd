"""An adapter as tensors in a checkpoint and as a plain peft folder."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn

from deepsynth._version import __version__
from deepsynth.distributed.sharding import is_sharded, scatter_after_evaluation, whole_on_rank_zero
from deepsynth.errors import UserError
from deepsynth.io.files import atomic_folder, reason_and_remedy
from deepsynth.models.lora_init import plain_lora
from deepsynth.models.markup import MARKUP_TOKENS
from deepsynth.modules.settings import ADAPTER_SHAPE, check_foreign_settings, stored_settings


def adapter_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the trainable parameters by their names in ``module``, detached; nothing of the frozen base.

    Where they are sharded, all processes must call this, and rank zero alone gets them.
    """
    if is_sharded(module):
        scatter_after_evaluation(module)  # what validation gathered is a copy, in the dtype that is computed in
    return whole_on_rank_zero({name: p.detach() for name, p in module.named_parameters() if p.requires_grad})


def append_markup_rows(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Give a checkpoint the rows of markup tokens that were appended to the model's vocabulary since it was written.

    Its embedding and head get the model's own rows, gradients and the optimizer's averages zeros; the rest stays.

    Args:
        module: with the model.
        checkpoint: Lightning's, changed in place.
    """
    state = checkpoint["state_dict"]
    grown: dict[tuple[int, ...], int] = {}
    for name, own in module.named_parameters():
        old = state.get(name)
        if old is None or not name.endswith((".embed_tokens.weight", "lm_head.weight")):
            continue
        missing = len(own) - len(old)
        if old.shape[1:] == own.shape[1:] and 0 < missing <= len(MARKUP_TOKENS):
            state[name] = torch.cat([old, own.detach()[len(old) :].to(old)])
            grown[tuple(old.shape)] = missing
    states = [averages for found in checkpoint.get("optimizer_states", []) for averages in found["state"].values()]
    for tensors in (*states, checkpoint["deepsynth"].get("partial_gradients", {})):
        for name, value in tensors.items():
            if isinstance(value, torch.Tensor) and (missing := grown.get(tuple(value.shape), 0)):
                tensors[name] = torch.cat([value, value.new_zeros(missing, *value.shape[1:])])
    if grown:
        rank_zero_info(
            f"the checkpoint is older than {max(grown.values())} markup tokens of the model, whose own rows stay"
        )


def check_adapter_keys(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Compare a checkpoint's adapter with the one that the model has.

    Raises:
        UserError: listing keys that are missing, unexpected or of another shape.
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
        raise UserError(
            f"the checkpoint's adapter does not fit this model: {'; '.join(complaints)}; "
            "use the model and the model.lora settings that it was trained with"
        )


# Adapter files name the decoder as the published checkpoints do. peft 0.21 passes every name through transformers'
# renaming of published checkpoints, whose pattern for DeepSeek-OCR-2 also matches in "language_model.layers." and
# doubles it: a file with the model's own names loads in plain peft with every key missing. Published names are what
# the renaming is made for.
_PUBLISHED_NAME = re.compile(r"^(base_model\.model\.model\.)(?=(layers|embed_tokens|norm)\.)")


def from_file_name(name: str) -> str:
    """Return the name in the model of a parameter in an adapter file, whichever of the two namings the file has."""
    return _PUBLISHED_NAME.sub(r"\1language_model.", name)


#: CLIP's layers in DeepSynth's classes of DeepSeek-OCR, and in transformers' of the same layers.
_CLIP_LAYERS = (".vision_encoder.layers.", ".vision_encoder.encoder.layers.")


def by_own_names(tensors: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Return an adapter's tensors by the names of a model's tree of modules, whichever of two trees they come from.

    DeepSeek-OCR's classes in DeepSynth and transformers' (Unlimited-OCR's, and what it may bring for DeepSeek-OCR) name
    CLIP's layers in two ways; an adapter of either loads into both.

    Args:
        tensors: by the names of one of the trees.
        model: with or without adapters.
    """
    ours, theirs = _CLIP_LAYERS
    names = [f".{name}." for name, _ in model.named_modules()]
    if any(theirs in name for name in names):
        return {name.replace(ours, theirs): tensor for name, tensor in tensors.items()}
    if any(ours in name for name in names):
        return {name.replace(theirs, ours): tensor for name, tensor in tensors.items()}
    return dict(tensors)


def read_adapter(model: Any, folder: Path, adapter_name: str = "default") -> None:
    """Load the weights of a plain peft folder into an adapter that ``model`` has, by peft's name.

    Raises:
        UserError: when the folder holds no adapter, or one that does not fit, with the keys.
    """
    from peft import get_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / "adapter_model.safetensors"
    try:
        state = {from_file_name(name): tensor for name, tensor in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"model.adapter: {file} cannot be read as an adapter: {error}") from error
    state = by_own_names(state, model)
    own = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    wrong = sorted(
        {name for name in own.keys() | state.keys() if name not in own or name not in state}
        | {name for name in own.keys() & state.keys() if own[name].shape != state[name].shape}
    )
    if wrong:
        raise UserError(
            f"model.adapter: {folder} does not fit the model and its model.lora settings: {len(wrong)} keys are "
            f"missing, unexpected or of another shape ({', '.join(wrong[:2])}{', …' if len(wrong) > 2 else ''})"
        )
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in state.items():
            parameters[re.sub(r"(lora_\w+?)(\.weight)?$", rf"\1.{adapter_name}\2", name)].copy_(tensor)


def adapter_record(module: Any) -> str:
    """Return the text of ``deepsynth.json``: what a module has trained, and how.

    Args:
        module: a :class:`~deepsynth.modules.base.DeepSynthModule`.
    """
    record = {
        "deepsynth": __version__,
        "module": type(module).__name__,
        **module.prompt_record.state(),
        "longest_target": module.text_generator.longest_target,
        "step": module.global_step,
        **dict(module.hparams),
        "lora": asdict(module.lora.as_stored()),
    }
    return json.dumps(record, indent=2) + "\n"


def recorded_longest_target(folder: Path) -> int:
    """Return the tokens of the longest target that an adapter was trained with; 0 where its folder does not say.

    The number may come from a stranger: what no decoder has positions for counts as not said.
    """
    file = folder / "deepsynth.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    longest = found.get("longest_target") if isinstance(found, dict) else None
    return longest if isinstance(longest, int) and 0 < longest <= 2**16 else 0


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Return the settings that an adapter's weights depend on, by their whole names (``lora.rank``, ``model_name``).

    ``deepsynth.json`` says them; for another program's folder, peft's configuration gives rank and alpha. An adapter is
    a stranger's file: what else it says, such as folders to write to, is for its reader and sets nothing.

    Raises:
        UserError: when the folder holds no adapter, or a file in it is broken or has a value of another type.
    """
    config = folder / "adapter_config.json"
    if not config.is_file():
        raise UserError(f"{folder} holds no adapter: there is no adapter_config.json in it")
    own = folder / "deepsynth.json"
    if own.is_file():
        stored = stored_settings(json_object(own))
        found = {name: stored[name] for name in ("model_name", *ADAPTER_SHAPE) if name in stored}
    else:
        peft = json_object(config)
        names = {"lora.rank": "r", "lora.alpha": "lora_alpha", "lora.rslora": "use_rslora", "lora.dora": "use_dora"}
        found = {name: peft[key] for name, key in names.items() if key in peft}
    check_foreign_settings(found, own if own.is_file() else config)
    return found


def json_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        UserError: for anything else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error}); replace it") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: a JSON {type(found).__name__}; it must be an object ({{...}})")
    return found


def write_adapter(module: Any, folder: Path, trained: dict[str, torch.Tensor]) -> None:
    """Write adapter_model.safetensors, adapter_config.json, the processor and ``deepsynth.json`` into ``folder``.

    peft's own ``save_pretrained`` asks the Hub for the base model's configuration; nothing here needs a network. The
    files are written into a new folder that takes the old one's place when it is complete.

    Args:
        module: a :class:`~deepsynth.modules.base.DeepSynthModule` with a peft model.
        folder: is made, or replaced.
        trained: what :func:`adapter_state` returned for ``module``.

    Raises:
        UserError: when the disk is full or the folder cannot be written; what was there still is.
    """
    from peft import get_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    model, stored, family = module.model, module.lora.as_stored(), module.family
    named = {name.removeprefix("model."): tensor for name, tensor in trained.items()}
    if module.lora_start:
        named = plain_lora(named, module.lora_start, module.lora.rank)
    state = get_peft_model_state_dict(model, named, save_embedding_layers=False)
    tensors = {family.to_file_name(name): tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    config = copy.copy(model.peft_config["default"])
    config.r, config.lora_alpha = stored.rank, stored.scale
    config.inference_mode = True  # as peft's own save_pretrained: whoever loads it does not train it by accident
    try:
        with atomic_folder(folder) as new:
            save_file(tensors, new / "adapter_model.safetensors", metadata={"format": "pt"})
            config.save_pretrained(str(new))
            module.processor.save_pretrained(str(new))
            (new / "deepsynth.json").write_text(adapter_record(module), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder}: the adapter cannot be written {reason_and_remedy(error, 'another folder')}"
        ) from error


class PromptRecord:
    """The distinct prompts of the data, the first few in the order in which they came; stored with the adapter."""

    #: Most prompts that are kept: rows that all have their own would fill the record.
    most = 20

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.trained: list[str] = []

    def add(self, prompts: Sequence[str]) -> None:
        """Keep the prompts of a batch; warn of those that a loaded checkpoint was not trained with."""
        for prompt in dict.fromkeys(prompts):
            if prompt in self.prompts or len(self.prompts) >= self.most:
                continue
            if self.trained and len(self.trained) < self.most:
                trained = ", ".join(map(repr, self.trained))
                rank_zero_warn(f"the adapter was trained with the prompt {trained}; the data's is now {prompt!r}")
            self.prompts.append(prompt)

    def state(self) -> dict[str, Any]:
        """Return the first prompt, ``None`` before the first batch, and all."""
        return {"prompt": self.prompts[0] if self.prompts else None, "prompts": list(self.prompts)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take the prompts of a checkpoint."""
        first = state["prompt"]
        self.prompts = list(state.get("prompts") or ([] if first is None else [first]))
        self.trained = list(self.prompts)
