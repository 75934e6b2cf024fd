"""Measure backends, each in a separate process."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from deepsynth.errors import UserError
from deepsynth.io.worker_process import WorkerEnded, WorkerProcess
from deepsynth.measurement.cells import NOT_MEASURED, Cell, Result, Setting, run_cells

#: The module that measures; ``measurement`` does not import it, since it builds on the command line.
WORKER = "deepsynth.cli.measurement_worker"


@dataclass(frozen=True)
class Backend:
    """A way to train and generate.

    Attributes:
        name: in the names of cells.
        args: the options of ``deepsynth fit`` that make it.
    """

    name: str
    args: tuple[str, ...]


@dataclass(frozen=True)
class Measurement:
    """One measurement of a backend.

    Attributes:
        name: of the cell, without the backend's: ``train/batch=8``.
        measure: a name in :func:`deepsynth.cli.measurement_worker.measurements`.
        options: for it.
    """

    name: str
    measure: str
    options: Mapping[str, Any] = field(default_factory=dict)


def named_backends(config: Sequence[str], files: Sequence[Path], overrides: Sequence[str] = ()) -> list[Backend]:
    """Return a backend for each fit configuration in ``files``, named like its file.

    Args:
        config: options of ``deepsynth fit`` that come before the file.
        files: a backend each.
        overrides: options that come after it.

    Raises:
        UserError: for two files of the same name.
    """
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        raise UserError(f"backends is {', '.join(names)}; each file needs a different name")
    return [
        Backend(name, (*config, "--config", str(file), *overrides)) for name, file in zip(names, files, strict=True)
    ]


class BackendProcesses:
    """The process of the backend that is measured now; it ends when another backend is measured.

    Args:
        cell_limit_s: seconds that a measurement may take, loading included.
        logs: folder for what the processes print, a file for each backend; by default one that is removed at the end.
        worker: module of the processes.
    """

    def __init__(self, cell_limit_s: float, logs: Path | None = None, worker: str = WORKER) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        self.logs = logs or Path(self._scratch.name)
        self.cell_limit_s = cell_limit_s
        self.worker = worker
        self._backend: Backend | None = None
        self._process: WorkerProcess | None = None

    def __enter__(self) -> BackendProcesses:
        """Start nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process; at once after an error, Ctrl-C included."""
        self.end(grace_s=30.0 if error is None else 0.0)
        self._scratch.cleanup()

    def measure(self, backend: Backend, measurement: Measurement) -> Result:
        """Return the figures, or ``not_measured`` with the reason."""
        if backend != self._backend:
            self.end()
        if self._process is None:
            self.logs.mkdir(parents=True, exist_ok=True)
            self._process, self._backend = WorkerProcess(self.worker, log=self._log(backend)), backend
        request = {"args": backend.args, "measure": measurement.measure, "options": dict(measurement.options)}
        try:
            result = self._process.ask(request, timeout_s=self.cell_limit_s)
        except TimeoutError:
            self.end(grace_s=0.0)
            return {NOT_MEASURED: f"took longer than {self.cell_limit_s:g} s (cell_limit_s)"}
        except WorkerEnded as ended:
            self.end()
            if ended.code == -signal.SIGKILL:
                return {NOT_MEASURED: "the process was killed, as the operating system does when memory runs out"}
            reason = f"{ended.last_line[:300] or 'it printed nothing'} (logs/{self._log(backend).name})"
            return {NOT_MEASURED: f"the process ended with code {ended.code}: {reason}"}
        if result.pop("ended", False):
            self.end()
        return result

    def end(self, *, grace_s: float = 30.0) -> None:
        """End the process, by force when it still runs after ``grace_s`` seconds."""
        if self._process is not None:
            process, self._process = self._process, None
            process.close(grace_s=grace_s)

    def _log(self, backend: Backend) -> Path:
        return self.logs / f"{backend.name}.log"


def measure_all(
    processes: BackendProcesses,
    backends: Sequence[Backend],
    measurements: Sequence[Measurement],
    *,
    only: Sequence[str] = (),
    resume: bool = False,
    output: Path | None = None,
    settings: Mapping[str, Setting] | None = None,
    report: Callable[[str, Result], None],
) -> dict[str, Result]:
    """Measure each backend, all of one before the next.

    Args:
        processes: which measure.
        backends: what to measure.
        measurements: of each.
        only: as :func:`deepsynth.measurement.cells.run_cells` takes it; so are the next four.
        resume: keep the results in ``output``.
        output: JSON file.
        settings: that all cells have in common.
        report: called with each cell's name and result.

    Returns:
        The results by cell: ``train/batch=8/peft``; with ``resume`` those of earlier calls too.

    Raises:
        UserError: as :func:`deepsynth.measurement.cells.run_cells` does.
    """
    cells = [
        Cell(f"{measurement.name}/{backend.name}", partial(processes.measure, backend, measurement))
        for backend in backends
        for measurement in measurements
    ]
    return run_cells(cells, only=only, resume=resume, output=output, settings=settings, report=report)
