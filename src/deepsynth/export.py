"""Merge an adapter into its base model, write it, read it back, and prove that it is the same model.

    deepsynth export runs/quickstart/adapter merged/ --format published

The adapter is a plain peft folder. What is written stands alone: weights, configuration, tokenizer and processor, in
transformers' format or in the published one of DeepSeek-OCR, which the original code, vLLM and SGLang load.

Proved are: only the adapter's own weights changed, and every one of them did; a page gives the same logits and the same
greedy text before the merge and after reading back. The folder appears only when all of that holds.
"""

from __future__ import annotations

import gc
import hashlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Format = Literal["native", "published"]

#: Mean and largest difference of a logit that rounding alone explains, per unit of the logits' standard deviation: the
#: merged weight is rounded to the data type, the unmerged product is not. In 16 bits a router may decide a near tie the
#: other way, which moves single logits far; there the mean is what tells.
TOLERANCE: dict[str, tuple[float, float]] = {
    "float32": (5e-5, 1e-3),
    "float16": (2e-2, float("inf")),
    "bfloat16": (1e-1, float("inf")),
}
NEW_TOKENS = 16
_CARRIED = ("*.json", "*.py", "*.txt", "*.model", "LICENSE*")


@dataclass(frozen=True)
class ExportReport:
    """What was written, and what was measured on it.

    Attributes:
        folder: the merged model.
        format: ``native`` or ``published``.
        dtype: of the weights.
        changed: weight tensors that the adapter changed.
        unchanged: all others, bit for bit those of the base.
        mean_difference: of the logits on the probe page, reloaded against unmerged.
        max_difference: the same, largest.
        same_tokens: greedy tokens for the probe page that are equal before and after; fewer than ``new_tokens`` only in
            16 bits, when rounding decided between two tokens that were as likely.
        new_tokens: tokens that were written.
    """

    folder: Path
    format: Format
    dtype: str
    changed: int
    unchanged: int
    mean_difference: float
    max_difference: float
    same_tokens: int
    new_tokens: int

    def __str__(self) -> str:
        """Return the lines that the command prints."""
        return (
            f"{self.folder}: {self.format} format, {self.dtype}\n"
            f"  {self.changed} weights changed, all of the adapter's; {self.unchanged} are the base's, bit for bit\n"
            f"  logits differ by {self.mean_difference:.1e} on average, {self.max_difference:.1e} at most; "
            f"{self.same_tokens} of {self.new_tokens} greedy tokens are the same"
        )


