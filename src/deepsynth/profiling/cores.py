"""The processor cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_cores(cgroup: Path = _CGROUP) -> int:
    """Return the number of cores: those of the process's affinity, and no more than its container's share of time.

    Args:
        cgroup: folder of the process's control group; it may be missing.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for limit, period in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            numbers = (cgroup / limit).read_text().split()
            numbers += (cgroup / period).read_text().split() if period else []
        except OSError:
            continue
        if numbers[0].isdigit():  # else "max" or -1: no limit
            cores = min(cores, max(1, int(numbers[0]) // int(numbers[1])))
    return cores
