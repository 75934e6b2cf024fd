"""What works over several processes and what is refused: one table, from which the refusals and the docs come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Strategy = Literal["one process", "ddp", "fsdp2", "other"]
Weights = Literal["16 or 32 bits", "float16", "nf4 or int8"]
Scope = Literal["linear layers", "routed experts", "all weights"]

STRATEGIES: tuple[Strategy, ...] = ("one process", "ddp", "fsdp2", "other")
WEIGHTS: tuple[Weights, ...] = ("16 or 32 bits", "float16", "nf4 or int8")
SCOPES: tuple[Scope, ...] = ("linear layers", "routed experts", "all weights")


@dataclass(frozen=True)
class Case:
    """A part of the matrix module x strategy x weights x what is trained.

    Attributes:
        module: name of the class; ``None`` stands for all, here and below.
        strategy: how the processes share the work; ``other`` is any but those that have a name here.
        weights: of the base model.
        scope: what is trained.
        works: else it is refused.
        note: how it is tested, or why it is refused and what to use instead.
        shown: whether a run has shown that it works.
    """

    module: str | None
    strategy: Strategy | None
    weights: Weights | None
    scope: Scope | None
    works: bool
    note: str
    shown: bool = True

    @property
    def verdict(self) -> str:
        """The word for it in the table."""
        if not self.works:
            return "refused"
        return "works" if self.shown else "not run yet"

    def covers(self, module: str, strategy: Strategy, weights: Weights, scope: Scope) -> bool:
        """Return whether a combination belongs to this case."""
        pairs = ((self.module, module), (self.strategy, strategy), (self.weights, weights), (self.scope, scope))
        return all(own is None or own == asked for own, asked in pairs)


#: The first case that covers a combination decides.
CASES: tuple[Case, ...] = (
    Case(
        None,
        "other",
        None,
        None,
        False,
        "only ddp and fsdp2 are tested; where a model does not fit one GPU use configs/trainer/fsdp2.yaml, which does "
        "what FSDP1 and DeepSpeed would do, else configs/trainer/ddp.yaml",
    ),
    Case(
        "FullModule",
        None,
        "nf4 or int8",
        None,
        False,
        "quantised weights cannot be trained; use PeftModule, or model.quantization=none",
    ),
    Case(
        None,
        "fsdp2",
        "nf4 or int8",
        None,
        False,
        "bitsandbytes keeps the scales of quantised weights beside the parameter, where FSDP2 does not shard or gather "
        "them; use configs/trainer/ddp.yaml, or model.quantization=none with fsdp2",
    ),
    Case(
        None,
        "fsdp2",
        "float16",
        None,
        False,
        "float16 needs loss scaling, whose overflow check sees one rank's shard alone; use model.dtype=bfloat16, or "
        "configs/trainer/ddp.yaml",
    ),
    Case(
        "UnslothModule",
        "fsdp2",
        None,
        None,
        False,
        "Unsloth's compiled layers read whole weights; use PeftModule with fsdp2, or configs/trainer/ddp.yaml",
    ),
    Case(
        "UnslothModule",
        "ddp",
        "16 or 32 bits",
        None,
        True,
        "2 H200s in 16 bits: PeftModule's losses within 0.2 % for 8 steps; with a stand-in for Unsloth 2 processes on "
        "the CPU: losses and adapter of one process",
    ),
    Case(
        "UnslothModule",
        "ddp",
        None,
        None,
        True,
        "4 or 8 bits of each process's own base; in 16 bits see the row above",
        shown=False,
    ),
    Case(
        "UnslothModule",
        "one process",
        "16 or 32 bits",
        None,
        True,
        "in 16 bits on one H200: 50 steps of a tiny model beside PeftModule, LoRA on attention, dense layers and "
        "experts; read at full size; the default tests take a stand-in for Unsloth",
    ),
    Case(
        "UnslothModule",
        "one process",
        None,
        None,
        True,
        "4 bits: steps and reading at full size on one H200, whose losses nobody compared; 8 bits: a stand-in's tests",
        shown=False,
    ),
    Case(None, "one process", None, None, True, "the module's own tests"),
    Case(
        "PeftModule",
        "ddp",
        "nf4 or int8",
        None,
        True,
        "2 processes on the CPU, in nf4 with routed experts too: losses and adapter of one process; steps in nf4 on 2 "
        "H200s",
    ),
    Case(
        "PeftModule",
        "ddp",
        None,
        None,
        True,
        "2 and 4 processes on the CPU: losses and adapter of one process; 2 H200s: 50 steps' losses of one, speed",
    ),
    Case(
        "PeftModule",
        "fsdp2",
        None,
        None,
        True,
        "2 processes on the CPU: losses, adapter file and checkpoint of one process; memory on 2 H200s",
    ),
    Case(
        "FullModule",
        "ddp",
        None,
        None,
        True,
        "2 processes on the CPU: losses and weights of one process",
    ),
    Case(
        "FullModule",
        "fsdp2",
        None,
        None,
        True,
        "2 processes on the CPU: losses and model folder of one process; a 3 B model on 2 H200s",
    ),
)

#: Options of other trainers that people give here, and why there is none.
REFUSED_OPTIONS: dict[str, str] = {
    "device_map": "each process loads its model onto its own device, and device_map=auto would spread every copy over "
    "all of them; for several GPUs use configs/trainer/ddp.yaml, for less memory a GPU configs/trainer/fsdp2.yaml",
}


def find_case(module: str, strategy: Strategy, weights: Weights, scope: Scope) -> Case | None:
    """Return the case that decides about a combination; ``None`` for a module of someone else's."""
    return next((case for case in CASES if case.covers(module, strategy, weights, scope)), None)


def check_combination(module: str, strategy: Strategy, weights: Weights, scope: Scope, *, asked: str) -> None:
    """Refuse what does not work, before any weights are loaded.

    Args:
        module: name of the class.
        strategy: how the processes share the work.
        weights: of the base model.
        scope: what is trained.
        asked: the trainer's strategy by its own name, for the message.

    Raises:
        ValueError: with the reason and what to use instead.
    """
    case = find_case(module, strategy, weights, scope)
    if case is not None and not case.works:
        raise ValueError(f"trainer.strategy is {asked} with {module} and {weights} weights: {case.note}")


def check_asked(strategy: object) -> None:
    """Refuse DeepSpeed by its name: Lightning would first have it installed, only to see it refused after that.

    Args:
        strategy: the trainer's, as the configuration has it.

    Raises:
        ValueError: with the reason and what to use instead.
    """
    if isinstance(strategy, str) and strategy.startswith("deepspeed"):
        case = find_case("any", "other", "16 or 32 bits", "linear layers")
        assert case is not None, "whatever the module, a case covers other strategies"
        raise ValueError(f"trainer.strategy is {strategy}: {case.note}")


def matrix(cases: Iterable[Case] = CASES) -> str:
    """Return the table of the docs, in Markdown."""
    rows = ["| module | strategy | base weights | what is trained | |", "|---|---|---|---|---|"]
    for case in cases:
        cells = (case.module or "any", case.strategy or "any", case.weights or "any", case.scope or "any")
        rows.append(f"| {' | '.join(cells)} | {case.verdict}: {case.note} |")
    return "\n".join(rows) + "\n"