def export_model(
    adapter: Path,
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
        ValueError: for an adapter that does not belong to the base (with its keys), a format that the model does not
            have, or a merged model that is not the unmerged one.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import deepsynth.models  # noqa: F401 - registers DeepSeek-OCR
    from deepsynth.models.names import resolve_model_name

    adapter, output = Path(adapter), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"output is {output}, which is there already; name a new folder")
    base = base or _base_of(adapter)
    source = resolve_model_name(base)
    kind = "auto" if dtype == "auto" else getattr(torch, dtype)
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=kind).to(device).eval()
    if format == "published" and model.config.model_type != "deepseek_ocr":
        raise ValueError(
            f"format is 'published', but {base} is a {model.config.model_type} model; only DeepSeek-OCR is written in "
            "its original format, use format=native"
        )
    processor = AutoProcessor.from_pretrained(source)
    inputs = _probe(processor, device)
    before = _digests(model)
    adapted = _with_adapter(model, adapter, base)
    expected, allowed = _targets(adapted)
    written = str(model.dtype).removeprefix("torch.")
    unmerged = _answer(adapted, inputs)
    merged = adapted.merge_and_unload(safe_merge=True)
    part = output.with_name(f".{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write(merged, processor, source, part, format, max_shard_size)
        del merged, adapted, model
        gc.collect()
        again = AutoModelForImageTextToText.from_pretrained(part, dtype=kind).to(device).eval()
        changed = {name for name, digest in _digests(again).items() if digest != before[name]}
        _check_weights(changed, expected, allowed)
        reloaded = _answer(again, _probe(AutoProcessor.from_pretrained(part), device))
        measured = _check_answers(unmerged, reloaded, written)
        if output.exists():
            output.rmdir()
        output.parent.mkdir(parents=True, exist_ok=True)
        part.rename(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return ExportReport(output, format, written, len(changed), len(before) - len(changed), *measured)


def _base_of(adapter: Path) -> str:
    """Return the base model that the adapter names."""
    import json

    file = adapter / "adapter_config.json"
    if not file.exists():
        raise ValueError(f"adapter is {adapter}, which has no adapter_config.json; give a peft folder")
    base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{file} names no base_model_name_or_path; say it with --base")
    return str(base)


def _with_adapter(model: Any, adapter: Path, base: str) -> Any:
    """Return the peft model with every tensor of the adapter's file in its place, and none left over.

    Raises:
        ValueError: listing the adapter's keys that the model cannot serve.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = adapter / "adapter_model.safetensors"
    if not file.exists():
        raise ValueError(f"adapter is {adapter}, which has no adapter_model.safetensors; give a peft folder")
    try:
        stored = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read ({error}); it is cut or damaged") from error
    shapes = dict(_adapter_shapes(stored))
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter)).eval()
    except (ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{adapter} is no adapter of {base}: {error}. Its keys: {_some(shapes)}") from error
    own = dict(_adapter_shapes(get_peft_model_state_dict(adapted, save_embedding_layers=False)))
    foreign = sorted(key for key, shape in shapes.items() if own.get(key) != shape)
    absent = sorted(own.keys() - shapes.keys())
    if foreign or absent:
        clauses = [f"{base} cannot serve {_some(foreign)}"] if foreign else []
        clauses += [f"the file lacks {_some(absent)}"] if absent else []
        raise ValueError(f"{adapter} is no adapter of {base}: {'; '.join(clauses)}")
    if not any(bool(tensor.any()) for key, tensor in stored.items() if ".lora_B" in key or "lora_" not in key):
        raise ValueError(f"{file} holds zeros alone: the adapter was not trained and would change nothing")
    return adapted


def _adapter_shapes(state: dict[str, torch.Tensor]) -> list[tuple[str, tuple[int, ...]]]:
    return [(key, tuple(tensor.shape)) for key, tensor in state.items()]


def _some(keys: Any) -> str:
    listed = sorted(keys)
    return f"{len(listed)} keys ({', '.join(listed[:6])}{', …' if len(listed) > 6 else ''})"


def _targets(adapted: Any) -> tuple[set[str], set[str]]:
    """Return the names of weights that the merge must change, and of all that it may change."""
    from peft.tuners.lora.layer import LoraLayer, ParamWrapper
    from peft.utils.other import AuxiliaryTrainingWrapper

    must, may = set(), set()
    for path, module in adapted.base_model.model.named_modules():
        name = path.replace(".base_layer", "")
        if isinstance(module, LoraLayer):
            target = f"{name}.{module.parameter_name}" if isinstance(module, ParamWrapper) else f"{name}.weight"
            may.add(target)
            if any(bool(layer.weight.any()) for layer in module.lora_B.values()):
                must.add(target)
        elif isinstance(module, AuxiliaryTrainingWrapper):
            inner = module.original_module if hasattr(module, "original_module") else module
            may |= {f"{name}.{parameter}" for parameter, _ in inner.named_parameters()}
    return must, may


def _digests(model: Any) -> dict[str, str]:
    """Return a hash of every weight, so that two models need not be in memory together."""
    import torch

    return {
        name: hashlib.blake2b(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()
        for name, tensor in model.state_dict().items()
    }


def _probe(processor: Any, device: str) -> dict[str, Any]:
    """Return the model inputs of a drawn page with the plain prompt, made by the processor's own settings."""
    import torch
    from PIL import Image, ImageDraw

    from deepsynth.models.tokens import image_layout

    page = Image.new("RGB", (600, 400), "white")
    draw = ImageDraw.Draw(page)
    for row in range(12):
        draw.text(
            (30, 20 + 30 * row), f"{row + 1}. The quick brown fox jumps over the lazy dog, 0123456789.", fill="black"
        )
    layout = image_layout(processor)
    tokenizer = processor.tokenizer
    image = [tokenizer.convert_tokens_to_ids("<image>")] * layout.tokens(*page.size)
    ids = [tokenizer.bos_token_id, *image, *tokenizer.encode("\nFree OCR.", add_special_tokens=False)]
    views = processor.image_processor(images=[page], return_tensors="pt", **layout.processor_kwargs())
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long), **views}
    return {name: tensor.to(device) for name, tensor in inputs.items()}


