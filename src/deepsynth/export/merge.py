"""Merge an adapter into its base model, write it, read it back, and prove that it is the same model.

    deepsynth export runs/quickstart/adapter --output merged --format published

The adapter is a plain peft folder. What is written stands alone: weights, configuration, tokenizer and processor, in
transformers' format or in the published one of DeepSeek-OCR, which the original code, vLLM and SGLang load.

Proved are: only the adapter's own weights changed, and every one of them did; a page gives the same logits and the same
greedy text before the merge and after reading back. The folder appears only when all of that holds.
"""

from __future__ import annotations

import gc
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deepsynth.errors import UserError
from deepsynth.export.foreign import lora_config_of, read_tensors
from deepsynth.export.verification import (
    Agreement,
    adapted_weights,
    answer_of,
    check_answers,
    check_weights,
    probe_inputs,
    some_keys,
    weight_digests,
)
from deepsynth.io.files import atomic_folder, explain_write_errors

if TYPE_CHECKING:
    import torch

Format = Literal["native", "published"]

_CARRIED = ("*.json", "*.py", "*.txt", "*.model", "LICENSE*")


@dataclass(frozen=True)
class ExportReport:
    """The files that an export wrote and the checks that they passed.

    Attributes:
        folder: the merged model.
        format: ``native`` or ``published``.
        dtype: of the weights.
        changed: weight tensors that the adapter changed.
        unchanged: all others, bit for bit those of the base.
        agreement: of the logits and the greedy text for the probe page, reloaded against unmerged. Fewer tokens are the
            same than were written only in 16 bits, when rounding decided between two that were as likely.
        missing_code: files of the original code that the published configuration names and the base does not have.
    """

    folder: Path
    format: Format
    dtype: str
    changed: int
    unchanged: int
    agreement: Agreement
    missing_code: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the lines that the command prints."""
        found = self.agreement
        most = f", at most {found.max_difference:.1e}"
        if math.isfinite(found.max_tolerance):
            most += f" (tolerance {found.max_tolerance:.1e})"
        text = f"the greedy text is the same, {found.new_tokens} tokens"
        if found.same_tokens < found.new_tokens:
            text = (
                f"the greedy text is the same for {found.same_tokens} of {found.new_tokens} tokens; then rounding "
                "decided between two that were about as likely"
            )
        return (
            f"{self.folder}: {self.format} format, {self.dtype}\n"
            f"PASS: what was written is the model with its adapter, read back and compared on a page\n"
            f"  {self.changed} weights changed, all of the adapter's; {self.unchanged} are the base's, bit for bit\n"
            f"  logits differ by {found.mean_difference:.1e} on average (tolerance for {self.dtype} "
            f"{found.mean_tolerance:.1e}){most}\n"
            f"  {text}"
        ) + (
            f"\n  config.json names {', '.join(self.missing_code)}, which the base does not have: the original code "
            "and whatever loads it need these files from the published repository"
            if self.missing_code
            else ""
        )


def export_model(
    adapter: Path,
    *,
    output: Path,
    base: str | None = None,
    format: Format = "native",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "cpu",
    max_shard_size: str = "5GB",
) -> ExportReport:
    """Merge an adapter, write the model, and verify what was written.

    Args:
        adapter: peft folder.
        output: folder to make; must not exist or be empty.
        base: model that the adapter belongs to; by default the one that the adapter names.
        format: ``native`` (transformers) or ``published`` (DeepSeek-OCR's original keys and config).
        dtype: of the written weights; ``auto`` keeps the base's.
        device: where to compute.
        max_shard_size: of one weight file.

    Raises:
        UserError: for an adapter that does not belong to the base (with its keys), a format that the model does not
            have, or, beginning with FAIL, a merged model that is not the unmerged one.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from deepsynth.models.registry import family_of, load_pretrained, resolve_model_name

    adapter, output = Path(adapter), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"output is {output}, which is there already; name a new folder")
    base = base or _base_of(adapter)
    source = resolve_model_name(base)
    kind = "auto" if dtype == "auto" else getattr(torch, dtype)
    model = load_pretrained(AutoModelForImageTextToText, base, dtype=kind).to(device).eval()
    if format == "published":
        family_of(model.config).refuse("published", "format is 'published'", "use format=native")
    processor = load_pretrained(AutoProcessor, base)
    inputs = probe_inputs(base, device)
    before = weight_digests(model)
    adapted = _with_adapter(model, adapter, base)
    _quantize_for_loftq(adapted, adapter)
    expected, allowed = adapted_weights(adapted)
    written = str(model.dtype).removeprefix("torch.")
    unmerged = answer_of(adapted, inputs)
    try:
        merged = adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(f"{adapter} cannot be merged in {written}: {error}") from error
    with explain_write_errors(output, "the model"), atomic_folder(output) as part:
        try:
            _write(merged, processor, source, part, format, max_shard_size)
        except SafetensorError as error:  # how its writer says that the disk is full
            raise UserError(f"{output}: the weights cannot be written ({error}); make room") from error
        del merged, adapted, model
        gc.collect()
        again = load_pretrained(AutoModelForImageTextToText, str(part), dtype=kind).to(device).eval()
        changed = {name for name, digest in weight_digests(again).items() if digest != before[name]}
        check_weights(changed, expected, allowed)
        reloaded = answer_of(again, probe_inputs(str(part), device))
        measured = check_answers(unmerged, reloaded, written)
        missing = _missing_code(part) if format == "published" else ()
    return ExportReport(output, format, written, len(changed), len(before) - len(changed), measured, missing)


