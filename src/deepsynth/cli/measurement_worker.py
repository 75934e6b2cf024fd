"""A process that loads one backend and measures what it is asked for: ``python -m deepsynth.cli.measurement_worker``.

One JSON line in: ``{"args": [...]}``, the options of ``deepsynth fit``. Then a line for each measurement,
``{"measure": "train", "options": {...}}``, answered by one line: the figures after those of loading, or
``{"not_measured": why}``. What libraries print goes to the standard error. An error that nobody foresaw ends the
process, with its traceback there.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, TextIO

from deepsynth.unsloth_import import import_unsloth_first


def build(args: Sequence[str]) -> Any:
    """Return the bench of a configuration, nothing loaded yet."""
    from deepsynth.cli.main import DeepSynthCLI
    from deepsynth.measurement.harness import Bench

    quiet = ["--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"]
    cli = DeepSynthCLI([*args, *quiet], run=False)
    return Bench(
        cli.model,
        cli.datamodule,
        precision=cli.trainer.precision,
        gradient_clip_val=cli.trainer.gradient_clip_val,
        seed=int(cli.config["seed_everything"]),
    )


class Answers:
    """Measures with one bench, which is built when the first measurement asks for it.

    Args:
        args: the options of a fit.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self.args = args
        self._bench: Any = None
        self._refused: str | None = None

    def answer(self, measure: str, options: dict[str, Any]) -> dict[str, Any]:
        """Return the figures of a measurement, or why there are none.

        Running out of memory leaves a device behind that is no longer clean: ``"ended"`` says that the next
        measurement should have a new process.
        """
        from deepsynth.cli.errors import ParserError, one_line
        from deepsynth.cli.main import USER_ERRORS
        from deepsynth.measurement.cells_table import MEASUREMENTS
        from deepsynth.measurement.harness import NotMeasured
        from deepsynth.profiling.memory import is_out_of_memory

        if self._refused is not None:
            return {"not_measured": self._refused}
        loaded = self._bench is not None
        try:
            if not loaded:
                bench = build(self.args)
                bench.load()
                self._bench = bench
            return {**self._bench.load(), **MEASUREMENTS[measure](self._bench, **options)}
        except NotMeasured as error:
            return {"not_measured": str(error)}
        except (ParserError, *USER_ERRORS, RuntimeError, MemoryError) as error:
            traceback.print_exc()
            reason = one_line(str(error), 300) or type(error).__name__
            if is_out_of_memory(error):
                return {"not_measured": f"out of memory: {reason}", "ended": True}
            if not isinstance(error, (ParserError, *USER_ERRORS)):
                raise
            if not loaded:
                self._refused = reason
            return {"not_measured": reason}


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer every line until there is none."""
    args: list[str] = json.loads(requests.readline())["args"]
    import_unsloth_first(args)
    answers = Answers(args)
    for line in requests:
        asked = json.loads(line)
        replies.write(json.dumps(answers.answer(asked["measure"], asked["options"])) + "\n")
        replies.flush()


def main() -> None:
    """Answer on what was the standard output, and let what is printed go to the standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
