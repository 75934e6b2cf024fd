"""Vision encoders that run a few images at a time, in few shapes, and compiled.

    X  images: pages or tiles of one size

Together, many images need more memory than they save time. And ``torch.compile`` makes a graph for each number of
images, so that there should be few such numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from deepsynth.compat.torch import recompile_limit
from deepsynth.models.engine.fast_paths import ReplacedForwards
from deepsynth.models.engine.layer_runner import plain_forward

#: How the images are run that fill no chunk: they run ``together``; ``filled`` up with copies, for one shape and
#: results that do not depend on how many others there are; or one by one (``single``), for two shapes.
RemainderPolicy = Literal["together", "filled", "single"]

#: Images that go through the second encoder together, for each that SAM sees at once: it is small.
ENCODED_AT_ONCE = 8

#: Takes a name, a function of tensors and these tensors, and returns what the function returns.
GraphRunner = Callable[[str, Callable[..., torch.Tensor], list[torch.Tensor]], torch.Tensor]

#: For ``torch.compile``: each image size has its own graph, and no graph has dynamic sizes.
COMPILE_OPTIONS: dict[str, Any] = {"dynamic": False}
#: torch stops to compile what has 8 graphs. Two encoders with windows and without, pages and tiles, one and several of
#: them: these are 12.
MOST_GRAPHS = 64


@contextmanager
def in_chunks(module: nn.Module, size: Callable[[torch.Tensor], int], rest: RemainderPolicy) -> Iterator[None]:
    """Let a module run a chunk of its images at a time.

    Args:
        module: takes a tensor (X, ...) and returns one, or an output of transformers with ``last_hidden_state``.
        size: returns the most images of a chunk for such a tensor.
        rest: how the images of the last chunk are run.
    """
    run = module.forward

    def chunked(images: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        most = size(images)
        outputs = []
        for chunk in torch.split(images, most):
            missing = most - len(chunk)
            if missing and rest == "filled":
                chunk = torch.cat([chunk, chunk[-1:].expand(missing, *chunk.shape[1:])])
            parts = torch.split(chunk, 1) if missing and rest == "single" else [chunk]
            outputs += [run(part, *args, **kwargs) for part in parts]
        if isinstance(outputs[0], torch.Tensor):
            return torch.cat(outputs)[: len(images)]
        from transformers.modeling_outputs import BaseModelOutput

        return BaseModelOutput(torch.cat([output.last_hidden_state for output in outputs])[: len(images)])

    with ReplacedForwards([(module, chunked)]):
        yield


@contextmanager
def by_graph(module: nn.Module, captured: GraphRunner | None, *, several: bool) -> Iterator[None]:
    """Let an encoder of images run as a captured graph, where to launch it takes longer than to run it.

    Args:
        module: as for :func:`in_chunks`, with an output of transformers.
        captured: runs a function by a graph; ``None`` leaves all as it is.
        several: whether that holds for several images too, whose number must be one of few; else for one alone.
    """
    if captured is None:
        yield
        return
    run = module.forward

    def replayed(images: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(images) > 1 and not several:
            return run(images, *args, **kwargs)
        from transformers.modeling_outputs import BaseModelOutput

        def features(images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = run(images, *args, **kwargs).last_hidden_state
            return found

        return BaseModelOutput(captured(type(module).__name__, features, [images]))

    with ReplacedForwards([(module, replayed)]):
        yield


class CompiledLayers:
    """Compiled versions of layers, which replace them on request.

    Args:
        layers: of one or several encoders; those of one class share their graphs.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self._compiled = ReplacedForwards(
            (layer, torch.compile(_apart(plain_forward(layer)), **COMPILE_OPTIONS)) for layer in layers
        )

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the layers run compiled, whatever a training engine had made of them."""
        with self._compiled, recompile_limit(MOST_GRAPHS):
            yield


def _apart(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with its own code object: torch counts graphs by code, and training compiles the layer's."""

    def run(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    return run
