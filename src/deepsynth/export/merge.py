"""Merge an adapter into its base model, write it, read it back, and prove that it is the same model.

    deepsynth export runs/quickstart/adapter --output merged --format published

The adapter is a plain peft folder; a whole model is written in another format. What is written stands alone: weights,
configuration, tokenizer and processor, in transformers' format or in that of the model's authors.

Proved are: only the adapter's own weights changed, and every one of them did; a page gives the same logits and the same
greedy text before the merge and after reading back. The folder appears only when all of that holds.
"""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepsynth.errors import UserError
from deepsynth.export.foreign import lora_config_of, read_tensors
from deepsynth.export.plain_transformers import NATIVE_NEEDS, own_name, write_for_transformers
from deepsynth.export.published import add_code, native_config_of, notes_on, write_published
from deepsynth.export.verification import (
    Agreement,
    Answer,
    adapted_weights,
    answer_of,
    check_answers,
    check_weights,
    probe_inputs,
    some_keys,
    weight_digests,
)
from deepsynth.export.vllm_lora import VllmAdapter, export_for_vllm
from deepsynth.io.files import atomic_folder, explain_write_errors, reason_and_remedy
from deepsynth.io.run_config import mode_of, run_of
from deepsynth.modules.adapter import by_own_names

Format = Literal["native", "transformers", "published", "vllm-lora"]


@dataclass(frozen=True)
class ExportReport:
    """The files that an export wrote and the checks that they passed.

    Attributes:
        folder: the merged model.
        format: ``native``, ``transformers`` or ``published``.
        dtype: of the weights.
        changed: weight tensors that the adapter changed.
        unchanged: all others, bit for bit those of the base.
        agreement: of the logits and the greedy text for the probe page, reloaded against unmerged. Fewer tokens are the
            same than were written only in 16 bits, when rounding decided between two that were as likely.
        notes: what the folder cannot do, a line each.
    """

    folder: Path
    format: Format
    dtype: str
    changed: int
    unchanged: int
    agreement: Agreement
    notes: tuple[str, ...] = ()

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
        merged = "all of the adapter's; " if self.changed else ""
        lines = (
            f"{self.folder}: {self.format} format, {self.dtype}",
            "PASS: what was written is the model that was given, read back and compared on a page",
            f"  {self.changed} weights changed, {merged}{self.unchanged} are the base's, bit for bit",
            f"  logits differ by {found.mean_difference:.1e} on average (tolerance for {self.dtype} "
            f"{found.mean_tolerance:.1e}){most}",
            f"  {text}",
            *(f"  {note}" for note in self.notes),
        )
        return "\n".join(lines)


