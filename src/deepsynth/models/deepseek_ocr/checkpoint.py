"""The published checkpoint format: how its keys map to the native ones, checked before loading, and written back.

The mapping goes through transformers' own weight conversion: experts and CLIP's fused query-key-value are converted
tensor by tensor while the file is read, and the reverse of the same mapping writes the published keys.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Collection
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
)

from deepsynth.compat.transformers import convert_back
from deepsynth.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
#: Keys that some published files carry and that are computed, not learned.
IGNORED = {"model.vision_model.embeddings.position_ids"}
#: Weights that guess tokens ahead for another engine's speculative decoding: jina-ocr's are ``mtp_module`` and
#: ``mtp_embed_tokens``, those of DeepSeek's larger models a layer behind the last one, with these parts.
_LAYER = re.compile(r"model\.(language_model\.)?layers\.\d+\.")
_DRAFT = re.compile(rf"(model\.)?mtp[._].*|{_LAYER.pattern}(eh_proj|enorm|hnorm|shared_head)\..*")

_SAM, _CLIP = "model.vision_tower.sam_encoder", "model.vision_tower.vision_encoder"
_RENAMINGS = [
    (r"^model\.sam_model\.blocks\.(\d+)\.norm1\.", rf"{_SAM}.layers.\1.layer_norm1."),
    (r"^model\.sam_model\.blocks\.(\d+)\.norm2\.", rf"{_SAM}.layers.\1.layer_norm2."),
    (r"^model\.sam_model\.blocks\.(\d+)\.attn\.", rf"{_SAM}.layers.\1.attn."),
    (r"^model\.sam_model\.blocks\.(\d+)\.mlp\.", rf"{_SAM}.layers.\1.mlp."),
    (r"^model\.sam_model\.patch_embed\.proj\.", f"{_SAM}.patch_embed.projection."),
    (r"^model\.sam_model\.pos_embed", f"{_SAM}.pos_embed"),
    (r"^model\.sam_model\.neck\.0\.", f"{_SAM}.neck.conv1."),
    (r"^model\.sam_model\.neck\.1\.", f"{_SAM}.neck.layer_norm1."),
    (r"^model\.sam_model\.neck\.2\.", f"{_SAM}.neck.conv2."),
    (r"^model\.sam_model\.neck\.3\.", f"{_SAM}.neck.layer_norm2."),
    (r"^model\.sam_model\.net_2\.", f"{_SAM}.proj.conv1."),
    (r"^model\.sam_model\.net_3\.", f"{_SAM}.proj.conv2."),
    (r"^model\.vision_model\.transformer\.layers\.", f"{_CLIP}.layers."),
    (r"^model\.vision_model\.embeddings\.", f"{_CLIP}.embeddings."),
    (r"^model\.vision_model\.pre_layrnorm\.", f"{_CLIP}.pre_layrnorm."),
    (r"^model\.projector\.layers\.", "model.multi_modal_projector."),
    (r"^model\.view_seperator", "model.view_separator"),
    (r"^model\.embed_tokens\.", "model.language_model.embed_tokens."),
    (r"^model\.layers\.", "model.language_model.layers."),
    (r"^model\.norm\.", "model.language_model.norm."),
]


def register_conversion() -> None:
    """Tell transformers how published keys become native ones (idempotent)."""
    renamings = [WeightRenaming(source, target) for source, target in _RENAMINGS]
    experts = [
        WeightConverter(
            ["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"],
            "mlp.experts.gate_up_proj",
            [MergeModulelist(dim=0), Concatenate(dim=1)],
        ),
        WeightConverter("mlp.experts.*.down_proj.weight", "mlp.experts.down_proj", [MergeModulelist(dim=0)]),
    ]
    register_checkpoint_conversion_mapping("deepseek_ocr", [*renamings, *experts], overwrite=True)
    # Under the encoder's own name, so that the decoder's q_proj, k_proj, v_proj are not fused on the way out.
    qkv = [
        WeightConverter(
            f"self_attn.qkv_proj.{kind}",
            [f"self_attn.{name}_proj.{kind}" for name in "qkv"],
            [Chunk(dim=0)],
        )
        for kind in ("weight", "bias")
    ]
    register_checkpoint_conversion_mapping("DeepseekOcrVisionEncoder", qkv, overwrite=True)


def published_state(model: PreTrainedModel, state: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Return the model's tensors (or shapes, on the meta device) under the published keys.

    Args:
        model: native.
        state: instead of the model's own.
    """
    register_conversion()
    return convert_back(model, dict(state or model.state_dict()))


def write_published(
    model: PreTrainedModel, save: Callable[..., None], folder: str | os.PathLike[str], **kwargs: Any
) -> None:
    """Write the published keys and ``config.json``.

    Args:
        model: native.
        save: transformers' ``save_pretrained`` of the model.
        folder: where to.
        **kwargs: for ``save``.
    """
    model.config.dtype = model.dtype
    config = json.dumps(model.config.to_published(), indent=2, ensure_ascii=False)
    state = published_state(model, kwargs.pop("state_dict", None))
    push_to_hub = kwargs.pop("push_to_hub", False)
    if push_to_hub:
        raise UserError("push_to_hub is not supported with format='published'; write the folder, then upload it")
    save(folder, state_dict=state, **{**kwargs, "save_original_format": False})
    (Path(folder) / "config.json").write_text(config + "\n", encoding="utf-8")


