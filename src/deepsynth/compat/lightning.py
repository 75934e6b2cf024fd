"""Private parts of Lightning that the package relies on, and why no public one serves."""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy


def use_one_mesh(strategy: ModelParallelStrategy, processes: int) -> None:
    """Have a strategy split the data over all processes; its own default splits tensors within a machine.

    The constructor takes both sizes, but the number of processes is only known when the environment is set up.
    """
    strategy._data_parallel_size, strategy._tensor_parallel_size = processes, 1


def find_unused_parameters(strategy: DDPStrategy) -> None:
    """Have DDP look for parameters without a gradient.

    The constructor takes the option, but which weights are trained is only known when the model is loaded, long after
    the trainer has made its strategy.
    """
    strategy._ddp_kwargs["find_unused_parameters"] = True
