"""The settings of a module in groups, as the command line has them: ``model.engine`` and ``model.generation``.

``model.lora`` is defined with the adapters, in ``deepsynth.models.lora``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from deepsynth.errors import UserError
from deepsynth.generation import Implementation
from deepsynth.models.engine.compilation import CompiledParts
from deepsynth.models.engine.fast_paths import Kernels
from deepsynth.models.family import Family, Feature
from deepsynth.models.kernels.linear_cross_entropy import Loss
from deepsynth.models.lora import LoraSettings

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flash_attention_4"]
ActivationMemory = Literal["auto", "none", "selective", "full", "offload"]
Group = TypeVar("Group")


@dataclass(frozen=True)
class EngineSettings:
    """The settings ``model.engine``: how the model computes, above all in training; docs/how-it-works/training.md.

    Attributes:
        attn_implementation: attention of the decoder, by transformers' name. The vision encoder takes ``sdpa`` where
            the decoder takes flash attention, whose package is never needed: ``sdpa`` is fused in torch itself.
        experts_implementation: routed experts, by transformers' name (``eager``, ``grouped_mm``, ``batched_mm``); by
            default its choice, and in training, for experts that stay frozen, DeepSynth's kernels.
        kernels: ``auto`` takes faster ways through the layers in training, ``plain`` those of transformers and peft.
        loss: ``chunked`` never holds the logits of more than a few hundred positions, ``liger`` is liger-kernel's for
            CUDA, ``plain`` is the model's own; ``auto`` is ``liger`` where it can be, else ``chunked``.
        activation_memory: what layers keep for the backward pass: all (``none``), all but the gates of frozen experts,
            or without these outputs of matrix products (``selective``), their inputs (``full``), or not even those on
            the GPU (``offload``): each smaller and slower than the one before. ``auto`` tries one step and takes the
            first within the memory there is.
        memory_budget_gib: most memory of a training step on a GPU in GiB, for ``activation_memory: auto``; by default
            nine tenths of the GPU.
        vision_cache: where features of pages are kept if vision is frozen: ``none``, ``memory`` of this process,
            ``disk`` (``~/.cache/deepsynth/vision``) or a folder, for all processes and runs. It pays where the same
            pixels come again: without an augmenter, or with ``data.augment_variants``.
        vision_cache_gib: most that the cache holds, in GiB.
        vision_chunk: number of images that frozen vision encodes together; by default 1 on the CPU and on CUDA 8, or 4
            with a cache or in 32 bits.
        compile: compile the layers of the ``decoder``, of ``vision`` or of ``all`` for training, or ``none``. ``auto``
            compiles on a GPU what pays within the run, and logs what and why.
        cuda_graphs: replay compiled layers as CUDA graphs, so that a small batch does not wait for launches. Each
            length is recorded apart: round them up by ``data.pad_to_multiple_of``. ``auto`` does it with
            ``compile: auto`` where lengths are rounded.
        skip_non_finite: number of optimizer steps that a run may skip because their loss or gradient is not finite. At
            the next one it stops; 0 stops at the first. The log counts them as ``train/skipped_steps``. Above 0, every
            step waits for its outcome. Steps that float16's loss scaling skips are counted, and never stop a run.
    """

    attn_implementation: Attention = "sdpa"
    experts_implementation: str | None = None
    kernels: Kernels = "auto"
    loss: Loss = "auto"
    activation_memory: ActivationMemory = "auto"
    memory_budget_gib: float | None = None
    vision_cache: str = "none"
    vision_cache_gib: float = 4.0
    vision_chunk: int | None = None
    compile: CompiledParts | Literal["auto"] = "auto"
    cuda_graphs: bool | Literal["auto"] = "auto"
    skip_non_finite: int = 0

    def __post_init__(self) -> None:
        """Refuse values and combinations that cannot be, before anything is loaded.

        Raises:
            UserError: with the key, what was found and what is allowed.
        """
        for name, size in (("vision_cache_gib", self.vision_cache_gib), ("memory_budget_gib", self.memory_budget_gib)):
            if size is not None and size <= 0:
                raise UserError(f"model.engine.{name} is {size}; it must be above 0 GiB")
        if self.vision_chunk is not None and self.vision_chunk < 1:
            raise UserError(f"model.engine.vision_chunk is {self.vision_chunk}; it must be at least 1 image")
        if self.experts_implementation is not None and not self.experts_implementation.isidentifier():
            raise UserError(
                f"model.engine.experts_implementation is {self.experts_implementation!r}; it must be eager, "
                "grouped_mm, batched_mm or another name of transformers' own"
            )
        if self.skip_non_finite < 0:
            raise UserError(f"model.engine.skip_non_finite is {self.skip_non_finite}; it must be at least 0 steps")
        if self.vision_cache not in ("none", "memory", "disk") and "/" not in self.vision_cache:
            raise UserError(
                f"model.engine.vision_cache is {self.vision_cache!r}; it must be none, memory, disk, or a folder "
                "(with a /)"
            )
        if self.vision_cache != "none" and self.loss == "plain":
            raise UserError(
                "model.engine.loss is plain, which encodes every image again; set model.engine.loss=auto for "
                "model.engine.vision_cache"
            )
        if self.memory_budget_gib is not None and self.activation_memory != "auto":
            raise UserError(
                "model.engine.memory_budget_gib is for model.engine.activation_memory=auto, which is "
                f"{self.activation_memory}"
            )
        if self.activation_memory == "selective" and self.compile in ("decoder", "all"):
            raise UserError(
                "model.engine.activation_memory is selective, which chooses among operations that "
                f"model.engine.compile={self.compile} hides in one; use full, none or auto, or "
                "model.engine.compile=vision"
            )
        if self.cuda_graphs is True and self.compile == "none":
            raise UserError(
                "model.engine.cuda_graphs records what is compiled; set model.engine.compile to auto, decoder, "
                "vision or all"
            )


@dataclass(frozen=True)
class GenerationSettings:
    """The settings ``model.generation``: how texts are generated, see docs/how-it-works/decoding.md.

    Attributes:
        implementation: ``deepsynth`` is the decoder of this package, ``transformers`` the model's own; ``auto`` is the
            first for the models that it knows.
        max_new_tokens: most tokens that are generated for one sample. By default a quarter more than the longest target
            that the run, or the one that trained the adapter, has seen; 2,048 where none is known. A warning says when
            a given number cuts texts that are longer, and ``cut_rate`` is the share of documents that were cut.
        stop_on_repetition: end a text whose last 30 tokens stand once more among the 90 before them.
        compile: what the decoder of this package compiles: the layers of ``vision``, ``all`` (the steps of a GPU too),
            or ``none``; it takes minutes at the start. ``auto`` is ``vision`` on CUDA, else ``none``.
        samples: number of validation samples that are generated, from the start, over all processes; 0 for none. Test
            and predict generate all.
        rows: number of texts that predict generates at the same time on a device. By default those of a batch, and on a
            GPU up to 32 while their cache takes at most half of the free memory.
        time_limit_s: seconds that the generation of one validation may take per process, after its first batch; the
            log says when the limit was reached. Test and predict take the time they need.
    """

    implementation: Implementation = "auto"
    max_new_tokens: int | None = None
    stop_on_repetition: bool = True
    compile: Literal["auto", "none", "vision", "all"] = "auto"
    samples: int = 64
    rows: int | None = None
    time_limit_s: float = 300.0

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UserError: with the key, what was found and what is allowed.
        """
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UserError(f"model.generation.max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if self.samples < 0:
            raise UserError(f"model.generation.samples is {self.samples}; it must be at least 0")
        if self.rows is not None and self.rows < 1:
            raise UserError(f"model.generation.rows is {self.rows}; it must be at least 1")
        if self.time_limit_s <= 0:
            raise UserError(f"model.generation.time_limit_s is {self.time_limit_s}; it must be above 0 seconds")


def check_family(
    family: Family, engine: EngineSettings, generation: GenerationSettings, *, quantization: str, sharded: bool
) -> None:
    """Refuse settings that ask for what does not work for a family; what is ``auto`` is left out, and logged.

    Raises:
        UserError: with the key, its value, the reason and what to set.
    """
    asked: list[tuple[Feature, str, Any, Any, str]] = [
        ("loss", "model.engine.loss", engine.loss, ("auto", "plain"), "auto"),
        ("frozen_vision", "model.engine.vision_chunk", engine.vision_chunk, (None,), "null"),
        ("vision_cache", "model.engine.vision_cache", engine.vision_cache, ("none",), "none"),
        ("layers", "model.engine.activation_memory", engine.activation_memory, ("auto", "none"), "auto"),
        ("compile", "model.engine.compile", engine.compile, ("auto", "none"), "auto"),
        ("quantization", "model.quantization", quantization, ("none",), "none"),
        ("decoder", "model.generation.implementation", generation.implementation, ("auto", "transformers"), "auto"),
        ("decoder", "model.generation.compile", generation.compile, ("auto", "none"), "auto"),
    ]
    for feature, key, value, harmless, way_out in asked:
        if value not in harmless:
            family.refuse(feature, f"{key} is {value}", f"set {key}={way_out}")
    if sharded:
        family.refuse("sharding", "trainer.strategy shards the weights", "set trainer.strategy=ddp")


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with groups as dictionaries: a checkpoint of plain values loads without running code."""
    return {name: asdict(value) if is_dataclass(value) else value for name, value in settings.items()}  # type: ignore[arg-type]


def restore_group(kind: type[Group], value: Any) -> Group:
    """Return a group of settings that is given as it is, or as the dictionary that :func:`plain_settings` makes."""
    return kind(**value) if isinstance(value, Mapping) else value


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by their whole names: ``lora.rank`` for the rank in the group ``lora``."""
    found: dict[str, Any] = {}
    for name, value in plain_settings(settings).items():
        found |= flat_settings(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


#: The settings that an adapter's weights depend on: they must be the same wherever it is loaded.
ADAPTER_SHAPE = tuple(
    f"lora.{name}"
    for name in ("rank", "alpha", "attention", "mlp", "experts", "vision", "projector", "rslora", "dora", "init")
)


def stored_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint or an adapter folder by their whole names.

    Before settings had groups they were stored flat (``lora_rank``): of those the shape of the adapter is taken over.
    """
    found = flat_settings(settings)
    for name in ADAPTER_SHAPE:
        leaf = name.removeprefix("lora.")
        for old in (f"lora_{leaf}", leaf):
            if old in found and name not in found:
                found[name] = found[old]
    return found


#: The settings that name files or code: a checkpoint, which may be a stranger's, does not set them.
NOT_TAKEN_OVER = ("adapter", "engine.vision_cache", "optimizer")


def check_foreign_settings(found: Mapping[str, Any], file: Path) -> None:
    """Compare the types of the settings in a file with those that they must have.

    Args:
        found: settings by their whole names; of these, ``model_name`` and those of the adapter's shape are checked.
        file: for the message.

    Raises:
        UserError: naming the file, the setting and the value.
    """
    types: dict[str, Any] = {"model_name": str}
    types |= {name: get_type_hints(LoraSettings)[name.removeprefix("lora.")] for name in ADAPTER_SHAPE}
    for name, kind in types.items():
        value = found.get(name)
        if name in found and not _is_of(value, kind):
            wanted = getattr(kind, "__name__", None) or str(kind).replace("typing.", "")
            raise UserError(f"{file}: {name} is {str(value)[:60]!r}; it must be {wanted}")


def _is_of(value: Any, kind: Any) -> bool:
    """Return whether a value has a type of these: a class, a ``Literal`` or a union."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return any(_is_of(value, one) for one in get_args(kind))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