@dataclass(frozen=True)
class Answer:
    """What a model says of the probe page: logits (T, vocabulary), greedy tokens (n,), the logits at each of them."""

    logits: torch.Tensor
    tokens: torch.Tensor
    steps: torch.Tensor


def _answer(model: Any, inputs: dict[str, Any]) -> Answer:
    """Run the probe page, and write greedily."""
    import torch

    views = {n: t.to(model.dtype) if t.is_floating_point() else t for n, t in inputs.items()}
    with torch.inference_mode():
        logits = model(**views).logits[0].float().cpu()
        written = model.generate(
            **views,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
    tokens = written.sequences[0, inputs["input_ids"].shape[1] :].cpu()
    return Answer(logits, tokens, torch.cat(written.logits).float().cpu())


def _check_weights(changed: set[str], expected: set[str], allowed: set[str]) -> None:
    """Raise unless exactly the adapter's weights changed."""
    if stray := changed - allowed:
        raise ValueError(f"the merge changed weights that the adapter does not have: {_some(stray)}")
    if missed := expected - changed:
        raise ValueError(f"the merge left weights as they were that the adapter changes: {_some(missed)}")


def _check_answers(unmerged: Answer, reloaded: Answer, dtype: str) -> tuple[float, float, int, int]:
    """Return the mean and largest difference of the logits, the equal tokens and all tokens.

    Raises:
        ValueError: when they are more than rounding.
    """
    difference = (unmerged.logits - reloaded.logits).abs()
    mean, largest = difference.mean().item(), difference.max().item()
    scale = max(1.0, unmerged.logits.std().item())
    mean_limit, limit = (scale * part for part in TOLERANCE[dtype])
    if not (mean <= mean_limit and largest <= limit):
        raise ValueError(
            f"the merged model is not the unmerged one: logits differ by {mean:.1e} on average and {largest:.1e} at "
            f"most, rounding to {dtype} explains {mean_limit:.1e} and {limit:.1e}"
        )
    before, after = unmerged.tokens.tolist(), reloaded.tokens.tolist()
    same = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    if same < max(len(before), len(after)):
        step = unmerged.steps[same]
        gap = (step[before[same]] - step[after[same]]).item() if same < len(after) else float("inf")
        if dtype == "float32" or gap > largest:
            raise ValueError(
                f"the merged model writes {after} where the unmerged one writes {before}; rounding to {dtype} does not "
                f"explain a logit {gap:.1e} lower"
            )
    return mean, largest, same, len(before)


def _write(model: Any, processor: Any, source: str, folder: Path, format: Format, max_shard_size: str) -> None:
    """Write the weights with all that a model's folder needs."""
    folder.mkdir(parents=True)
    if format == "native":
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        processor.save_pretrained(folder)
        return
    processor.save_published(folder)
    if model.config.published is not None:
        _carry(source, folder)
    model.save_pretrained(folder, format="published", max_shard_size=max_shard_size)


def _carry(source: str, folder: Path) -> None:
    """Copy what the published folder has besides weights: tokenizer, processor, its own code."""
    if not Path(source).is_dir():
        from huggingface_hub import snapshot_download

        source = snapshot_download(source, allow_patterns=list(_CARRIED))
    for pattern in _CARRIED:
        for file in Path(source).glob(pattern):
            if file.name not in ("config.json", "generation_config.json", "model.safetensors.index.json"):
                shutil.copyfile(file, folder / file.name)


def main(args: Sequence[str] | None = None) -> int:
    """Run ``deepsynth export``.

    Args:
        args: without the subcommand; by default ``sys.argv``.

    Returns:
        0. Mistakes raise ``ValueError``, which the command line turns into a line.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="deepsynth export", description=(__doc__ or "").splitlines()[0])
    parser.add_function_arguments(export_model, as_positional=True)
    chosen = parser.parse_args(list(args) if args is not None else None)
    sys.stdout.write(f"{export_model(**{key: value for key, value in chosen.items() if key != 'config'})}\n")
    return 0
