"""The one place where forward methods of a model's modules are replaced, for training and for generation.

A path is a faster implementation of what some modules compute, such as LoRA's products in the dtype of the frozen
layers. Kernels say which forward replaces which (``models.kernels.decoder``, ``models.kernels.sam_attention``); here
they are put in place, listed with the reasons of those that do not apply, and taken away again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import MethodType, TracebackType
from typing import Any, Literal, Self

from torch import nn

from deepsynth.compat.transformers import experts_implementation, set_experts_implementation
from deepsynth.models.engine.compilation import CompiledParts
from deepsynth.models.engine.layer_runner import LayerRunner, transformer_layers
from deepsynth.models.engine.path_rows import PathRow
from deepsynth.models.kernels import decoder, frozen_experts, patch_attention, sam_attention
from deepsynth.models.kernels.adapters import AdapterFactors
from deepsynth.models.kernels.fast_forward import FastForward, Forward
from deepsynth.models.registry import family_of

#: Whether the fast paths are used at all.
Kernels = Literal["auto", "plain"]
#: The path of routed experts that stay frozen.
FROZEN_EXPERTS = "frozen experts"


class ReplacedForwards:
    """Forward methods in place of those of some modules, from :meth:`install` or ``with`` until they are undone.

    Forwards that are installed later must be undone earlier.

    Args:
        forwards: the modules, each with the function that it is to run.
    """

    def __init__(self, forwards: Iterable[tuple[nn.Module, Forward]]) -> None:
        self.forwards = list(forwards)
        self._before: list[Forward | None] | None = None

    @property
    def installed(self) -> bool:
        """Whether the modules run these forwards now."""
        return self._before is not None

    def replaced(self) -> list[tuple[nn.Module, Forward]]:
        """Return the modules whose forward is replaced now, and what each ran before."""
        before = self._before or []
        own = (MethodType(type(module).forward, module) for module, _ in self.forwards)
        return [
            (module, plain if was is None else was)
            for (module, _), was, plain in zip(self.forwards, before, own, strict=False)
        ]

    def install(self) -> Self:
        """Put the forwards in place.

        Raises:
            RuntimeError: when they are in place already.
        """
        if self._before is not None:
            raise RuntimeError("these forwards are installed already")
        # Past torch's own way to set attributes, which takes longer than a token for a decoder's hundreds of modules.
        self._before = [module.__dict__.get("forward") for module, _ in self.forwards]
        for module, forward in self.forwards:
            module.__dict__["forward"] = forward
        return self

    def undo(self) -> None:
        """Give the modules back what they ran before; do nothing when nothing is installed.

        Raises:
            RuntimeError: when a module runs something that was installed later.
        """
        if self._before is None:
            return
        if any(module.__dict__.get("forward") is not forward for module, forward in self.forwards):
            raise RuntimeError("forwards that were installed later must be undone first")
        before, self._before = self._before, None
        for (module, _), was in zip(self.forwards, before, strict=True):
            if was is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = was

    def __enter__(self) -> Self:
        """Install the forwards."""
        return self.install()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Undo them."""
        self.undo()


class TrainingPaths(ReplacedForwards):
    """The fast paths of a model in training; in evaluation its modules compute as they were written.

    Args:
        forwards: modules with faster forwards.
        rows: each path, with the number of modules it is used for or the reason against it.
        decoder_layers: the transformer layers of the decoder, which keep and compile what they are told to.
        vision_layers: those of the vision encoder.
        adapted: the layers with adapters that run a faster forward.
        text: the decoder.
        experts: the implementation of routed experts, as :func:`install_training_paths` found it.
    """

    def __init__(
        self,
        forwards: list[tuple[nn.Module, Forward]],
        rows: list[PathRow],
        decoder_layers: list[LayerRunner],
        vision_layers: list[LayerRunner],
        adapted: list[Any],
        *,
        text: Any,
        experts: str | None,
    ) -> None:
        self.decoder_layers, self.vision_layers = decoder_layers, vision_layers
        super().__init__([*forwards, *((runner.layer, runner.run) for runner in self.layers)])
        self.rows = rows
        self._adapted, self._factors = adapted, AdapterFactors(text.get_input_embeddings().weight.dtype)
        self._config = text.config
        self._experts = experts_implementation(text.config), experts  # now, and before

    def install(self) -> Self:
        """Put the forwards in place, and choose the implementation of routed experts."""
        super().install()
        set_experts_implementation(self._config, self._experts[0])
        return self

    def undo(self) -> None:
        """Give the modules back what they ran before, and routed experts their implementation."""
        if self.installed:
            super().undo()
            set_experts_implementation(self._config, self._experts[1])

    @property
    def layers(self) -> list[LayerRunner]:
        """The transformer layers of decoder and vision encoder."""
        return [*self.decoder_layers, *self.vision_layers]

    def compile(self, parts: CompiledParts, options: dict[str, Any] | None = None) -> None:
        """Have the layers of these parts compiled from now on, and no others.

        Args:
            parts: of the model.
            options: for ``torch.compile``.
        """
        for layers, names in ((self.decoder_layers, ("decoder", "all")), (self.vision_layers, ("vision", "all"))):
            for runner in layers:
                runner.compile((options or {}) if parts in names else None)

    def uses(self, path: str) -> bool:
        """Return whether a path is used for any module."""
        return any(row.modules for row in self.rows if row.path == path)

    def cast_adapters(self) -> AbstractContextManager[None]:
        """Return what a forward pass is to run in: LoRA's factors in the dtype of the frozen layers."""
        return self._factors.cast_adapters(self._adapted)