def load_strictly(load: Callable[..., Any], source: Any, *args: Any, **kwargs: Any) -> Any:
    """Load with transformers, and accept nothing but a complete, matching checkpoint.

    Args:
        load: transformers' ``from_pretrained`` of the class.
        source: folder or Hub id; ``None`` with a ``state_dict``.
        *args: for ``load``.
        **kwargs: for ``load``.

    Raises:
        UserError: listing the keys that are missing, unexpected or of another shape, or naming the broken file.
    """
    register_conversion()
    wants_info = kwargs.pop("output_loading_info", False)
    model_class = load.__self__  # type: ignore[attr-defined]
    if source is not None and os.path.isdir(source) and not kwargs.get("subfolder"):
        check_folder(Path(source), model_class, kwargs.get("config"))
    try:
        model, info = load(source, *args, output_loading_info=True, **kwargs)
    except SafetensorError as error:
        raise UserError(f"{source}: a weight file cannot be read ({error}); download it again") from error
    draft = draft_keys(info["unexpected_keys"])
    wrong = {
        "missing": set(info["missing_keys"]),
        "unexpected": set(info["unexpected_keys"]) - IGNORED - draft,
        "misshaped": {str(key) for key in info["mismatched_keys"]},
    }
    _refuse(str(source), wrong)
    if draft:
        some = f"{', '.join(sorted(draft)[:3])}{', …' if len(draft) > 3 else ''}"
        log.warning("%s: %d weights that only draft tokens ahead are left out (%s)", source, len(draft), some)
    return (model, info) if wants_info else model


def check_folder(folder: Path, model_class: type[PreTrainedModel], config: Any = None) -> None:
    """Compare a folder's weight files with what the model needs, without reading a weight.

    Raises:
        UserError: naming the file that is missing or cut, or listing the keys that do not fit.
    """
    shapes = _shapes(folder)
    if shapes is None:
        return
    # A copy, because building a model settles the configuration's implementations.
    config = deepcopy(config) if config is not None else model_class.config_class.from_pretrained(folder)
    if getattr(config, "quantization_config", None) is not None:
        return  # the quantizer's own keys and shapes are its own business
    with torch.device("meta"):
        model = model_class(config)
    published = any(key.startswith(("model.layers.", "model.sam_model.")) for key in shapes)
    state = published_state(model) if published else model.state_dict()
    expected = {key: tuple(tensor.shape) for key, tensor in state.items()}
    if not published and not any(key in expected for key in shapes):
        # The base model's file in the full model or the reverse: transformers adds or strips the prefix itself.
        return
    unexpected = shapes.keys() - expected.keys()
    wrong = {
        "missing": expected.keys() - shapes.keys(),
        "unexpected": unexpected - IGNORED - draft_keys(unexpected),
        "misshaped": {
            f"{key} {shape} (want {expected[key]})"
            for key, shape in shapes.items()
            if key in expected and shape != expected[key]
        },
    }
    _refuse(str(folder), wrong)


def draft_keys(unexpected: Collection[str]) -> set[str]:
    """Return the keys of draft weights among those that the model has no place for; whole layers of them too."""
    draft = {key for key in unexpected if _DRAFT.fullmatch(key)}
    layers = {found[0] for key in draft if (found := _LAYER.match(key))}
    return draft | {key for key in unexpected if (found := _LAYER.match(key)) and found[0] in layers}


def _refuse(source: str, wrong: dict[str, Any]) -> None:
    """Raise when a list of keys is not empty; long lists are cut, with their length."""
    clauses = [
        f"{len(keys)} {kind} ({', '.join(sorted(keys)[:8])}{', …' if len(keys) > 8 else ''})"
        for kind, keys in wrong.items()
        if keys
    ]
    if clauses:
        raise UserError(f"{source}: the weights do not fit the config.json: {'; '.join(clauses)}")


def _shapes(folder: Path) -> dict[str, tuple[int, ...]] | None:
    """Return key -> shape of a folder's safetensors files; ``None`` when there is none."""
    index = folder / INDEX
    if not index.exists():
        return _header(folder / SINGLE) if (folder / SINGLE).exists() else None
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise UserError(f"{index}: is not an index of weight files ({error}); download it again") from error
    shapes: dict[str, tuple[int, ...]] = {}
    for name in sorted(set(weight_map.values())):
        if not (folder / name).exists():
            raise UserError(f"{folder}: {name} is missing, {INDEX} names it; download it again")
        shapes.update(_header(folder / name))
    return shapes


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """Return key -> shape from a safetensors file's header, which also says how long the file must be."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length + 8 > size:
                raise ValueError("its header is cut")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end != size:
            raise ValueError(f"it has {size} bytes and should have {end}")
        return {key: tuple(entry["shape"]) for key, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: is not a complete safetensors file ({error}); download it again") from error
