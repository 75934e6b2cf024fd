"""Graphs of operations on the CPU that behave as CUDA graphs do: what Python decided at the capture stays decided.

A capture runs a function and keeps its operations with the very tensors that they read and wrote. A replay runs the
operations once more, from those tensors into those tensors; Python is not asked again. Operations that would wait for a
GPU, or whose shapes depend on what is in a tensor, are refused as CUDA refuses them, and so are a pool whose last graph
is gone and a capture during which another graph goes.
"""

from __future__ import annotations

import importlib
import linecache
import re
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

importlib.import_module("transformers.integrations.moe")  # registers the operation that is named below
_ATEN = torch.ops.aten
#: What makes the host wait for the device.
WAITS = {
    _ATEN._local_scalar_dense,
    _ATEN.nonzero,
    _ATEN.masked_select,
    _ATEN.equal,
    _ATEN.is_nonzero,
    _ATEN.item,
    _ATEN._unique2,
    _ATEN.unique_dim,
    _ATEN.unique_consecutive,
    _ATEN.repeat_interleave,
    _ATEN.lift_fresh,  # torch.tensor() of numbers: a copy from the host
    _ATEN.bincount,
    getattr(torch.ops.transformers, "grouped_mm_fallback", None),
}


class RecordedGraph:
    """Stands in for ``torch.cuda.CUDAGraph``."""

    pools: weakref.WeakValueDictionary[int, Any]
    destroyed = 0

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, list[Any]]] = []
        self._pool: Pool | None = None
        self.replays = 0

    def __del__(self) -> None:
        RecordedGraph.destroyed += 1

    def pool(self) -> int:
        assert self._pool is not None
        return id(self._pool)

    @torch.autocast("cpu", enabled=False)  # its casts are among the operations
    def replay(self) -> None:
        self.replays += 1
        for function, args, kwargs, outputs in self.operations:
            again, _ = tree_flatten(function(*args, **kwargs))
            for old, new in zip(outputs, again, strict=True):
                if isinstance(old, torch.Tensor) and old is not new:
                    assert old.shape == new.shape
                    old.copy_(new)


class Pool:
    """Memory of graphs; it lives as long as they do."""


def _fills() -> bool:
    """Return whether the line at work is ``x[...] = number``: on a GPU the number is an argument of the kernel."""
    frame = sys._getframe(2)
    while frame.f_back is not None and "/torch/" in frame.f_code.co_filename:
        frame = frame.f_back
    return bool(re.search(r"\] = -?[0-9.]+$", linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()))


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()
        self.graph = graph
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.made: set[int] = set()

    def put_back(self) -> None:
        """Undo what was written: a capture only notes what is to be done."""
        for tensor, before in self.before.values():
            tensor.copy_(before)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.overloadpacket in WAITS and not (function.overloadpacket is _ATEN.lift_fresh and _fills()):
            raise RuntimeError(f"operation not permitted when stream is capturing: {function}\nAnd advice.")
        inputs = [tensor for tensor in tree_flatten((args, kwargs))[0] if isinstance(tensor, torch.Tensor)]
        masks = function.overloadpacket in (_ATEN.index, _ATEN.index_put, _ATEN.index_put_)
        if masks and any(tensor.dtype == torch.bool for tensor in inputs[1:]):
            raise RuntimeError(f"operation not permitted when stream is capturing: {function} with a mask")
        if function._schema.is_mutable:
            for tensor in inputs:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.before and storage.data_ptr() not in self.made:
                    whole = torch.empty(0, dtype=tensor.dtype).set_(storage)
                    self.before[storage.data_ptr()] = whole, whole.clone()
        output = function(*args, **kwargs)
        outputs, _ = tree_flatten(output)
        places = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        fresh = [t for t in outputs if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in places]
        self.made |= {tensor.untyped_storage().data_ptr() for tensor in fresh}
        if function._schema.is_mutable or fresh:
            self.graph.operations.append((function, args, kwargs, outputs))
        return output


@contextmanager
def _capture(graph: RecordedGraph, *, pool: int | None, stream: Any, capture_error_mode: str) -> Iterator[None]:
    assert capture_error_mode == "thread_local", "threads that pin memory would end the capture"
    assert stream is not None
    if pool is None:
        graph._pool = Pool()
        RecordedGraph.pools[id(graph._pool)] = graph._pool
    else:
        if pool not in RecordedGraph.pools:
            raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")  # what torch says
        graph._pool = RecordedGraph.pools[pool]
    recorder, destroyed = _Recorder(graph), RecordedGraph.destroyed
    with recorder:
        yield
    recorder.put_back()
    if RecordedGraph.destroyed != destroyed:
        raise RuntimeError("operation failed due to a previous error during capture")


class _Stream:
    def wait_stream(self, other: Any) -> None: ...


def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[RecordedGraph]:
    """Put recorded graphs in the place of CUDA's; return those that are captured."""
    made: list[RecordedGraph] = []

    def make() -> RecordedGraph:
        graph = RecordedGraph()
        made.append(graph)
        return graph

    RecordedGraph.pools = weakref.WeakValueDictionary()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", make)
    monkeypatch.setattr(torch.cuda, "graph", _capture)
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    return made
