"""What the server of workers imports; see :mod:`deepsynth.data.loading.server`. Only that process imports it."""

from __future__ import annotations

import atexit
import os
import threading

_done = threading.Event()


def _end_with_parent(parent: int) -> None:
    """End this process when its parent ends, which the server notices only after its imports."""
    while not _done.wait(0.2):
        if os.getppid() != parent:
            os._exit(0)


# Signals to the process group of the run are not for it: workers are needed until the last checkpoint.
os.setpgrp()
_watch = threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True)
_watch.start()
# A pipe that the run writes to stays open as long as this process, and there is nothing to clean up.
atexit.register(os._exit, 0)

from deepsynth.data.loading.dataset import PageDataset  # noqa: E402, F401
from deepsynth.data.loading.stream import PagesOnRequest  # noqa: E402, F401
from deepsynth.data.processing.processor import OcrProcessor  # noqa: E402

OcrProcessor().hf_processor  # noqa: B018  what loads one imports by far the most
_done.set()
_watch.join()  # a process with threads should not fork
