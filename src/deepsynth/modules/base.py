"""The settings, the training step and the optimizer; backends say how weights are loaded and adapted."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

from deepsynth._version import __version__
from deepsynth.distributed.ranks import mean_over_ranks
from deepsynth.distributed.strategy import apply_strategy, check_module
from deepsynth.generation import Implementation
from deepsynth.models.kernels.decoder import Kernels
from deepsynth.models.kernels.linear_cross_entropy import Loss
from deepsynth.models.lora import Experts, LoraScope, untrained_adapters
from deepsynth.models.quantization.weight_table import count_parameters
from deepsynth.models.registry import load_pretrained
from deepsynth.modules.adapter import adapter_state, read_adapter, write_adapter
from deepsynth.modules.checkpoint import CheckpointedModule
from deepsynth.modules.evaluation import in_dtype
from deepsynth.modules.optim import FusedAdamW, Schedule, check_optimizer, make_schedule
from deepsynth.modules.training_engine import ActivationMemory, Compile, EngineModule
from deepsynth.types import Batch

log = logging.getLogger("deepsynth")

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flash_attention_4"]


class DeepSynthModule(EngineModule, CheckpointedModule, ABC):
    """Fine-tunes a vision-language OCR model with LoRA, and reads with it.

    Log keys: ``train/loss``; ``val/loss`` and ``test/loss``; from generated text ``val/cer``, ``val/wer``,
    ``val/cer_median``, ``val/cer_capped``, ``val/exact_match``, ``val/rouge1``, ``val/rouge2``, ``val/rougeL``,
    ``val/bleu``, ``val/loop_rate`` and the same under ``test/`` and ``predict/``.

    A checkpoint holds the adapter alone, with the optimizer, schedule, place in the data and random state.

    Args:
        model_name: a built-in model, a local folder or a Hub repository.
        adapter: start from the weights of this adapter: a plain peft folder. ``--ckpt_path`` of a folder or of
            ``hf://owner/repo@revision`` sets it.
        weights: ``pretrained``, or ``random`` to make the architecture with random weights (for benchmarks).
        dtype: of the frozen weights; ``auto`` is bfloat16 where the GPU has it, else float16 on a GPU, float32 on the
            CPU. Adapters are float32.
        attn_implementation: of the decoder; the vision encoder takes ``sdpa`` where the decoder takes flash attention,
            whose package is never needed: ``sdpa`` is fused in torch itself.
        experts_implementation: transformers' name (``eager``, ``grouped_mm``, ``batched_mm``); by default its choice,
            and in training, for experts that stay frozen, ``kernels``.
        kernels: in training ``auto`` takes faster ways through the layers (``models.decoder_kernels``,
            ``models.sam_attention``), ``plain`` those of transformers and peft.
        loss: ``chunked`` never holds the logits of more than a few hundred positions, ``liger`` is liger-kernel's for
            CUDA, ``plain`` is the model's own; ``auto`` is ``liger`` where it can be, else ``chunked``.
        activation_memory: what layers keep for the backward pass: all (``none``), all but the gates of frozen experts,
            or without these outputs of matrix products (``selective``), their inputs (``full``), or not even those on
            the GPU (``offload``): each smaller and slower than the one before. ``auto`` tries one step and takes the
            first within the memory there is.
        memory_budget_gib: for ``auto``: what a step may take on a GPU, nine tenths of it by default.
        vision_cache: keep what frozen vision makes of a page: ``memory`` of this process, ``disk``
            (``~/.cache/deepsynth/vision``) or a folder, for all processes and runs. It pays where the same pixels come
            again: without an augmenter, or with ``data.augment_variants``.
        vision_cache_gib: most that the cache holds.
        vision_chunk: images that frozen vision encodes together; by default 1 on the CPU and on CUDA 8, or 4 with a
            cache or in 32 bits.
        compile: compile the layers of the ``decoder``, of ``vision`` or of ``all`` for training; it takes minutes at
            the start.
        cuda_graphs: replay compiled layers as CUDA graphs: for batches so small that launching kernels takes longer
            than computing. Wants ``data.pad_to_multiple_of``: every length is recorded apart.
        lora_rank: r of the adapters.
        lora_alpha: scale of the adapters; by default twice the rank.
        lora_dropout: on the adapters' input.
        lora_attention: adapt the decoder's attention.
        lora_mlp: adapt the decoder's dense layers.
        lora_experts: adapt ``none``, ``shared``, ``routed`` or ``all`` experts.
        lora_vision: adapt the vision encoder, which otherwise stays frozen.
        lora_projector: adapt the projector between vision encoder and decoder.
        rslora: scale by alpha / sqrt(r) instead of alpha / r.
        dora: weight-decomposed adapters.
        lora_init: of the adapters' A matrices: ``default`` (uniform) or ``gaussian``; B begins at zero.
        optimizer: a callable of parameters, given as ``class_path`` and ``init_args``; by default AdamW, fused on
            CUDA.
        schedule: after the warm-up ``constant``, or ``linear`` or ``cosine`` decay to 0.
        warmup_steps: optimizer steps of linear warm-up.
        max_new_tokens: most tokens that are generated for one sample.
        generation: ``deepsynth`` is the decoder of this package, ``transformers`` the model's own; ``auto`` is the
            first for the models that it knows.
        generation_compile: what that decoder compiles: the layers of ``vision``, ``all`` (the steps of a GPU too), or
            ``none``; it takes minutes at the start. ``auto`` is ``vision`` on CUDA, else ``none``.
        stop_loops: end a text whose last 30 tokens stand once more among the 90 before them.
        generate_samples: validation samples that are read by generation, from the start, over all processes; 0 for
            none. Test and predict read all.
        generate_time_s: seconds that one validation's generation may take per process, after its first batch; the log
            says when it cut in. Test and predict take the time they need.

    Raises:
        ValueError: for settings out of range, with the key.
    """

    #: What a checkpoint says about the adapter must hold wherever it is loaded.
    ADAPTER_KEYS: tuple[str, ...] = (
        "lora_rank",
        "lora_alpha",
        "lora_attention",
        "lora_mlp",
        "lora_experts",
        "lora_vision",
        "lora_projector",
        "rslora",
        "dora",
    )

    def __init__(
        self,
        model_name: str = "deepsynth/tiny-random",
        adapter: str | None = None,
        weights: Literal["pretrained", "random"] = "pretrained",
        dtype: Dtype = "auto",
        attn_implementation: Attention = "sdpa",
        experts_implementation: str | None = None,
        kernels: Kernels = "auto",
        loss: Loss = "auto",
        activation_memory: ActivationMemory = "auto",
        memory_budget_gib: float | None = None,
        vision_cache: str = "none",
        vision_cache_gib: float = 4.0,
        vision_chunk: int | None = None,
        compile: Compile = "none",
        cuda_graphs: bool = False,
        lora_rank: int = 16,
        lora_alpha: float | None = None,
        lora_dropout: float = 0.0,
        lora_attention: bool = True,
        lora_mlp: bool = False,
        lora_experts: Experts = "none",
        lora_vision: bool = False,
        lora_projector: bool = False,
        rslora: bool = False,
        dora: bool = False,
        lora_init: str = "default",
        optimizer: OptimizerCallable = lambda params: FusedAdamW(params, lr=2e-4),
        schedule: Schedule = "cosine",
        warmup_steps: int = 0,
        max_new_tokens: int = 512,
        generation: Implementation = "auto",
        generation_compile: Literal["auto", "none", "vision", "all"] = "auto",
        stop_loops: bool = True,
        generate_samples: int = 64,
        generate_time_s: float = 300.0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("lora_rank", lora_rank, 1),
            ("warmup_steps", warmup_steps, 0),
            ("max_new_tokens", max_new_tokens, 1),
            ("generate_samples", generate_samples, 0),
        ):
            if value < least:
                raise ValueError(f"model.{name} is {value}; it must be at least {least}")
        if not 0 <= lora_dropout < 1:
            raise ValueError(f"model.lora_dropout is {lora_dropout}; it must be at least 0 and below 1")
        if generate_time_s <= 0:
            raise ValueError(f"model.generate_time_s is {generate_time_s}; it must be above 0 seconds")
        check_optimizer(optimizer)
        self.save_hyperparameters(ignore=["optimizer"])
        self.check_engine(self.hparams)
        self.optimizer = optimizer
        self.model: Any = None
        self._loaded_dtype: torch.dtype | None = None
        self.processor: Any = None

    # ------------------------------------------------------------------ weights

    @abstractmethod
    def load_model(self) -> Any:
        """Return the base model with adapters on it, weights loaded, only the adapters trainable."""

    @property
    def scope(self) -> LoraScope:
        """The parts of the model that are adapted."""
        h = self.hparams
        return LoraScope(h["lora_attention"], h["lora_mlp"], h["lora_experts"], h["lora_vision"], h["lora_projector"])

    @property
    def resolved_dtype(self) -> torch.dtype:
        """The dtype of the frozen weights: of those that are loaded, else of those that would be on this device."""
        return self._loaded_dtype or self.dtype_on(self.device.type)

    def dtype_on(self, device_type: str) -> torch.dtype:
        """Return the dtype that the frozen weights will have on a type of device, as ``model.dtype`` says.

        Args:
            device_type: torch's name, such as ``cuda`` or ``cpu``.
        """
        name: str = self.hparams["dtype"]
        if name != "auto":
            dtype: torch.dtype = getattr(torch, name)
            return dtype
        if device_type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16

    def configure_model(self) -> None:
        """Load the weights, once, where Lightning wants them."""
        if self.model is not None:
            return
        from transformers import AutoProcessor

        check_module(self, self.hparams.get("quantization", "none"), self.resolved_dtype)
        self.processor = load_pretrained(AutoProcessor, self.hparams["model_name"])
        self.model = self.load_model()
        self._loaded_dtype = self.resolved_dtype  # a module that is moved later keeps the weights that it has
        if self.hparams["adapter"]:
            read_adapter(self.model, Path(self.hparams["adapter"]))
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        total = count_parameters(self.model)
        dtype, quantized = str(self.resolved_dtype).removeprefix("torch."), self.hparams.get("quantization", "none")
        kept = dtype if quantized == "none" else f"{quantized} and {dtype}"
        rank_zero_info(
            f"{self.hparams['model_name']}: {total - trainable:,} frozen parameters in {kept}, {trainable:,} trainable "
            f"({trainable / total:.2%})"
        )
        apply_strategy(self, self.model, all_weights=not self.ADAPTER_KEYS)
        self.start_engine(self.model)

    def save_adapter(self, folder: Path, state: dict[str, torch.Tensor] | None = None) -> None:
        """Write the adapter as a plain peft folder, with the processor and DeepSynth's own settings beside it.

        The folder appears whole or not at all.

        Args:
            folder: is made, or replaced.
            state: the trained weights, as :func:`adapter_state` returns them; sharded ones must be gathered by all
                processes, before the one that writes comes here.
        """
        settings = {
            "deepsynth": __version__,
            "module": type(self).__name__,
            "prompt": self.prompt,
            "step": self.global_step,
            **dict(self.hparams),
        }
        state = adapter_state(self) if state is None else state
        write_adapter(self.model, self.processor, json.dumps(settings, indent=2) + "\n", folder, state)

    # ------------------------------------------------------------------ steps

    def compute_loss(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss over the batch's label tokens."""
        assert self.training_forward is not None, "configure_model was called"
        if self.hparams["cuda_graphs"]:
            # Otherwise each compiled layer without gradients, as all of frozen vision, counts as a step of its own,
            # which may overwrite what the one before it has returned.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return self.training_forward(in_dtype(batch, self.resolved_dtype).inputs)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss to train on; logged is the mean over the label tokens of all processes."""
        self._see_prompt(batch)
        loss, mean = mean_over_ranks(self.compute_loss(batch), (batch.tokens["labels"] != -100).sum())
        self.log("train/loss", mean, prog_bar=True, batch_size=len(batch))
        return loss

    # ------------------------------------------------------------------ optimization and checks

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimizer over the trainable parameters, and its schedule by steps."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        total = self.trainer.estimated_stepping_batches
        schedule = make_schedule(
            optimizer,
            self.hparams["schedule"],
            self.hparams["warmup_steps"],
            None if total == float("inf") else int(total),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_after_backward(self) -> None:
        """Stop a run whose adapters do not train, after its first backward pass.

        Raises:
            MisconfigurationException: with the names of the adapters that got no gradient.
        """
        if self.global_step > 0:
            return
        dead = untrained_adapters(self.model)
        if dead:
            raise MisconfigurationException(
                f"{len(dead)} LoRA B matrices got no gradient in the first step, so they would train nothing: "
                + ", ".join(dead[:4])
                + (", …" if len(dead) > 4 else "")
            )
