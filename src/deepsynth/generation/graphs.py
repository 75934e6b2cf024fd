"""CUDA graphs of what decoding does again and again, one for each shape."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch

from deepsynth.compat.torch import own_blas_workspace
from deepsynth.io.garbage import no_garbage_collection

#: Runs before a capture: kernels are chosen, libraries get their work space, and what is compiled is compiled.
WARM_UPS = 2
#: Calls that are captured: what comes in ever new shapes must not fill the memory with graphs.
MOST_CALLS = 16


class NotCaptured(RuntimeError):
    """A call cannot be captured; its message says why."""


class StepGraphs:
    """Steps as CUDA graphs, which share one pool of memory and one stream.

    They may share the pool because one runs after the other, and what a step leaves behind is in tensors that were
    there before it. The warm-up runs on the stream of the capture: what libraries keep for a stream is none of the
    pool's, but for the work space of cuBLAS, which must last as long as the graph.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: dict[Hashable, Any] = {}
        self._seen: set[Hashable] = set()
        self._tensors: dict[Hashable, tuple[list[torch.Tensor], torch.Tensor]] = {}
        self._pool: Any = None
        self._stream: Any = None

    def __len__(self) -> int:
        """Return the number of shapes."""
        return len(self._graphs)

    def clear(self) -> None:
        """Forget all graphs, and their pool: torch does not let another graph into one that has lost its last."""
        self._graphs.clear()
        self._tensors.clear()
        self._pool = None

    def get(self, shape: Hashable) -> Any:
        """Return the graph of a shape, or ``None``."""
        return self._graphs.get(shape)

    def capture(self, shape: Hashable, step: Callable[[], None], restore: Callable[[], None]) -> Any:
        """Run a step to warm up, capture it, and return its graph.

        Args:
            shape: under which it will be found.
            step: works on tensors that stay where they are.
            restore: puts back what a step changes, so that every run is of the same step.

        Raises:
            RuntimeError: when the step cannot be captured.
        """
        with torch.cuda.device(self._device):
            if self._stream is None:
                self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    step()
                    restore()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph: Any = torch.cuda.CUDAGraph()
            # Other threads keep running: a loader's pins memory, which would end a stricter capture.
            how = {"pool": self._pool, "stream": self._stream, "capture_error_mode": "thread_local"}
            # Decoders hold reference cycles: graphs of an earlier one are freed by a search for garbage, at any time.
            # To free one synchronizes the device, which CUDA forbids during a capture.
            with no_garbage_collection(), own_blas_workspace(), torch.cuda.graph(graph, **how):
                step()
        self._pool = graph.pool()
        self._graphs[shape] = graph
        return graph

    def call(self, name: str, run: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> torch.Tensor:
        """Return what ``run`` makes of the inputs; calls whose shapes come again are captured, up to a limit.

        Args:
            name: of the call.
            run: with the same result for the same inputs; it may also write to tensors that stay where they are.
            inputs: whose shapes and types decide whether the call is known.

        Raises:
            NotCaptured: when the call cannot be captured; other errors are those of ``run``.
        """
        shape = (name, *((tuple(tensor.shape), tensor.dtype) for tensor in inputs))
        if shape not in self._tensors:
            if shape not in self._seen or len(self._tensors) >= MOST_CALLS:
                self._seen.add(shape)
                return run(*inputs)
            kept = [tensor.clone() for tensor in inputs]
            result = run(*kept).clone()

            def again() -> None:
                result.copy_(run(*kept))

            try:
                self.capture(shape, again, lambda: None)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise NotCaptured(str(error)) from error
            self._tensors[shape] = kept, result
            return result.clone()
        kept, result = self._tensors[shape]
        for tensor, new in zip(kept, inputs, strict=True):
            tensor.copy_(new)
        self._graphs[shape].replay()
        return result.clone()
