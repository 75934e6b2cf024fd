"""The process that loads one backend and measures it, started by :mod:`deepsynth.measurement.process`.

A request has ``args``, the options of ``deepsynth fit``, the name of a measurement and its ``options``. The reply has
the figures of loading and of the measurement, or ``not_measured`` with the reason. An unexpected error ends the process
with its traceback on the standard error.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from deepsynth.io.worker_process import serve
from deepsynth.unsloth_import import import_unsloth_first

if TYPE_CHECKING:
    from deepsynth.measurement.harness import Harness


def measurements() -> dict[str, Callable[..., dict[str, float | int | str]]]:
    """Return what can be measured, by name; each takes the harness, and options as keywords."""
    from deepsynth.measurement import generation, phases, real_run, training
    from deepsynth.measurement.harness import Harness

    return {
        "load": Harness.load,
        "train": training.measure_training,
        "fit": real_run.measure_fit,
        "phases": phases.measure_phases,
        "generate": generation.measure_generation,
        "source": generation.measure_source,
        "quality": generation.measure_quality,
        "largest_batch": training.measure_largest_batch,
        "longest_context": training.measure_longest_context,
    }


def build(args: Sequence[str]) -> Harness:
    """Return the harness of a configuration, nothing loaded yet."""
    from deepsynth.cli.trainer import DeepSynthCLI
    from deepsynth.measurement.harness import Harness

    quiet = ["--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"]
    cli = DeepSynthCLI([*args, *quiet], run=False)
    return Harness(
        cli.model,
        cli.datamodule,
        precision=cli.trainer.precision,
        gradient_clip_val=cli.trainer.gradient_clip_val,
        seed=int(cli.config["seed_everything"]),
    )


class MeasurementServer:
    """Measures one backend, which is built when the first request comes."""

    def __init__(self) -> None:
        self._harness: Harness | None = None
        self._refused: str | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the figures of a measurement, or why there are none.

        Running out of memory leaves a device behind that is no longer clean: ``"ended"`` says that the next
        measurement should have a new process.
        """
        if self._harness is None:
            import_unsloth_first(request["args"])
        from deepsynth.cli.errors import ParserError, is_user_error, one_line
        from deepsynth.measurement.harness import NotMeasured
        from deepsynth.profiling.memory import is_out_of_memory

        if self._refused is not None:
            return {"not_measured": self._refused}
        loaded = self._harness is not None
        try:
            if self._harness is None:
                harness = build(request["args"])
                harness.load()
                self._harness = harness
            return {
                **self._harness.load(),
                **measurements()[request["measure"]](self._harness, **request["options"]),
            }
        except NotMeasured as error:
            return {"not_measured": str(error)}
        except Exception as error:
            traceback.print_exc()
            reason = one_line(str(error), 300) or type(error).__name__
            if is_out_of_memory(error):
                return {"not_measured": f"out of memory: {reason}", "ended": True}
            if not isinstance(error, ParserError) and not is_user_error(error):
                raise
            if not loaded:
                self._refused = reason
            return {"not_measured": reason}


def main() -> None:
    """Answer requests until the parent ends or closes the pipe."""
    serve(MeasurementServer().answer, grace_s=30.0)