def _base_of(adapter: Path) -> str:
    """Return the base model that the adapter names."""
    from deepsynth.modules.adapter import json_object

    file = adapter / "adapter_config.json"
    if not file.exists():
        raise UserError(f"adapter is {adapter}, which has no adapter_config.json; give a peft folder")
    base = json_object(file).get("base_model_name_or_path")
    if not base:
        raise UserError(f"{file} names no base_model_name_or_path; give it with --base")
    return str(base)


def _with_adapter(model: Any, adapter: Path, base: str) -> Any:
    """Return the peft model with every tensor of the adapter's file in its place, and none left over.

    Raises:
        UserError: listing the adapter's keys that the model cannot serve.
    """
    from peft import PeftModel, get_peft_model_state_dict

    file = adapter / "adapter_model.safetensors"
    stored = read_tensors(file)
    shapes = dict(_adapter_shapes(stored))
    config = lora_config_of(adapter, stored)
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter), config=config).eval()
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{adapter} is no adapter of {base}: {error}. Its keys: {some_keys(shapes)}") from error
    own = dict(_adapter_shapes(get_peft_model_state_dict(adapted, save_embedding_layers=False)))
    foreign = sorted(key for key, shape in shapes.items() if own.get(key) != shape)
    absent = sorted(own.keys() - shapes.keys())
    if foreign or absent:
        clauses = [f"{base} cannot serve {some_keys(foreign)}"] if foreign else []
        clauses += [f"the file lacks {some_keys(absent)}"] if absent else []
        raise UserError(f"{adapter} is no adapter of {base}: {'; '.join(clauses)}")
    if not any(bool(tensor.any()) for key, tensor in stored.items() if ".lora_B" in key or "lora_" not in key):
        raise UserError(f"{file} holds zeros alone: the adapter was not trained and would change nothing")
    return adapted


def _quantize_for_loftq(adapted: Any, adapter: Path) -> None:
    """Round the weights under an adapter that began as what nf4 loses of them: beside exact ones it counts twice.

    Raises:
        UserError: without bitsandbytes, with the way out.
    """
    import torch

    from deepsynth.models.lora_init import adapted_layers, frozen_weight
    from deepsynth.models.quantization.nf4_experts import Nf4Tensor
    from deepsynth.models.quantization.quantize import require_bitsandbytes
    from deepsynth.modules.adapter import json_object

    file = adapter / "deepsynth.json"
    record = json_object(file) if file.is_file() else {}
    if (record.get("lora") or {}).get("init") != "loftq":
        return
    require_bitsandbytes("nf4")
    double = record.get("double_quantization", True) is True  # Unsloth always does
    with torch.no_grad():
        for _, layer in adapted_layers(adapted):
            weight = frozen_weight(layer)
            whole = weight if weight.dim() == 3 else weight[None]
            weight.copy_(Nf4Tensor(whole, double=double, compute_dtype=weight.dtype).dequantize().view(weight.shape))


def _adapter_shapes(state: dict[str, torch.Tensor]) -> list[tuple[str, tuple[int, ...]]]:
    return [(key, tuple(tensor.shape)) for key, tensor in state.items()]


def _write(model: Any, processor: Any, source: str, folder: Path, format: Format, max_shard_size: str) -> None:
    """Write the weights with all that a model's folder needs."""
    if format == "native":
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        processor.save_pretrained(folder)
        return
    processor.save_published(folder)
    if model.config.published is not None and not _is_native(source, model.config.model_type):
        _carry(source, folder)
    model.save_pretrained(folder, format="published", max_shard_size=max_shard_size)


def _is_native(source: str, model_type: str) -> bool:
    """Return whether a base is in transformers' format, whose other files would not fit a published config."""
    from deepsynth.modules.adapter import json_object

    return Path(source).is_dir() and json_object(Path(source) / "config.json").get("model_type") == model_type


def _missing_code(folder: Path) -> tuple[str, ...]:
    """Return the files of code that the configuration in a folder names and that are not there."""
    from deepsynth.modules.adapter import json_object

    named = json_object(folder / "config.json").get("auto_map") or {}
    files = {f"{value.split('--')[-1].partition('.')[0]}.py" for value in named.values()}
    return tuple(sorted(name for name in files if not (folder / name).exists()))


def _carry(source: str, folder: Path) -> None:
    """Copy what the published folder has besides weights: tokenizer, processor, its own code."""
    if not Path(source).is_dir():
        from huggingface_hub import snapshot_download

        source = snapshot_download(source, allow_patterns=list(_CARRIED))
    for pattern in _CARRIED:
        for file in Path(source).glob(pattern):
            if file.name not in ("config.json", "generation_config.json", "model.safetensors.index.json"):
                shutil.copyfile(file, folder / file.name)
