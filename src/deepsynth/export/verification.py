"""Checks that a merged model equals the unmerged one: hashes of the weights, and a probe page."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from deepsynth.errors import UserError

if TYPE_CHECKING:
    import torch

#: Mean and largest difference of a logit that rounding alone explains, per unit of the logits' standard deviation: the
#: merged weight is rounded to the data type, the unmerged product is not. In 16 bits a router may decide a near tie the
#: other way, which moves single logits far; there the mean is what tells.
TOLERANCE: dict[str, tuple[float, float]] = {
    "float32": (5e-5, 1e-3),
    "float16": (2e-2, float("inf")),
    "bfloat16": (1e-1, float("inf")),
}
NEW_TOKENS = 16


def adapted_weights(adapted: Any) -> tuple[set[str], set[str]]:
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


def weight_digests(model: Any) -> dict[str, str]:
    """Return a hash of every weight, so that two models need not be in memory together."""
    import torch

    return {
        name: hashlib.blake2b(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()
        for name, tensor in model.state_dict().items()
    }


def probe_inputs(model_name: str, device: str, mode: str | None = None) -> dict[str, Any]:
    """Return the model inputs of a drawn page with the plain prompt, made by the settings of a model's processor.

    Args:
        model_name: whose processor makes them.
        device: where to.
        mode: resolution by name; by default the processor's own.
    """
    from PIL import Image, ImageDraw

    from deepsynth.data import Collator, OcrProcessor
    from deepsynth.types import Document, Page

    page = Image.new("RGB", (600, 400), "white")
    draw = ImageDraw.Draw(page)
    for row in range(12):
        draw.text(
            (30, 20 + 30 * row), f"{row + 1}. The quick brown fox jumps over the lazy dog, 0123456789.", fill="black"
        )
    # Of one prompt whatever the family: a model may be written as one of another.
    sample = OcrProcessor(model_name, mode, prompt="<image>\nFree OCR.")(
        Document("probe", ""), [Page(page, "")], prompt_only=True
    )
    assert sample is not None, "nothing is dropped"
    return {name: tensor.to(device) for name, tensor in Collator()([sample]).prompts.items()}


@dataclass(frozen=True)
class Answer:
    """A model's output for the probe page: logits (T, vocabulary), greedy tokens (n,), the logits at each of them."""

    logits: torch.Tensor
    tokens: torch.Tensor
    steps: torch.Tensor


def answer_of(model: Any, inputs: dict[str, Any]) -> Answer:
    """Return the model's logits for the probe page, and its greedy tokens."""
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


class Agreement(NamedTuple):
    """How far the output of the written model is that of the unmerged one.

    Attributes:
        mean_difference: of the logits.
        max_difference: of the logits.
        same_tokens: greedy tokens that are equal, up to the first that is not.
        new_tokens: greedy tokens.
        mean_tolerance: what rounding explains.
        max_tolerance: likewise; infinite in 16 bits.
    """

    mean_difference: float
    max_difference: float
    same_tokens: int
    new_tokens: int
    mean_tolerance: float
    max_tolerance: float


def check_weights(changed: set[str], expected: set[str], allowed: set[str]) -> None:
    """Check that exactly the adapter's weights changed.

    Raises:
        UserError: when another weight changed, or one of the adapter's did not.
    """
    if stray := changed - allowed:
        raise UserError(f"FAIL: the merge changed weights that the adapter does not have: {some_keys(stray)}")
    if missed := expected - changed:
        raise UserError(f"FAIL: the merge did not change weights that the adapter changes: {some_keys(missed)}")


def check_answers(unmerged: Answer, reloaded: Answer, dtype: str) -> Agreement:
    """Return how far logits and greedy tokens agree.

    Raises:
        UserError: when logits or tokens differ by more than rounding explains.
    """
    import torch

    before, after = unmerged.tokens.tolist(), reloaded.tokens.tolist()
    same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
    # Up to the first token that differs, both have written the same, and each of their logits can be compared.
    compared = slice(same + 1)
    difference = torch.cat(
        [unmerged.logits - reloaded.logits, unmerged.steps[compared] - reloaded.steps[compared]]
    ).abs()
    mean, largest = difference.mean().item(), difference.max().item()
    scale = max(1.0, unmerged.logits.std().item())
    mean_limit, limit = (scale * part for part in TOLERANCE[dtype])
    if not (mean <= mean_limit and largest <= limit):
        raise UserError(
            f"FAIL: the merged model is not the unmerged one: logits differ by {mean:.1e} on average and {largest:.1e} "
            f"at most, rounding to {dtype} explains {mean_limit:.1e} and {limit:.1e}"
        )
    if dtype == "float32" and before != after:
        raise UserError(f"FAIL: the merged model writes {after} where the unmerged one writes {before}")
    return Agreement(mean, largest, same, len(before), mean_limit, limit)


def some_keys(keys: Any) -> str:
    """Return how many keys there are, and the first of them."""
    listed = sorted(keys)
    return f"{len(listed)} keys ({', '.join(listed[:6])}{', …' if len(listed) > 6 else ''})"
