"""What makes a training step fast and small: which options a run has, and what they resolve to on its machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from deepsynth.distributed.sharding import is_sharded
from deepsynth.distributed.strategy import attached_trainer
from deepsynth.models.engine.compilation import Compilation, choose_compilation, missing_compiler
from deepsynth.models.engine.fast_paths import TrainingPaths, install_training_paths
from deepsynth.models.engine.feature_cache import DEFAULT_FOLDER, GIB, DiskCache, FeatureCache, MemoryCache, context_of
from deepsynth.models.engine.image_features import vision_tensors
from deepsynth.models.engine.layer_runner import LEVELS, LayerRunner, Level, keep
from deepsynth.models.engine.path_rows import describe
from deepsynth.models.engine.training_forward import TrainingForward
from deepsynth.models.kernels import sam_attention
from deepsynth.modules.model_module import ModelModule
from deepsynth.profiling.memory import peak_bytes
from deepsynth.types import Batch

#: Share of a GPU's memory that ``activation_memory=auto`` plans with: later batches may be longer than the first.
_PLANNED_SHARE = 0.9


class TrainingEngine:
    """Builds the forward pass of training around a loaded model, and chooses what its layers keep.

    Args:
        module: with the settings ``engine``.
    """

    def __init__(self, module: ModelModule) -> None:
        self._module = module
        #: What is installed in the model, by :meth:`build_forward`.
        self.fast_paths: TrainingPaths | None = None
        self._forward: TrainingForward | None = None
        self._level: Level = "none"
        self._chosen = False

    @property
    def layers(self) -> list[LayerRunner]:
        """The transformer layers of the decoder and of the vision encoder."""
        return [] if self.fast_paths is None else self.fast_paths.layers

    def build_forward(self, model: Any) -> TrainingForward:
        """Return the forward pass of training for a loaded model, in which it installs the fast paths."""
        engine = self._module.engine
        self.fast_paths = install_training_paths(
            model.get_base_model() if hasattr(model, "get_base_model") else model,
            kernels=engine.kernels,
            experts=engine.experts_implementation,
        )
        forward = TrainingForward(
            model,
            loss=engine.loss,
            vision_chunk=engine.vision_chunk,
            cache=self._make_cache(model),
            fast_paths=self.fast_paths,
        )
        self._forward = forward
        if engine.activation_memory != "auto":
            self._keep(engine.activation_memory)
        if engine.compile != "auto":
            reason = f"model.engine.compile is {engine.compile}"
            self._compile(Compilation(engine.compile, engine.cuda_graphs is True, reason))
        return forward

    def _make_cache(self, model: Any) -> FeatureCache | None:
        kind, limit = self._module.engine.vision_cache, int(self._module.engine.vision_cache_gib * GIB)
        if kind == "none":
            return None
        if kind == "memory":
            return MemoryCache(limit)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        vision = list(vision_tensors(base))
        by_kernel = self._module.engine.kernels == "auto" and sam_attention.has_kernel(next(iter(base.parameters())))
        details = self._module.engine.compile, self._module.engine.vision_chunk, self._module.engine.kernels, by_kernel
        context = context_of(base, vision, *details)
        trainer = attached_trainer(self._module)
        ranks = trainer.world_size if trainer is not None else 1
        return DiskCache(DEFAULT_FOLDER if kind == "disk" else Path(kind), context, limit, ranks)

    def leave_to_backend(self) -> None:
        """Choose nothing: a backend prepares the layers itself."""
        self._chosen = True

    def start_fit(self) -> None:
        """Log the fast paths, and reset the choices made for an earlier run, whose batches may have been smaller."""
        if self.fast_paths is not None:
            rank_zero_info(describe(self.fast_paths.rows))
        if self.layers:
            self._chosen = False

    def start_batch(self, batch: Batch) -> None:
        """Choose on the first batch of a run what layers keep, and what is compiled, where the settings say auto."""
        if self._chosen or self.fast_paths is None:
            return
        self._chosen = True
        engine, family = self._module.engine, self._module.family
        if engine.activation_memory == "auto":
            if engine.compile == "auto":
                self.fast_paths.compile("none")  # the trial takes no time for it
            self._choose_activations(batch)
        if engine.compile == "auto" and family is not None and family.supports("compile"):
            chosen = self._choose_compilation(batch)
            if engine.cuda_graphs != "auto":
                chosen = replace(chosen, cuda_graphs=engine.cuda_graphs)
            self._compile(chosen)

    def _keep(self, level: Level) -> None:
        self._level = level
        keep(self.layers, level)

    def _compile(self, chosen: Compilation) -> None:
        assert self.fast_paths is not None, "build_forward was called"
        assert self._forward is not None, "build_forward was called"
        self.fast_paths.compile(chosen.parts, chosen.options)
        self._forward.fixed_chunks = self._forward.cache is not None or chosen.parts in ("vision", "all")
        self._forward.cuda_graphs = chosen.cuda_graphs and chosen.parts != "none"
        recorded = ", as CUDA graphs" if self._forward.cuda_graphs else ""
        rank_zero_info(f"compiled layers: {chosen.parts}{recorded} ({chosen.reason})")

    def _choose_compilation(self, batch: Batch) -> Compilation:
        module, forward = self._module, self._forward
        assert forward is not None, "build_forward was called"
        if module.device.type != "cuda":
            against = f"the model is on {module.device.type}"
        elif module.engine.kernels == "plain" or module.engine.loss == "plain":
            against = "model.engine.kernels or model.engine.loss is plain"
        elif is_sharded(module):
            against = "weights are sharded"
        elif module.quantization != "none":
            against = f"weights are in {module.quantization}"
        elif "position_ids" in batch.tokens:
            against = "rows are packed"
        else:
            against = missing_compiler()
        trainer = module.trainer
        return choose_compilation(
            batches=trainer.estimated_stepping_batches * trainer.accumulate_grad_batches,
            length=batch.tokens["input_ids"].shape[1],
            keeps_activations=self._level == "none",
            frozen_vision=forward.vision_has_one_shape,
            cached_vision=forward.cache is not None,
            against=against,
        )

    def _choose_activations(self, batch: Batch) -> None:
        """Take the fastest level whose step stays within the budget."""
        budget = self._budget_bytes()
        if budget is None:  # no stated budget, and no GPU
            return
        if is_sharded(self._module):  # a trial would gather gradients, which is what sharding avoids
            self._keep("full")
            rank_zero_info(
                "activation_memory: full, as weights are sharded; model.engine.activation_memory sets another"
            )
            return
        compiled = self._module.engine.compile in ("decoder", "all")
        tried: dict[Level, float] = {}
        for level in LEVELS:
            if level == "selective" and compiled:
                continue
            self._keep(level)
            tried[level] = self._peak_of_a_step(batch)
            if tried[level] <= budget:
                break
        figures = ", ".join(f"{level} {peak / GIB:.2f}" for level, peak in tried.items())
        message = f"activation_memory: {level}; GiB of one step: {figures}; budget {budget / GIB:.2f}"
        if tried[level] <= budget:
            rank_zero_info(message)
        else:
            rank_zero_warn(f"{message}; even that is not within it: use a smaller data.batch_size")

    def _budget_bytes(self) -> float | None:
        if self._module.engine.memory_budget_gib is not None:
            return float(self._module.engine.memory_budget_gib) * GIB
        if self._module.device.type != "cuda":
            return None
        free, _ = torch.cuda.mem_get_info(self._module.device)
        return (free + torch.cuda.memory_reserved(self._module.device)) * _PLANNED_SHARE

    def _peak_of_a_step(self, batch: Batch) -> float:
        """Return the peak of a forward and backward pass, plus the optimizer's two moments if they are still to come.

        Gradients are thrown away, and the random state is put back: the run is the same as without the trial.
        """
        trainer = self._module.trainer
        trained = [p for p in self._module.parameters() if p.requires_grad]

        def step() -> None:
            with trainer.precision_plugin.forward_context():
                loss = self._module.compute_loss(batch)
            torch.autograd.grad(loss, trained, allow_unused=True)

        devices = [self._module.device] if self._module.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            peak = peak_bytes(step, self._module.device)
        optimizer = trainer.optimizers[0]
        if not optimizer.state:
            peak += 2 * sum(p.numel() * p.element_size() for p in trained)
        return float(
            self._module.trainer.strategy.reduce(torch.tensor(peak, device=self._module.device), reduce_op="max")
        )

    def log_cache_hits(self, batch: Batch) -> None:
        """Log the share of the batch's images whose features were in the cache."""
        cache = self._forward.cache if self._forward is not None else None
        if cache is not None and cache.lookups:
            self._module.log("train/vision_cache_hits", cache.hits / cache.lookups, batch_size=len(batch))
            cache.hits = cache.lookups = 0