class GenerationPaths:
    """The fast paths of a model in evaluation; experts are for its configuration to choose.

    Args:
        text: the decoder, prepared for training or not.
        tower: the vision encoders.
    """

    def __init__(self, text: Any, tower: nn.Module) -> None:
        self._text, self._tower = text, tower
        self._factors = AdapterFactors(text.embed_tokens.weight.dtype)
        # Made once: what is compiled knows these methods.
        self._vision = _methods(_find(tower, _vision_kernels(tower).fast_forward_for), training=False)
        self.refresh()

    def refresh(self) -> None:
        """Look through the decoder's modules again, when there are others than before."""
        found = _find(self._text, decoder.fast_forward_for)
        self._adapted = [module for module, fast in found if fast.path == decoder.ADAPTERS]
        self._decoder = _methods(found, training=False)

    @property
    def rows(self) -> list[PathRow]:
        """Each path, with the number of modules it is used for or the reason against it."""
        return _rows(self._text, self._tower, training=False)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the model take the fast paths, with its adapters as they are now."""
        with ReplacedForwards([*self._decoder, *self._vision]), self._factors.cast_adapters(self._adapted):
            yield


def install_training_paths(base: Any, *, kernels: Kernels = "auto", experts: str | None = None) -> TrainingPaths:
    """Install the fast paths of training in a model that is on its device, and return them.

    Args:
        base: a model of a family in ``deepsynth.models.families``, adapters inside.
        kernels: ``plain`` leaves layers as transformers and peft wrote them, but for what they keep and compile.
        experts: the implementation of routed experts, where it is chosen already.
    """
    family = family_of(base.config)
    text, tower = family.decoder_of(base), nn.ModuleList(family.vision_of(base))
    vision, against = _vision_kernels(tower), family.unsupported.get("kernels", "")
    if kernels != "auto":
        against = f"model.engine.kernels is {kernels}"
    forwards: list[tuple[nn.Module, Forward]] = []
    adapted: list[Any] = []
    if against:
        rows = [PathRow(path, 0, against) for path in (*decoder.PATHS, *vision.PATHS)]
    else:
        found = _find(text, decoder.fast_forward_for)
        adapted = [module for module, fast in found if fast.path == decoder.ADAPTERS]
        forwards = _methods([*found, *_find(tower, vision.fast_forward_for)], training=True)
        rows = _rows(text, tower, training=True)
    against = against or family.unsupported.get("experts", "")
    if experts is not None:
        against = f"model.engine.experts_implementation is {experts}"
    before = experts_implementation(text.config)
    rows.append(_choose_experts(text, against))
    of_decoder = [LayerRunner(layer, shapes_vary=True) for layer in transformer_layers(text)]
    of_vision = [LayerRunner(layer) for layer in transformer_layers(tower)]
    return TrainingPaths(forwards, rows, of_decoder, of_vision, adapted, text=text, experts=before).install()


def _find(part: nn.Module, choose: Callable[[Any], FastForward | None]) -> list[tuple[nn.Module, FastForward]]:
    """Return the modules of a part that have a faster forward, and that."""
    return [(module, fast) for module in part.modules() if (fast := choose(module)) is not None]


def _methods(found: list[tuple[nn.Module, FastForward]], *, training: bool) -> list[tuple[nn.Module, Forward]]:
    """Return the modules with the methods to run.

    Methods and no objects that can be called: torch.compile has one graph for all layers of a kind then.
    """
    chosen = [(module, fast.training if training else fast.inference) for module, fast in found]
    return [(module, MethodType(forward, module)) for module, forward in chosen if forward is not None]


def _rows(text: Any, tower: nn.Module, *, training: bool) -> list[PathRow]:
    """Return a row for each path of decoder and vision encoder."""
    weight, vision = text.embed_tokens.weight, _vision_kernels(tower)
    rows = []
    for part, paths, choose, why_unused in (
        (text, decoder.PATHS, decoder.fast_forward_for, decoder.why_unused),
        (tower, vision.PATHS, vision.fast_forward_for, vision.why_unused),
    ):
        counts = Counter(fast.path for _, fast in _find(part, choose))
        for path in paths:
            reason = why_unused(path, counts[path], weight, training=training)
            rows.append(PathRow(path, 0 if reason else counts[path], reason))
    return rows


def _vision_kernels(tower: nn.Module) -> Any:
    """Return the module of kernels that are for a vision encoder."""
    return patch_attention if patch_attention.fits(tower) else sam_attention


def _choose_experts(text: Any, against: str) -> PathRow:
    """Have the decoder's routed experts computed by DeepSynth in training, unless there is a reason against it."""
    if not against and not hasattr(text.config, "n_routed_experts"):
        against = "the decoder has no routed experts"
    if against:
        return PathRow(FROZEN_EXPERTS, 0, against)
    frozen_experts.register()
    set_experts_implementation(text.config, frozen_experts.IN_TRAINING)
    count = sum(frozen_experts.frozen_experts_of(layer) is not None for layer in text.layers)
    return PathRow(FROZEN_EXPERTS, count, "" if count else "no layer has frozen routed experts")
