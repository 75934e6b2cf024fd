"""An adapter under the names that vLLM's LoRA loader matches, not merged.

    deepsynth export runs/mine/adapter --output mine --format vllm-lora

vLLM takes a peft folder, renames each module as it renames the weights of the base (``docs/guides/serve.md`` has the
version and source), and looks it up among its own. An adapter whose names lead elsewhere would be loaded and change
nothing, so all of them are checked against the weights of the published model.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepsynth.errors import UserError
from deepsynth.export.foreign import lora_config_of, read_tensors
from deepsynth.export.verification import some_keys
from deepsynth.io.files import atomic_folder, explain_write_errors
from deepsynth.modules.adapter import json_object

_MLP = r"(gate_proj|up_proj|down_proj)"
#: Modules of vLLM's decoder that take adapters, by their published names.
_TAKEN = re.compile(
    rf"model\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|o_proj)|mlp\.{_MLP}|mlp\.shared_experts\.{_MLP})"
)
#: Parts that do not, with the reason.
_REFUSED = (
    (r"\.mlp\.experts\b", "routed experts, whose adapters vLLM takes for each expert alone"),
    (r"\.vision_tower\.", "the vision encoder, which vLLM does not adapt in this model"),
    (r"\.multi_modal_projector\b", "the projector, which vLLM does not adapt in this model"),
)
_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_INSTEAD = "merge it: --format published"


@dataclass(frozen=True)
class VllmAdapter:
    """An adapter that was written for vLLM.

    Attributes:
        folder: with the adapter.
        modules: layers that it adapts.
        rank: r.
        base: model that vLLM has to serve with it.
    """

    folder: Path
    modules: int
    rank: int
    base: str

    def __str__(self) -> str:
        """Return the lines that the command prints."""
        return (
            f"{self.folder}: an adapter of {self.base} for vLLM, rank {self.rank}\n"
            f"PASS: {self.modules} layers under names and shapes of the published weights, which vLLM's mapping takes\n"
            f"  vllm serve BASE --enable-lora --max-lora-rank {max(self.rank, 8)} --lora-modules "
            f"mine={self.folder}, with BASE the published model of {self.base}"
        )


def export_for_vllm(adapter: Path, output: Path, base: str | None) -> VllmAdapter:
    """Write an adapter for vLLM.

    Args:
        adapter: peft folder.
        output: folder to make.
        base: model that it belongs to; ``None`` when the folder holds a whole model.

    Raises:
        UserError: for what vLLM's loader does not take, with the reason and the way that works.
    """
    from safetensors.torch import save_file

    if base is None:
        raise UserError(f"format is 'vllm-lora', but {adapter} is a whole model; use --format published")
    tensors = read_tensors(adapter / "adapter_model.safetensors")
    config = lora_config_of(adapter, tensors)
    _refuse_variants(adapter, config)
    shapes = _published_shapes(base)
    renamed: dict[str, Any] = {}
    modules: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        found = _TENSOR.fullmatch(name)
        module = found[1].replace("model.language_model.", "model.", 1) if found else name
        if not found or not _TAKEN.fullmatch(module):
            _refuse_part(adapter, name)
        assert found is not None
        renamed[f"base_model.model.{module}.lora_{found[2]}.weight"] = tensor.contiguous()
        modules.setdefault(module, {})[found[2]] = tensor
    wrong = sorted(
        module
        for module, parts in modules.items()
        if set(parts) != {"A", "B"}
        or shapes.get(f"{module}.weight") != (parts["B"].shape[0], parts["A"].shape[1])
        or not parts["A"].shape[0] == parts["B"].shape[1] == config.r
    )
    if wrong:
        raise UserError(
            f"{adapter} is not an adapter of {base}: {some_keys(wrong)} are not in it or have another shape"
        )
    if not any(bool(parts["B"].any()) for parts in modules.values()):
        raise UserError(f"{adapter} holds only zeros: the adapter was not trained and would change nothing")
    written = {
        "base_model_name_or_path": base,
        "bias": "none",
        "lora_alpha": config.lora_alpha,
        "peft_type": "LORA",
        "r": config.r,
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
        "task_type": "CAUSAL_LM",
        "use_rslora": config.use_rslora,
    }
    with explain_write_errors(output, "the adapter"), atomic_folder(output) as part:
        save_file(renamed, part / "adapter_model.safetensors", metadata={"format": "pt"})
        (part / "adapter_config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    return VllmAdapter(output, len(modules), config.r, base)


def _refuse_variants(adapter: Path, config: Any) -> None:
    """Refuse kinds of LoRA that vLLM does not know, or would take for plain ones."""
    record = json_object(adapter / "deepsynth.json") if (adapter / "deepsynth.json").is_file() else {}
    for found, what in (
        (config.use_dora, "is DoRA, which vLLM refuses"),
        (config.lora_bias, "has biases, which vLLM does not read"),
        (config.rank_pattern or config.alpha_pattern, "has ranks or scales by module, which vLLM does not read"),
        ((record.get("lora") or {}).get("init") == "loftq", "belongs to weights in nf4 (loftq), and vLLM's are exact"),
    ):
        if found:
            raise UserError(f"format is 'vllm-lora', but {adapter} {what}; {_INSTEAD}")


def _refuse_part(adapter: Path, name: str) -> None:
    reason = next((reason for part, reason in _REFUSED if re.search(part, name)), f"{name}, which vLLM does not adapt")
    raise UserError(f"format is 'vllm-lora', but {adapter} adapts {reason}; {_INSTEAD}")


def _published_shapes(base: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's weights by their published names; nothing is loaded.

    Raises:
        UserError: for another model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from deepsynth.compat.transformers import convert_back
    from deepsynth.models.registry import family_of, load_pretrained

    config = load_pretrained(AutoConfig, base)
    family = family_of(config)
    family.refuse("vllm_lora", "format is 'vllm-lora'", _INSTEAD.replace("published", "native"))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return {name: tuple(tensor.shape) for name, tensor in convert_back(model, model.state_dict()).items()}
