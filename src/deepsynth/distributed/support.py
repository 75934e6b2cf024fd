"""Which combinations of module, strategy and weights are refused, and why; docs/guides/several-gpus.md has all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deepsynth.errors import UserError

StrategyName = Literal["one process", "ddp", "fsdp2", "other"]
Weights = Literal["16 or 32 bits", "float16", "nf4 or int8"]


@dataclass(frozen=True)
class Refusal:
    """A combination that does not work.

    Attributes:
        reason: why, and what to use instead.
        module: class name of the module; ``None`` stands for every module.
        strategy: how the processes share the work; ``None`` stands for every strategy.
        weights: of the base model; ``None`` stands for all.
    """

    reason: str
    module: str | None = None
    strategy: StrategyName | None = None
    weights: Weights | None = None

    def covers(self, module: str, strategy: StrategyName, weights: Weights) -> bool:
        """Return whether a combination is refused by this rule."""
        pairs = ((self.module, module), (self.strategy, strategy), (self.weights, weights))
        return all(own is None or own == asked for own, asked in pairs)


_OTHER_STRATEGY = Refusal(
    "only ddp and fsdp2 are tested; where a model does not fit one GPU use --config trainer/fsdp2, which does what "
    "FSDP1 and DeepSpeed would do, else --config trainer/ddp",
    strategy="other",
)

#: The first rule that covers a combination gives the reason.
REFUSALS: tuple[Refusal, ...] = (
    _OTHER_STRATEGY,
    Refusal(
        "bitsandbytes keeps the scales of quantized weights beside the parameter, where FSDP2 does not shard or gather "
        "them; use --config trainer/ddp, or model.quantization=none with fsdp2",
        strategy="fsdp2",
        weights="nf4 or int8",
    ),
    Refusal(
        "float16 needs loss scaling, whose overflow check sees the shard of one rank alone; use model.dtype=bfloat16, "
        "or --config trainer/ddp",
        strategy="fsdp2",
        weights="float16",
    ),
    Refusal(
        "Unsloth's compiled layers read whole weights; use PeftModule with fsdp2, or --config trainer/ddp",
        module="UnslothModule",
        strategy="fsdp2",
    ),
)

#: Options of other trainers that people give here, and why there is none.
REFUSED_OPTIONS: dict[str, str] = {
    "device_map": "each process loads its model onto its own device, and device_map=auto would spread every copy over "
    "all of them; for several GPUs use --config trainer/ddp, for less memory a GPU --config trainer/fsdp2",
}


def check_combination(module: str, strategy: StrategyName, weights: Weights, *, given: str) -> None:
    """Refuse what does not work, before any weights are loaded.

    Args:
        module: class name of the module.
        strategy: how the processes share the work.
        weights: of the base model.
        given: the trainer's strategy by its own name, for the message.

    Raises:
        UserError: with the reason and what to use instead.
    """
    for rule in REFUSALS:
        if rule.covers(module, strategy, weights):
            raise UserError(f"trainer.strategy is {given} with {module} and {weights} weights: {rule.reason}")


def check_strategy_option(strategy: object) -> None:
    """Refuse DeepSpeed by its name: otherwise Lightning asks for its installation before it is refused.

    Args:
        strategy: ``trainer.strategy`` as the configuration has it.

    Raises:
        UserError: with the reason and what to use instead.
    """
    if isinstance(strategy, str) and strategy.startswith("deepspeed"):
        raise UserError(f"trainer.strategy is {strategy}: {_OTHER_STRATEGY.reason}")