def export_model(
    adapter: Path,
    *,
    output: Path,
    base: str | None = None,
    format: Format = "native",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "cpu",
    max_shard_size: str = "5GB",
    mode: str | None = None,
) -> ExportReport | VllmAdapter:
    """Write a model with its adapter merged, or a whole model in another format, and verify what was written.

    Args:
        adapter: peft folder, or that of a whole model, as ``FullModule`` writes it.
        output: folder to write; it must be new or empty.
        base: model that the adapter belongs to; by default the one that the adapter names.
        format: ``native`` (the base's classes), ``transformers`` (its own: DeepSeek-OCR becomes an Unlimited-OCR
            whose window covers everything), ``published`` (its authors' keys, configuration and files, for vLLM,
            SGLang, llama.cpp and the original code) or ``vllm-lora`` (the adapter, not merged, under vLLM's names).
        dtype: of the written weights; ``auto`` keeps the base's.
        device: where to compute.
        max_shard_size: of one weight file.
        mode: resolution by name that the written processor has; by default that of the adapter's run, else the base's.
            ``published`` and ``vllm-lora`` take none: their readers have their own.

    Raises:
        UserError: for an adapter that does not belong to the base (with its keys), a format that the model does not
            have, or, beginning with FAIL, a written model that is not the one that was given.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    from deepsynth.models.registry import family_of, load_pretrained

    adapter, output = Path(adapter), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"output is {output}, which is there already; name a new folder")
    whole = (adapter / "config.json").is_file() and not (adapter / "adapter_config.json").exists()
    if whole and base is not None:
        raise UserError(f"base is {base}, but {adapter} is a whole model, which has none; leave --base out")
    if mode is not None and format in ("published", "vllm-lora"):
        raise UserError(f"mode is {mode!r}, but format is {format!r}, whose readers have their own; leave --mode out")
    if format == "vllm-lora":
        return export_for_vllm(adapter, output, None if whole else base or _base_of(adapter))
    base = str(adapter) if whole else base or _base_of(adapter)
    if mode is None and format != "published":
        mode = mode_of(run_of(adapter))
    processor = _processor(base, mode)
    kind = "auto" if dtype == "auto" else getattr(torch, dtype)
    model = load_pretrained(AutoModelForImageTextToText, base, dtype=kind).to(device).eval()
    if format == "published":
        family_of(model.config).refuse("published", "format is 'published'", "use format=native")
    inputs = probe_inputs(base, device, mode)
    before = weight_digests(model)
    expected: set[str] = set()
    allowed: set[str] = set()
    if whole:
        given = answer_of(model, inputs)
    else:
        model, given, expected, allowed = _merged(model, adapter, base, inputs)
    written = str(model.dtype).removeprefix("torch.")
    with explain_write_errors(output, "the model"), atomic_folder(output) as part:
        config, notes = _write(model, processor, base, part, format, max_shard_size)
        del model
        gc.collect()
        known = {} if config is None else {"config": config}
        again = load_pretrained(AutoModelForImageTextToText, str(part), dtype=kind, **known).to(device).eval()
        digests = {name if name in before else own_name(name): hash for name, hash in weight_digests(again).items()}
        changed = {name for name, digest in digests.items() if digest != before[name]}
        check_weights(changed, expected, allowed)
        measured = check_answers(given, answer_of(again, probe_inputs(base if known else str(part), device)), written)
    return ExportReport(output, format, written, len(changed), len(digests) - len(changed), measured, notes)


def _merged(model: Any, adapter: Path, base: str, inputs: dict[str, Any]) -> tuple[Any, Answer, set[str], set[str]]:
    """Return a model with an adapter merged, what it wrote before that, and what the merge must and may change."""
    adapted = _with_adapter(model, adapter, base)
    _quantize_for_loftq(adapted, adapter)
    expected, allowed = adapted_weights(adapted)
    unmerged = answer_of(adapted, inputs)
    try:
        return adapted.merge_and_unload(safe_merge=True), unmerged, expected, allowed
    except ValueError as error:
        dtype = str(model.dtype).removeprefix("torch.")
        raise UserError(f"{adapter} cannot be merged in {dtype}: {error}") from error


def _processor(base: str, mode: str | None) -> Any:
    """Return the base's processor, with the resolution of a mode."""
    from transformers import AutoProcessor

    from deepsynth.models.registry import family_of_model, load_pretrained

    processor = load_pretrained(AutoProcessor, base)
    if mode is not None:
        for name, value in family_of_model(base).layout(processor, mode).processor_kwargs().items():
            setattr(processor.image_processor, name, value)
    return processor


def _write(
    model: Any, processor: Any, base: str, folder: Path, format: Format, max_shard_size: str
) -> tuple[Any, tuple[str, ...]]:
    """Write a model's folder, and return what it has to be loaded with, if anything, and what it cannot do."""
    from safetensors import SafetensorError

    from deepsynth.models.registry import resolve_model_name

    try:
        own = not type(model).__module__.startswith("transformers.")
        if format == "transformers" and own:
            return None, write_for_transformers(model, processor, folder, max_shard_size)
        if format in ("native", "transformers"):
            model.save_pretrained(folder, max_shard_size=max_shard_size)
            processor.save_pretrained(folder)
            return None, (NATIVE_NEEDS,) if own else ()
        write_published(model, processor, resolve_model_name(base), folder, max_shard_size)
    except SafetensorError as error:  # how its writer says that the disk is full
        raise UserError(
            f"{folder.name}: the weights cannot be written {reason_and_remedy(error, 'another folder')}"
        ) from error
    missing = add_code(folder, model.config.model_type)
    return native_config_of(folder, model.config, processor), notes_on(model.config, missing)


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
    import torch
    from peft import get_peft_model, get_peft_model_state_dict

    file = adapter / "adapter_model.safetensors"
    stored = by_own_names(read_tensors(file), model)
    config = lora_config_of(adapter, stored)
    try:
        adapted = get_peft_model(model, config).eval()
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{adapter} is not an adapter of {base}: {error}. Its keys: {some_keys(stored)}") from error
    own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    foreign = sorted(key for key, tensor in stored.items() if key not in own or own[key].shape != tensor.shape)
    absent = sorted(own.keys() - stored.keys())
    if foreign or absent:
        clauses = [f"{base} cannot serve {some_keys(foreign)}"] if foreign else []
        clauses += [f"the file lacks {some_keys(absent)}"] if absent else []
        raise UserError(f"{adapter} is not an adapter of {base}: {'; '.join(clauses)}")
    if not any(bool(tensor.any()) for key, tensor in stored.items() if ".lora_B" in key or "lora_" not in key):
        raise UserError(f"{file} holds only zeros: the adapter was not trained and would change nothing")
    # Not by peft, which passes the names through transformers' renaming, and takes what it then does not find for none.
    with torch.no_grad():
        for key, tensor in stored.items():
            own[key].copy_(tensor)
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
