"""The only training, validation, test and prediction steps; backends say how weights are loaded and adapted."""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

from deepsynth import __version__
from deepsynth.checkpoint_io import AtomicCheckpointIO
from deepsynth.generation import Generation, generate
from deepsynth.metrics import CorpusMetrics, join_pages
from deepsynth.models.lora import Experts, LoraScope, untrained_adapters
from deepsynth.models.names import load_pretrained
from deepsynth.modules.adapter import adapter_state, check_adapter_keys, read_adapter, write_adapter
from deepsynth.optim import Schedule, check_optimizer, make_schedule
from deepsynth.types import Batch

log = logging.getLogger("deepsynth")

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]


class DeepSynthModule(LightningModule, ABC):
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
        attn_implementation: of the decoder; the vision encoder takes ``sdpa`` where the decoder takes flash attention.
        experts_implementation: transformers' name (``eager``, ``grouped_mm``, ``batched_mm``); by default its choice.
        gradient_checkpointing: recompute activations in the backward pass: less memory, slower.
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
        lora_init: peft's ``init_lora_weights``: ``default``, ``gaussian``, ``loftq``, ``pissa``, ``olora``, ….
        optimizer: a callable of parameters, given as ``class_path`` and ``init_args``.
        schedule: after the warm-up ``constant``, or ``linear`` or ``cosine`` decay to 0.
        warmup_steps: optimizer steps of linear warm-up.
        max_new_tokens: most tokens that are generated for one sample.
        generate_samples: validation samples that are read by generation, from the start; 0 for none. Test and predict
            read all.
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
        gradient_checkpointing: bool = False,
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
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=2e-4),
        schedule: Schedule = "cosine",
        warmup_steps: int = 0,
        max_new_tokens: int = 512,
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
        self.optimizer = optimizer
        self.strict_loading = False  # the base is not in the checkpoint; adapter keys are checked in our own hook
        self.model: Any = None
        self.processor: Any = None
        self.prompt: str | None = None
        self._rows: list[dict[str, Any]] = []
        self._losses: list[tuple[float, int]] = []
        self._generation_deadline: float | None = None
        self._generation_cut = False
        self._generated = 0
        self._random_state: dict[str, Any] | None = None
        self._partial_gradients: dict[str, torch.Tensor] = {}
        #: Called with "generation" when it begins and with ``None`` when it is over; see :class:`VramMonitor`.
        self.phase_listeners: list[Callable[[str | None], None]] = []

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
        """The dtype of the frozen weights on this machine."""
        name: str = self.hparams["dtype"]
        if name != "auto":
            dtype: torch.dtype = getattr(torch, name)
            return dtype
        if self.device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16

    def configure_model(self) -> None:
        """Load the weights, once, where Lightning wants them."""
        if self.model is not None:
            return
        from transformers import AutoProcessor

        self.processor = load_pretrained(AutoProcessor, self.hparams["model_name"])
        self.model = self.load_model()
        if self.hparams["adapter"]:
            read_adapter(self.model, Path(self.hparams["adapter"]))
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.model.parameters())
        rank_zero_info(
            f"{self.hparams['model_name']}: {total - trainable:,} frozen parameters in "
            f"{str(self.resolved_dtype).removeprefix('torch.')}, {trainable:,} trainable ({trainable / total:.2%})"
        )

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter as a plain peft folder, with the processor and DeepSynth's own settings beside it.

        The folder appears whole or not at all.
        """
        settings = {
            "deepsynth": __version__,
            "module": type(self).__name__,
            "prompt": self.prompt,
            "step": self.global_step,
            **dict(self.hparams),
        }
        write_adapter(self.model, self.processor, json.dumps(settings, indent=2) + "\n", folder)

    # ------------------------------------------------------------------ steps

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the mean loss over the batch's label tokens."""
        self._see_prompt(batch)
        loss: torch.Tensor = self.model(**in_dtype(batch, self.resolved_dtype).inputs, use_cache=False).loss
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the loss and, for the samples that are generated, ids, predictions and targets."""
        return self._evaluate(batch, batch_idx, limit=self.hparams["generate_samples"])

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the loss, ids, predictions and targets."""
        return self._evaluate(batch, batch_idx, limit=None)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return a row per sample: document id, page, prediction, target, tokens and why generation stopped."""
        self._see_prompt(batch)
        generations = self.generate(batch)
        assert generations is not None, "without a deadline generation is never cut"
        rows = self._make_rows(batch, generations)
        self._rows += rows
        return rows

    def generate(self, batch: Batch, deadline: float | None = None) -> list[Generation] | None:
        """Write the text of each sample of a batch; ``None`` when the deadline cut it short."""
        self._announce("generation")
        generations = generate(
            self.model,
            self.processor.tokenizer,
            in_dtype(batch, self.resolved_dtype),
            max_new_tokens=self.hparams["max_new_tokens"],
            deadline=deadline,
        )
        self._announce(None)  # not after an exception, which is the generation's own
        return generations

    def _announce(self, phase: str | None) -> None:
        for listener in self.phase_listeners:
            listener(phase)

    def _evaluate(self, batch: Batch, batch_idx: int, limit: int | None) -> dict[str, Any]:
        self._see_prompt(batch)
        loss = self.model(**in_dtype(batch, self.resolved_dtype).inputs, use_cache=False).loss
        tokens = int((batch.inputs["labels"] != -100).sum())
        self._losses.append((float(loss), tokens))
        rows: list[dict[str, Any]] = []
        if (limit is None or self._generated < limit) and not self._generation_cut:
            first = self._generated == 0
            generations = self.generate(batch, None if first or limit is None else self._generation_deadline)
            if first and limit is not None:
                self._generation_deadline = time.monotonic() + self.hparams["generate_time_s"]
            if generations is None:
                self._generation_cut = True
                rank_zero_warn(
                    f"validation: generation took its {self.hparams['generate_time_s']:g} s "
                    f"(model.generate_time_s) and stopped after {self._generated} of {limit} samples"
                )
            else:
                rows = self._make_rows(batch, generations)
                self._generated += len(rows)
                self._rows += rows
        return {"loss": loss, "rows": rows}

    @staticmethod
    def _make_rows(batch: Batch, generations: list[Generation]) -> list[dict[str, Any]]:
        return [
            {
                "id": batch.ids[i],
                "document_id": batch.document_ids[i],
                "page": batch.pages[i],
                "prediction": generation.text,
                "target": batch.targets[i],
                "language": batch.languages[i],
                "source": batch.sources[i],
                "tokens": generation.tokens,
                "stop": generation.stop,
            }
            for i, generation in enumerate(generations)
        ]

    def _see_prompt(self, batch: Batch) -> None:
        """Keep the prompt of the data, which is stored with the adapter; say when it is not the trained one."""
        if self.prompt is None:
            self.prompt = batch.prompt
        elif self.prompt != batch.prompt:
            rank_zero_warn(
                f"the adapter was trained with the prompt {self.prompt!r}; data.prompt is now {batch.prompt!r}"
            )
            self.prompt = batch.prompt

    # ------------------------------------------------------------------ metrics

    def _start_evaluation(self) -> None:
        self._rows, self._losses = [], []
        self._generation_deadline, self._generation_cut, self._generated = None, False, 0

    def _log_evaluation(self, stage: str) -> None:
        """Log what this epoch measured, over all ranks: a document counts once, its pages joined."""
        rows, losses = self._gather(self._rows), self._gather(self._losses)
        tokens = sum(count for _, count in losses)
        if tokens:
            self.log(f"{stage}/loss", sum(loss * count for loss, count in losses) / tokens, prog_bar=True)
        for name, value in self.text_metrics(rows).items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "cer")

    @staticmethod
    def text_metrics(rows: list[dict[str, Any]]) -> dict[str, float]:
        """Return the metrics of generated rows, documents' pages joined; empty when no row has a known target."""
        rows = [row for row in rows if row["target"]]
        if not rows:
            return {}
        ids, pages = [row["document_id"] for row in rows], [row["page"] for row in rows]
        predictions = join_pages(ids, pages, [row["prediction"] for row in rows])
        targets = join_pages(ids, pages, [row["target"] for row in rows])
        metrics = CorpusMetrics(sync_on_compute=False)
        metrics.update(list(predictions.values()), list(targets.values()))
        return {name: float(value) for name, value in metrics.compute().items()}

    def _gather(self, items: list[Any]) -> list[Any]:
        """Return the items of all ranks, in rank order."""
        if self.trainer.world_size == 1:
            return items
        gathered: list[list[Any]] = [[] for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather_object(gathered, items)
        return [item for part in gathered for item in part]

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's rows."""
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        """Forget the last epoch's rows."""
        self._start_evaluation()

    def on_predict_epoch_start(self) -> None:
        """Forget the last epoch's rows."""
        self._start_evaluation()

    def on_validation_epoch_end(self) -> None:
        """Log ``val/*``."""
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/*``."""
        self._log_evaluation("test")

    def on_predict_epoch_end(self) -> None:
        """Print the metrics of the predictions whose targets are known: Lightning logs nothing while predicting."""
        rows = self._gather(self._rows)
        metrics = self.text_metrics(rows)
        if metrics:
            known = len({row["document_id"] for row in rows if row["target"]})
            figures = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("cer", "wer", "cer_median", "loop_rate"))
            rank_zero_info(f"predict: {known} documents with a known text: {figures}")

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

    # ------------------------------------------------------------------ checkpoints

    def setup(self, stage: str) -> None:
        """Have checkpoints written complete or not at all, unless the trainer was given another way."""
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self.trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the adapter alone, and add what an exact resumption needs."""
        checkpoint["state_dict"] = adapter_state(self)
        checkpoint["deepsynth"] = {
            "version": __version__,
            "module": type(self).__name__,
            "prompt": self.prompt,
            "random_state": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            },
            "partial_gradients": self._gradients_waiting_for_a_step(),
        }

    def _gradients_waiting_for_a_step(self) -> dict[str, torch.Tensor]:
        """Return what was accumulated since the last optimizer step, by parameter, averaged over ranks; else nothing.

        Ranks accumulate apart and average at the step, so their mean gives every rank what the step would have seen.
        """
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        if progress.is_last_batch or progress.current.ready % self.trainer.accumulate_grad_batches == 0:
            return {}
        waiting = {name: p.grad.detach() for name, p in self.named_parameters() if p.grad is not None}
        if self.trainer.world_size == 1:
            return waiting
        return {name: self.trainer.strategy.reduce(g.clone(), reduce_op="mean") for name, g in waiting.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the adapter fits, key by key.

        Raises:
            ValueError: for a foreign checkpoint, or one of another adapter, with the keys that differ.
        """
        own = checkpoint.get("deepsynth")
        if own is None:
            raise ValueError("the checkpoint was not written by DeepSynth: it has no 'deepsynth' entry")
        self.configure_model()
        check_adapter_keys(self, checkpoint["state_dict"])
        self.prompt = own["prompt"]
        self._random_state = own["random_state"]
        self._partial_gradients = own.get("partial_gradients", {})

    def on_train_start(self) -> None:
        """Restore what a resumed run had accumulated, and its random state: it goes on as if nothing had happened."""
        for name, parameter in self.named_parameters():
            if name in self._partial_gradients:
                parameter.grad = self._partial_gradients[name].to(parameter)
        self._partial_gradients = {}
        if self._random_state is None:
            return
        torch.set_rng_state(self._random_state["cpu"].cpu())
        states = self._random_state["cuda"]
        if torch.cuda.is_available() and len(states) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in states])
        self._random_state = None


def in_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    """Return the batch with its pixels in the dtype of the weights: without autocast nothing else casts them."""
    cast: dict[int, torch.Tensor] = {}  # inputs and prompts share their pixels, and shall go on sharing them

    def of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for tensor in tensors.values():
            if tensor.is_floating_point() and id(tensor) not in cast:
                cast[id(tensor)] = tensor.to(dtype)
        return {name: cast.get(id(tensor), tensor) for name, tensor in tensors.items()}

    return replace(batch, inputs=of(batch.inputs), prompts=of(batch.prompts))
