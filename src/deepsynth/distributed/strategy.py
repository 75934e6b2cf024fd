"""Lightning's strategy for FSDP2, with checkpoints that are one process's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from torch.optim import Optimizer

from deepsynth.compat.lightning import find_unused_parameters, use_one_mesh
from deepsynth.compat.torch import leave_out_of_ddp
from deepsynth.distributed.ranks import check_placement, frozen_parameter_names
from deepsynth.distributed.sharding import (
    gather_for_evaluation,
    is_sharded,
    scatter_after_evaluation,
    shard,
    shard_like,
    whole_on_rank_zero,
)
from deepsynth.distributed.support import StrategyName, Weights, check_combination
from deepsynth.errors import UserError


class FullyShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes: each keeps a share of the weights, their gradients and the optimizer's state.

    A module shards itself in ``configure_model``. A checkpoint is the file that one process writes, so it loads in any
    number of processes, sharded or not. Evaluation has the weights whole, in every process.

    Example::

        trainer:
          strategy: {class_path: deepsynth.distributed.FullyShardedStrategy}

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
        use_one_mesh(self, self.num_nodes * self.num_processes)
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
        inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = inner.state_dict()
        whole = {number: _whole_entry(entry) for number, entry in state["state"].items()}
        return {**state, "state": whole}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the file, in every process."""
        return self.checkpoint_io.load_checkpoint(self.broadcast(checkpoint_path), weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Copy this process's shards of the trained weights."""
        assert self.lightning_module is not None
        with torch.no_grad():
            for name, parameter in self.lightning_module.named_parameters():
                if name in checkpoint["state_dict"]:
                    parameter.copy_(shard_like(checkpoint["state_dict"][name], parameter))

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
            raise UserError(
                f"{type(self.lightning_module).__name__} did not shard its weights in configure_model; "
                "use PeftModule or FullModule, or --config trainer/ddp"
            )
        gather_for_evaluation(self.model)


def _whole_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Return one parameter's state, unsharded."""
    tensors = {key: value for key, value in entry.items() if isinstance(value, torch.Tensor)}
    return {**{key: value for key, value in entry.items() if key not in tensors}, **whole_on_rank_zero(tensors)}


def _as_shard(value: Any, parameter: torch.Tensor) -> Any:
    """Return what belongs to the parameter element by element as its shard; a step count stays what it is."""
    if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.dim():
        return shard_like(value, parameter)
    return value


def strategy_name(strategy: Strategy) -> StrategyName:
    """Return the name by which ``distributed.support`` knows a strategy of Lightning's."""
    if isinstance(strategy, FullyShardedStrategy):
        return "fsdp2"
    if isinstance(strategy, DDPStrategy) and not isinstance(strategy, DeepSpeedStrategy):
        return "ddp"
    return "one process" if isinstance(strategy, SingleDeviceStrategy) else "other"


def attached_trainer(module: LightningModule) -> Trainer | None:
    """Return the trainer that runs a module; ``None`` outside of a run."""
    try:
        return module.trainer
    except RuntimeError:  # Lightning's property raises where there is none
        return None


def check_module(module: LightningModule, quantization: str, dtype: torch.dtype) -> None:
    """Refuse weights that do not work with the strategy of a module's trainer.

    Args:
        module: without a trainer there is nothing to refuse.
        quantization: of the base model: ``none``, ``nf4`` or ``int8``.
        dtype: of the base model's weights.

    Raises:
        UserError: with the reason and what to use instead.
    """
    trainer = attached_trainer(module)
    if trainer is None:
        return
    weights: Weights = "16 or 32 bits"
    if quantization != "none":
        weights = "nf4 or int8"
    elif dtype == torch.float16 or trainer.precision == "16-mixed":
        weights = "float16"
    given = type(trainer.strategy).__name__
    check_combination(type(module).__name__, strategy_name(trainer.strategy), weights, given=given)


def loading_device(module: LightningModule) -> torch.device:
    """Return where weights are loaded: what will be sharded never lies whole on a GPU."""
    trainer = attached_trainer(module)
    sharded = trainer is not None and strategy_name(trainer.strategy) == "fsdp2"
    return torch.device("cpu") if sharded else module.device


def apply_strategy(module: LightningModule, model: torch.nn.Module, *, all_weights: bool) -> None:
    """Do with a loaded model what the trainer's strategy asks for: shard it, or keep its frozen part out of DDP.

    Args:
        module: whose ``model`` it is; without a trainer nothing is done.
        model: with its trained parameters marked by ``requires_grad``.
        all_weights: whether all weights are trained, without adapters.

    Raises:
        ValueError: when the model does not lie whole on this process's device.
    """
    trainer = attached_trainer(module)
    if trainer is None:
        return
    name = strategy_name(trainer.strategy)
    if name == "fsdp2":
        mesh = module.device_mesh
        assert mesh is not None, "the strategy makes it before the model is configured"
        compute = torch.bfloat16 if trainer.precision == "bf16-mixed" else None
        shard(model, mesh["data_parallel"], compute_dtype=compute)
    elif name == "ddp":
        check_placement(model, module.device)
        assert isinstance(trainer.strategy, DDPStrategy)
        if all_weights:
            # Some weights are for pages of one size alone, and DDP would wait for the gradients of the others.
            find_unused_parameters(trainer.strategy)
        leave_out_of_ddp(module, frozen_parameter_names(module))
