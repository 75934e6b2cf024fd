"""A tensor on its way from the GPU to the host."""

from __future__ import annotations

import torch


class HostCopy:
    """Copies a tensor to the host while the host goes on, and waits for it when it is read.

    What the GPU was given to do later is not waited for. On a CPU the copy is the tensor itself.

    Args:
        tensor: on any device.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._copy = tensor.detach()
        self._done: torch.cuda.Event | None = None
        if tensor.is_cuda:
            pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._copy = pinned.copy_(tensor.detach(), non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def read(self) -> torch.Tensor:
        """Return the tensor on the host, as it was when the copy began."""
        if self._done is not None:
            self._done.synchronize()
        return self._copy
