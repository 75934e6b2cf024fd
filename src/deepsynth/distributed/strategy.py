"""Lightning's strategy for FSDP2, with checkpoints that are one process's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from lightning.pytorch.strategies.parallel import ParallelStrategy
from torch.optim import Optimizer

from deepsynth.distributed import support as parallel
from deepsynth.distributed.ranks import check_placement, names_ddp_ignores
from deepsynth.distributed.sharding import (
    gather_for_evaluation,
    is_sharded,
    like,
    scatter_after_evaluation,
    shard,
    whole_on_rank_zero,
)


class FullyShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes: each keeps a share of the weights, their gradients and the optimizer's state.

    A module shards itself in ``configure_model``. A checkpoint is the file that one process writes, so it loads in any
    number of processes, sharded or not. Evaluation has the weights whole, in every process.

    Example::

        trainer:
          strategy: {class_path: deepsynth.distributed.strategy.FullyShardedStrategy}

    Args:
        process_group_backend: torch's name; by default ``nccl`` on GPUs, ``gloo`` on CPUs.
        timeout: after which a process that waits for the others gives up.
    """

    def __init__(
        self, process_group_backend: str | None = None, timeout: timedelta | None = default_pg_timeout
    ) -> None:
        super().__init__(
            save_distributed_checkpoint=False, process_group_backend=process_group_backend, timeout=timeout
        )

    def setup_environment(self) -> None:
        """Make one mesh of all processes; Lightning's default splits tensors within a machine."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    # ------------------------------------------------------------------ checkpoints

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Have Lightning hand over the optimizer's state, as it does for one process."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return nothing: the module puts what it trained into the checkpoint by itself."""
        return {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the state as one process has it; on other ranks than zero without the tensors."""
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = inner.state_dict()
        whole = {number: _whole_entry(entry) for number, entry in state["state"].items()}
        return {**state, "state": whole}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the file, in every process."""
        path = self.broadcast(checkpoint_path)
        return ParallelStrategy.load_checkpoint(self, path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Copy this process's shards out of what was trained."""
        assert self.lightning_module is not None
        with torch.no_grad():
            for name, parameter in self.lightning_module.named_parameters():
                if name in checkpoint["state_dict"]:
                    parameter.copy_(like(checkpoint["state_dict"][name], parameter))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this process's shards of the optimizers' states."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            shards = {
                number: {key: _as_shard(value, parameters[number]) for key, value in entry.items()}
                for number, entry in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": shards})

    # ------------------------------------------------------------------ evaluation

    def on_validation_start(self) -> None:
        """Make the weights whole."""
        self._gather()

    on_test_start = on_validation_start
    on_predict_start = on_validation_start

    def on_validation_end(self) -> None:
        """Free them."""
        assert self.model is not None
        scatter_after_evaluation(self.model)

    on_test_end = on_validation_end
    on_predict_end = on_validation_end

    def _gather(self) -> None:
        assert self.model is not None
        if not is_sharded(self.model):
            raise ValueError(
                f"{type(self.lightning_module).__name__} did not shard its weights in configure_model; "
                "use PeftModule or FullModule, or configs/trainer/ddp.yaml"
            )
        gather_for_evaluation(self.model)


def _whole_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Return one parameter's state, unsharded."""
    tensors = {key: value for key, value in entry.items() if isinstance(value, torch.Tensor)}
    return {**{key: value for key, value in entry.items() if key not in tensors}, **whole_on_rank_zero(tensors)}


def _as_shard(value: Any, parameter: torch.Tensor) -> Any:
    """Return what belongs to the parameter element by element as its shard; a step count stays what it is."""
    if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.dim():
        return like(value, parameter)
    return value


def kind_of(strategy: Strategy) -> parallel.Strategy:
    """Return the name that the table of :mod:`deepsynth.distributed.support` has for a strategy of Lightning's."""
    if isinstance(strategy, FullyShardedStrategy):
        return "fsdp2"
    if isinstance(strategy, DDPStrategy) and not isinstance(strategy, DeepSpeedStrategy):
        return "ddp"
    return "one process" if isinstance(strategy, SingleDeviceStrategy) else "other"


def check_module(module: LightningModule, dtype: torch.dtype) -> None:
    """Refuse a module's settings where they do not work with its trainer's strategy.

    Args:
        module: with its settings; without a trainer there is nothing to refuse.
        dtype: of the base's weights.

    Raises:
        ValueError: with the reason and what to use instead.
    """
    trainer, settings = module._trainer, module.hparams
    if trainer is None:
        return
    weights: parallel.Weights = "16 or 32 bits"
    if settings.get("quantization", "none") != "none":
        weights = "nf4 or int8"
    elif dtype == torch.float16 or trainer.precision == "16-mixed":
        weights = "float16"
    routed = settings["lora_experts"] in ("routed", "all")
    scope: parallel.Scope = "routed experts" if routed else "linear layers"
    if not module.ADAPTER_KEYS:
        scope = "all weights"
    asked = type(trainer.strategy).__name__
    parallel.check_combination(type(module).__name__, kind_of(trainer.strategy), weights, scope, asked=asked)


def loading_device(module: LightningModule) -> torch.device:
    """Return where weights are loaded: what will be sharded never lies whole on a GPU."""
    trainer = module._trainer
    sharded = trainer is not None and kind_of(trainer.strategy) == "fsdp2"
    return torch.device("cpu") if sharded else module.device


def share_between_processes(module: LightningModule, model: torch.nn.Module) -> None:
    """Do with a loaded model what the trainer's strategy asks for: shard it, or keep its frozen part out of DDP.

    Args:
        module: whose ``model`` it is; without a trainer nothing is done.
        model: with its trained parameters marked by ``requires_grad``.

    Raises:
        ValueError: when the model does not lie whole on this process's device.
    """
    trainer = module._trainer
    if trainer is None:
        return
    kind = kind_of(trainer.strategy)
    if kind == "fsdp2":
        mesh = module.device_mesh
        assert mesh is not None, "the strategy makes it before the model is configured"
        compute = torch.bfloat16 if trainer.precision == "bf16-mixed" else None
        shard(model, mesh["data_parallel"], compute_dtype=compute)
    elif kind == "ddp":
        check_placement(model, module.device)
        assert isinstance(trainer.strategy, DDPStrategy)
        if not module.ADAPTER_KEYS:
            # Some weights are for pages of one size alone, and DDP would wait for the gradients of the others.
            trainer.strategy._ddp_kwargs["find_unused_parameters"] = True
        vars(module)["_ddp_params_and_buffers_to_ignore"] = names_ddp_ignores(module)
