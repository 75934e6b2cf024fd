"""The one count of floating-point operations (FLOPs) and the one definition of MFU.

MFU (model FLOPs utilization; Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B) is the operations
that a training step needs, divided by the time it took and by the dense peak of the device's data sheet. What is needed
follows from the architecture, from what is trained and from the batch, whatever implementation computes it. Not counted
are activations that are recomputed, trial steps, padding, and pairs of tokens that causal attention masks.

A multiplication with its addition is two operations. A product of N rows with a matrix (O, I) takes ``2 N O I`` in the
forward pass, the same again for the gradient of its input where one is needed, and the same again for the gradient of
the matrix where it is trained. A LoRA adapter of rank r takes ``2 N r (O + I)`` forward and twice that backward. The
decoder's products are listed in :class:`TrainingFlops`; vision of square views is counted by PyTorch on tensors without
content (the ``meta`` device), that of images at their own size in ``patch_flops``. DoRA's norms and everything that is
not a matrix product are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from deepsynth.profiling.patch_flops import PatchFlops

#: Dense tensor-core peaks in bfloat16 (float16 where the chip has no bfloat16) with float32 accumulation, TFLOP/s, by a
#: part of the device's name, the longer names first. From NVIDIA's data sheets; those with sparsity are halved.
#: ``lightning.fabric.utilities.throughput.get_available_flops`` of 2.6 does not serve: it has the peaks with sparsity
#: for H200 and H100 NVL, does not know the name "NVIDIA H200", and takes an L40S for an L4.
PEAK_TFLOPS: dict[str, float] = {
    "B200": 2250.0,
    "GH200": 989.4,
    "H200 NVL": 835.5,
    "H200": 989.4,
    "H100 NVL": 835.5,
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "A100": 312.0,
    "A40": 149.7,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX A6000": 154.8,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "V100": 125.0,
    "T4": 65.0,
}


def peak_flops(device_name: str, dtype: torch.dtype) -> float | None:
    """Return the dense peak of a device in FLOP/s, or ``None`` when it is not known.

    Args:
        device_name: as :func:`torch.cuda.get_device_name` returns it.
        dtype: of the matrix products; only the 16-bit types have one answer.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return None
    words = device_name.replace("-", " ")
    return next((peak * 1e12 for name, peak in PEAK_TFLOPS.items() if f" {name} " in f" {words} "), None)


