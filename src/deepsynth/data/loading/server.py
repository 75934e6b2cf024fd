"""The process that workers are forked from where there is a GPU.

A process that uses CUDA must not be forked, and a spawned worker imports for seconds, each on its own. The server is a
fresh process without CUDA. It imports once what workers need, while the main process imports and loads its own, and
then forks a worker within milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing import forkserver

#: How processes start beside one that uses a GPU.
METHOD = "spawn" if sys.platform == "win32" else "forkserver"
_PRELOADED = "deepsynth.data.loading.preloaded"


def start_server() -> None:
    """Start the server, once, and do not wait for it."""
    multiprocessing.set_forkserver_preload([_PRELOADED])
    forkserver.ensure_running()


def start_server_early(args: Sequence[str]) -> None:
    """Start the server for a command line that will want workers, before anything large is imported.

    Whether there is a GPU is known to a library that takes seconds to import, so the file of its driver is looked for.
    """
    trains = args[:1] and args[0] in ("fit", "validate", "test", "predict")
    idle = {"-h", "--help", "--print_config", "--data.num_workers=0"} & set(args)
    if trains and not idle and METHOD == "forkserver" and os.path.exists("/dev/nvidiactl"):
        start_server()
