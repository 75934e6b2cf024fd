"""What can be asked of a backend, by name; the worker answers, commands ask."""

from __future__ import annotations

from collections.abc import Callable

from deepsynth.measurement.cells import Result
from deepsynth.measurement.fits import measure_largest_batch, measure_longest_context
from deepsynth.measurement.generation import measure_generation, measure_quality, measure_source
from deepsynth.measurement.harness import Bench
from deepsynth.measurement.phases import measure_phases
from deepsynth.measurement.training import measure_training

#: Each takes the bench and options as keywords.
MEASUREMENTS: dict[str, Callable[..., Result]] = {
    "load": Bench.load,
    "train": measure_training,
    "phases": measure_phases,
    "generate": measure_generation,
    "source": measure_source,
    "quality": measure_quality,
    "largest_batch": measure_largest_batch,
    "longest_context": measure_longest_context,
}
