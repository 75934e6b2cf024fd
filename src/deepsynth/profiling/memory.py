"""The one memory reading of the package: of a GPU from PyTorch's allocator, else the process's resident memory."""

from __future__ import annotations

import mmap
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from deepsynth.errors import UserError

GIB = 2**30

#: What the messages of CUDA's libraries and of the CPU's allocator have in common when memory runs out.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes at one moment.

    Attributes:
        allocated: in tensors; for a process, resident.
        reserved: by the allocator, tensors among it; for a process, resident.
        peak: the most that was allocated since the last ``restart_peak``.
    """

    allocated: int
    reserved: int
    peak: int


class Memory(ABC):
    """A memory that can run out."""

    #: First part of the log keys.
    key: str

    @abstractmethod
    def usage(self) -> Usage:
        """Return what is held now."""

    @abstractmethod
    def restart_peak(self) -> None:
        """Forget the peak."""

    @abstractmethod
    def limit(self) -> int:
        """Return the bytes at which an allocation of this process would fail now."""


class DeviceMemory(Memory):
    """Memory of one GPU. Restarting the peak also restarts the one of ``torch.cuda.max_memory_allocated``.

    Args:
        device: a CUDA device.
    """

    key = "vram"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def usage(self) -> Usage:
        """Return the allocator's own counts; nothing waits for the device."""
        # torch.cuda.memory_allocated and its kin each sort all of the allocator's statistics to read one of them.
        stats = torch.cuda.memory_stats_as_nested_dict(self.device)
        if not stats:  # CUDA was not used yet
            return Usage(0, 0, 0)
        allocated = stats["allocated_bytes"]["all"]
        return Usage(allocated["current"], stats["reserved_bytes"]["all"]["current"], allocated["peak"])

    def restart_peak(self) -> None:
        """Start the peak at what is allocated now."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def limit(self) -> int:
        """Return what the driver has left and what the allocator already reserved."""
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(free) + self.usage().reserved


class ProcessMemory(Memory):
    """Resident memory of this process; its peak is the most that was seen when it was asked for."""

    key = "ram"

    def __init__(self) -> None:
        self._process = psutil.Process()
        # Between the phases of a step, with cold caches, psutil takes five times as long as one read of an open file.
        linux = sys.platform == "linux"
        self._statm = Path("/proc/self/statm").open("rb", buffering=0) if linux else None  # noqa: SIM115 - kept open
        self._page_bytes = mmap.PAGESIZE
        self._resident = self._peak = 0

    def usage(self) -> Usage:
        """Return the resident memory, which the operating system does not divide further."""
        if self._statm is not None:
            self._statm.seek(0)
            self._resident = int(self._statm.read(256).split()[1]) * self._page_bytes
        else:
            self._resident = int(self._process.memory_info().rss)
        self._peak = max(self._peak, self._resident)
        return Usage(self._resident, self._resident, self._peak)

    def restart_peak(self) -> None:
        """Reset the peak to the resident memory at the last query."""
        self._peak = self._resident

    def limit(self) -> int:
        """Return what is resident and what the machine could still give without swapping."""
        return self.usage().allocated + int(psutil.virtual_memory().available)


def memory_of(device: torch.device) -> Memory:
    """Return the memory that a run on ``device`` would exhaust first."""
    return DeviceMemory(device) if device.type == "cuda" else ProcessMemory()


def peak_bytes(step: Callable[[], object], device: torch.device) -> float:
    """Return the most bytes that a GPU holds in tensors during ``step``, weights among them.

    Returns:
        Infinity when ``step`` runs out of memory.

    Raises:
        UserError: on a CPU, whose allocator keeps no peak.
    """
    if device.type != "cuda":
        raise UserError(
            f"model.engine.memory_budget_gib is set and the run is on the {device.type}; it must be on a GPU, where "
            "the memory of a step is measured. Leave the budget out, or set model.engine.activation_memory to a value "
            "other than auto"
        )
    memory = DeviceMemory(device)
    memory.restart_peak()
    try:
        step()
    except torch.OutOfMemoryError:
        return float("inf")
    finally:
        torch.cuda.empty_cache()
    return float(memory.usage().peak)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, of a GPU or of the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _OUT_OF_MEMORY)
