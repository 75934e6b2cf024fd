"""Ask measurements of backends, each in a process of its own, and write down what came of every one."""

from __future__ import annotations

import contextlib
import json
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from deepsynth.measurement.cells import Cell, Result, Setting, is_chosen, run_cells

#: The command of the process that answers.
WORKER = (sys.executable, "-m", "deepsynth.cli.measurement_worker")


@dataclass(frozen=True)
class Backend:
    """A way to train and read.

    Attributes:
        name: in the names of cells.
        args: the options of ``deepsynth fit`` that make it.
    """

    name: str
    args: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """One measurement of one backend.

    Attributes:
        name: of the cell, without the backend's: ``train/batch=8``.
        measure: a name in :data:`deepsynth.measurement.cells_table.MEASUREMENTS`.
        options: for it.
    """

    name: str
    measure: str
    options: Mapping[str, Any] = field(default_factory=dict)


class Workers:
    """The process of the backend that is measured now; another backend's ends the last one's.

    Args:
        logs: folder for what the processes print, a file for each backend.
        cell_limit_s: seconds that a measurement may take, loading included.
    """

    def __init__(self, logs: Path, cell_limit_s: float) -> None:
        self.logs = logs
        self.cell_limit_s = cell_limit_s
        self._backend: Backend | None = None
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Workers:
        """Start nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process."""
        self.end()

    def ask(self, backend: Backend, question: Question) -> Result:
        """Return the figures, or ``not_measured`` with the reason."""
        if backend != self._backend:
            self.end()
        if self._process is None:
            self._start(backend)
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it ended: the empty answer below says so
            process.stdin.write(json.dumps({"measure": question.measure, "options": dict(question.options)}) + "\n")
            process.stdin.flush()
        readable, _, _ = select.select([process.stdout], [], [], self.cell_limit_s)
        line = process.stdout.readline() if readable else ""
        if not readable:
            self.end(kill=True)
            return {"not_measured": f"took longer than {self.cell_limit_s:g} s (cell_limit_s)"}
        if not line:
            code = process.wait()
            self.end()
            return {"not_measured": self._ending(backend, code)}
        result: dict[str, Any] = json.loads(line)
        if result.pop("ended", False):
            self.end()
        return result

    def end(self, *, kill: bool = False) -> None:
        """End the process, kindly unless it hangs."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if kill:
            process.kill()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self, backend: Backend) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        with self._log(backend).open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                WORKER,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
            )
        self._backend = backend
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"args": backend.args}) + "\n")
        self._process.stdin.flush()

    def _log(self, backend: Backend) -> Path:
        return self.logs / f"{backend.name}.log"

    def _ending(self, backend: Backend, code: int) -> str:
        """Say how a process ended that gave no answer."""
        if code == -signal.SIGKILL:
            return "the process was killed, as the operating system does when memory runs out"
        lines = self._log(backend).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1].strip()[:300] if lines else "it printed nothing"
        return f"the process ended with code {code}: {last} (logs/{self._log(backend).name})"


class OutOfTime(Exception):
    """No further measurement can be begun within the time that was given."""


def measure_all(
    backends: Sequence[Backend],
    questions: Sequence[Question],
    *,
    line: Callable[[str, Result], str],
    report: Callable[[str], None],
    only: Sequence[str] = (),
    resume: bool = False,
    output: Path | None = None,
    logs: Path | None = None,
    settings: Mapping[str, Setting] | None = None,
    cell_limit_s: float,
    time_budget_s: float | None = None,
) -> dict[str, Result]:
    """Ask every question of each backend, all of a backend before the next, until they or the time run out.

    Args:
        backends: whom to ask.
        questions: what to ask.
        line: makes a line of a cell and its result.
        report: takes the lines.
        only: as :func:`deepsynth.measurement.cells.run_cells` takes it; so are the next three.
        resume: go on with what is in ``output``.
        output: JSON file.
        logs: folder for what the processes print; by default one that is gone afterwards.
        settings: that all cells have in common.
        cell_limit_s: seconds that one cell may take, loading included.
        time_budget_s: begin no cell that could end later than this after the start.

    Returns:
        The results by cell: ``train/batch=8/peft``; those of earlier calls too with ``resume``.

    Raises:
        ValueError: when no cell could begin within the time, and what
            :func:`deepsynth.measurement.cells.run_cells` raises.
    """
    if time_budget_s is not None and time_budget_s < cell_limit_s:
        raise ValueError(
            f"time_budget_s is {time_budget_s:g}, but one cell may take {cell_limit_s:g} s (cell_limit_s), so none "
            "could begin; lower cell_limit_s"
        )
    started = time.monotonic()

    def measure(workers: Workers, backend: Backend, question: Question) -> Result:
        if time_budget_s is not None and time.monotonic() - started + cell_limit_s > time_budget_s:
            raise OutOfTime
        return workers.ask(backend, question)

    results: dict[str, Result] = {}

    def note(name: str, result: Result) -> None:
        results[name] = result
        report(line(name, result))

    with tempfile.TemporaryDirectory() as scratch, Workers(logs or Path(scratch), cell_limit_s) as workers:
        cells = [
            Cell(f"{question.name}/{backend.name}", partial(measure, workers, backend, question))
            for backend in backends
            for question in questions
        ]
        try:
            return run_cells(cells, only=only, resume=resume, output=output, settings=settings, report=note)
        except OutOfTime:
            if resume and output is not None and output.exists():
                results = {**json.loads(output.read_text("utf-8"))["cells"], **results}
            left = sum(is_chosen(cell.name, only) and cell.name not in results for cell in cells)
            report(f"time_budget_s is used up; {left} cells are left: the same command with --resume=true goes on")
            return results