def device_peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return :func:`peak_flops` of a device, ``None`` for a CPU."""
    return peak_flops(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None


#: Where vision and what connects it to the decoder are.
_VISION = ("model.vision_tower", "model.multi_modal", "model.visual", "model.projector")


class TrainingFlops:
    """Operations that training steps of a model need.

    Args:
        model: a loaded model with decoder and views as DeepSeek-OCR's, or with a dense decoder behind an encoder that
            reads images at their own size; or peft's model around it. Its weights may be quantized or sharded; which of
            them are trained, and its active adapters, are read once.
        window: how many of the tokens behind its prompt a token attends to, itself included; ``None``: to all.
    """

    def __init__(self, model: Any, window: int | None = None) -> None:
        self.window = window
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._config = base.config
        self._ranks = _adapter_ranks(base)
        self._trained = {
            _plain(name) for name, weight in base.named_parameters() if weight.requires_grad and "lora_" not in name
        }
        self._modules = {_plain(name) for name, _ in base.named_modules()}
        self._views: dict[int, int] = {}
        self._patches = PatchFlops(base, self._product, self._is_trained) if hasattr(base.model, "visual") else None
        self._per_token = self._per_pair = 0
        self._count_decoder()

    @classmethod
    def of_module(cls, module: Any) -> TrainingFlops | None:
        """Return the operations of a loaded module; ``None`` where its family says that they are not counted."""
        window = module.family.window(module.model.config)
        return cls(module.model, window) if module.family.supports("flops") else None

    def of_text(self, amounts: Sequence[float] | torch.Tensor) -> float:
        """Return the operations of the decoder, forward and backward.

        Args:
            amounts: of one or several batches, as :meth:`amounts` returns them.
        """
        tokens, pairs, labels = (float(amount) for amount in amounts)
        return tokens * self._per_token + pairs * self._per_pair + labels * self._per_label

    def of_images(self, inputs: dict[str, torch.Tensor]) -> int:
        """Return the operations of vision encoder and projector for all images of a batch, forward and backward.

        Args:
            inputs: of a batch, with its views and tiles (…, 3, S, S), or the grids of its images (V, 3) on the host.
        """
        if self._patches is not None:
            return sum(self._patches(*grid) for grid in inputs["image_grid_thw"].tolist())
        views = [inputs[name] for name in ("pixel_values", "pixel_values_local") if name in inputs]
        return sum(len(images) * self._of_view(images.shape[-1]) for images in views if len(images))

    @staticmethod
    def amounts(inputs: dict[str, torch.Tensor], window: int | None = None) -> torch.Tensor:
        """Return what the decoder works on: tokens, pairs of tokens in attention, and labels, as (3,) int64.

        Args:
            inputs: of a batch, right-padded or packed (with ``position_ids``), on any device, where the tensor stays.
            window: that attention has behind the prompt, which ends at the first label.
        """
        mask = inputs["attention_mask"]
        positions = inputs.get("position_ids")
        if positions is None:
            positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        pairs, learned = ((positions + 1) * mask).sum(), inputs["labels"] != -100
        if window is not None:
            sequences = (positions == 0).flatten().cumsum(0) - 1
            prompts = torch.full_like(sequences, positions.shape[1])  # their lengths
            prompts.scatter_reduce_(0, sequences[learned.flatten()], positions[learned], "amin")
            written = positions - prompts[sequences].view_as(positions) + 1
            pairs = pairs - ((written - window).clamp(min=0) * mask).sum()
        return torch.stack([mask.sum(), pairs, learned[:, 1:].sum()])

    # ------------------------------------------------------------------ decoder

    def _count_decoder(self) -> None:
        text = self._config.get_text_config()
        hidden, width = text.hidden_size, getattr(text, "head_dim", None)
        width = width or hidden // text.num_attention_heads
        heads, keys = width * text.num_attention_heads, width * text.num_key_value_heads
        # Whether what comes along needs a gradient: it does from the first trained weight on.
        needed = self._is_trained("model.language_model.embed_tokens", *_VISION)
        kinds = getattr(text, "mlp_layer_types", None) or ["dense"] * text.num_hidden_layers
        for index, kind in enumerate(kinds):
            layer = f"model.language_model.layers.{index}"
            attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
            needed = self._products(attention, {"q_proj": heads, "k_proj": keys, "v_proj": keys}, hidden, needed)
            self._per_pair += 4 * heads * (3 if needed else 1)  # scores and values, each with two gradients
            needed = self._products(attention, {"o_proj": hidden}, heads, needed)
            if kind == "dense":
                needed = self._gated(mlp, hidden, text.intermediate_size, needed)
                continue
            inner, shared = text.moe_intermediate_size, text.moe_intermediate_size * text.n_shared_experts
            routed, experts = text.num_experts_per_tok, f"{mlp}.experts"
            by_router = self._products(mlp, {"gate": text.n_routed_experts}, hidden, needed)
            by_experts = self._products(experts, {"gate_up_proj": 2 * inner}, hidden, needed, rows=routed)
            by_experts = self._products(experts, {"down_proj": hidden}, inner, by_experts, rows=routed)
            needed = self._gated(f"{mlp}.shared_experts", hidden, shared, needed) or by_router or by_experts
        tied = getattr(self._config, "tie_word_embeddings", False)
        head = "model.language_model.embed_tokens" if tied else "lm_head"
        self._per_label = self._product(head, text.vocab_size, hidden, needed)

    def _gated(self, name: str, hidden: int, inner: int, needed: bool) -> bool:
        both = {"gate_up_proj": 2 * inner} if f"{name}.gate_up_proj" in self._modules else None
        needed = self._products(name, both or {"gate_proj": inner, "up_proj": inner}, hidden, needed)
        return self._products(name, {"down_proj": hidden}, inner, needed)

    def _products(self, prefix: str, outputs: dict[str, int], inputs: int, needed: bool, rows: int = 1) -> bool:
        """Count matrices side by side, and return whether what they return needs a gradient."""
        names = [f"{prefix}.{name}" for name in outputs]
        for name, width in zip(names, outputs.values(), strict=True):
            self._per_token += rows * self._product(name, width, inputs, needed)
        return needed or self._is_trained(*names)

    def _product(self, name: str, outputs: int, inputs: int, needed: bool) -> int:
        """Return the operations of a row: of the matrix (O, I), and of its adapter."""
        trained = any(weight == name or weight.startswith(f"{name}.") for weight in self._trained)
        of_adapter = 2 * self._ranks.get(name, 0) * (3 * (outputs + inputs) - (0 if needed else inputs))
        return 2 * outputs * inputs * (1 + needed + trained) + of_adapter

    def _is_trained(self, *prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in (*self._trained, *self._ranks))

    # ------------------------------------------------------------------ vision

    def _of_view(self, side_px: int) -> int:
        if side_px not in self._views:
            self._views[side_px] = self._count_view(side_px)
        return self._views[side_px]

    def _count_view(self, side_px: int) -> int:
        """Count a view on a copy of vision without weights, with eager attention, which computes nothing twice."""
        from transformers import AutoModelForImageTextToText

        with torch.device("meta"):
            config = deepcopy(self._config)
            whole = AutoModelForImageTextToText.from_config(config, dtype=torch.float32, attn_implementation="eager")
            for name, weight in whole.named_parameters():
                weight.requires_grad_(name in self._trained)
            for name, module in whole.named_modules():
                if name in self._ranks and not name.startswith("model.language_model."):
                    module.register_forward_hook(_adapter(self._ranks[name], module))
            with FlopCounterMode(display=False) as counter:
                seen = whole.model.vision_tower(torch.empty(1, 3, side_px, side_px)).last_hidden_state
                features = whole.model.multi_modal_projector(seen)
                if features.requires_grad:
                    features.sum().backward()
        return int(counter.get_total_flops())


def _adapter(rank: int, layer: torch.nn.Module) -> Callable[..., torch.Tensor]:
    """Return a forward hook that adds the products of a LoRA adapter to a linear layer."""
    left = torch.empty(rank, int(layer.in_features), requires_grad=True)  # type: ignore[arg-type]
    right = torch.empty(int(layer.out_features), rank, requires_grad=True)  # type: ignore[arg-type]

    def add(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output + functional.linear(functional.linear(inputs[0], left), right)

    return add


def _plain(name: str) -> str:
    """Return the name that a module or parameter has without peft."""
    return name.replace(".base_layer", "")


def _adapter_ranks(base: Any) -> dict[str, int]:
    """Return the rank of the active adapters by the name of the layer or fused parameter that they adapt."""
    ranks: dict[str, int] = {}
    for name, module in base.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        parameter = getattr(module, "parameter_name", None)  # of routed experts
        path = _plain(name) if parameter is None else f"{_plain(name)}.{parameter}"
        ranks[path] = sum(module.r[adapter] for adapter in module.active_adapters if adapter in module.lora_A)
    return {path: rank for path, rank in ranks.items() if rank}
