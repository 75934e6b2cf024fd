"""What a push to the Hub and VramMonitor cost a training step, measured in one run.

The Hub is the tests' stand-in, in a process of its own, so slow that a push takes about as long as the pause until the
next: steps with a push under way and steps without alternate all the time. Beside the time on the clock stands the CPU
time of the training process, all its threads together, which other programs on the machine do not change.

    python scripts/benchmark_callbacks.py --steps 1200
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.helpers.local_hub import TOKEN, local_hub  # noqa: E402 - the path comes first

WARM_UP = 20
TEXTS = ("The quick brown fox jumps over the lazy dog.", "Pack my box with five dozen liquor jugs.")


def quantiles(values: Sequence[float]) -> str:
    """Return the median and the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def bounds(a: Sequence[float], b: Sequence[float], resamples: int = 2000) -> tuple[float, float]:
    """Return the bootstrap's 95 % bounds of the ratio of two medians."""
    rng = random.Random(0)
    ratios = sorted(
        statistics.median(rng.choices(a, k=len(a))) / statistics.median(rng.choices(b, k=len(b)))
        for _ in range(resamples)
    )
    return ratios[int(0.025 * resamples)], ratios[int(0.975 * resamples)]


def main() -> None:
    """Run, and print a few lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--every", type=int, default=60, help="steps between pushes")
    parser.add_argument("--bytes_per_s", type=int, default=120_000, help="speed of the Hub")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--model_name", default="deepsynth/tiny-random")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with local_hub(folder) as hub:
            os.setpriority(os.PRIO_PROCESS, hub.proc.pid, 19)  # a real Hub is on another machine
            os.environ.update(hub.env(hub.home, token=TOKEN, redirect=False))
            hub.fault(path="/", action="throttle", bytes_per_sec=settings.bytes_per_s, times=-1)
            measure(folder, settings)


def measure(folder: Path, settings: argparse.Namespace) -> None:
    """Train, and print what the steps took."""
    import torch
    from lightning.pytorch import Callback

    from deepsynth.callbacks import HubCheckpoint, VramMonitor
    from deepsynth.hub import worker
    from tests.helpers.training import make_data, make_module, make_trainer

    torch.set_num_threads(1)
    documents = folder / "docs.jsonl"
    documents.write_text("".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(TEXTS * 4)))
    pushes: list[tuple[float, float]] = []
    attempt = worker.run_attempt

    def timed_attempt(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return attempt(*args, **kwargs)
        finally:
            pushes.append((begin, time.perf_counter()))

    worker.run_attempt = timed_attempt
    steps: list[tuple[float, float]] = []
    cpu: list[float] = []
    hooks: dict[str, float] = {"monitor": 0.0, "snapshot": 0.0}
    monitored: list[float] = []
    snapshots: list[float] = []

    def timed(method: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                hooks[kind] += time.thread_time() - begin

        return call

    class Clock(Callback):
        """Times the steps as a user sees them: from batch to batch."""

        def __init__(self) -> None:
            self.begin = self.cpu = 0.0

        def on_train_batch_start(self, *args: Any) -> None:
            now, used = time.perf_counter(), time.process_time()
            if self.begin:
                steps.append((self.begin, now))
                cpu.append(used - self.cpu)
                monitored.append(hooks["monitor"])
                snapshots.append(hooks["snapshot"])
            hooks.update(monitor=0.0, snapshot=0.0)
            self.begin, self.cpu = now, used

    monitor, pusher = VramMonitor(), HubCheckpoint("alice/benchmark", every=settings.every, deadline_s=120)
    for hook in ("on_train_batch_start", "on_before_backward", "on_after_backward", "on_train_batch_end"):
        setattr(monitor, hook, timed(getattr(monitor, hook), "monitor"))
    pusher._push = timed(pusher._push, "snapshot")  # type: ignore[method-assign]
    trainer = make_trainer(
        folder / "run",
        accelerator=settings.accelerator,
        devices=1,
        callbacks=[Clock(), monitor, pusher],
        max_steps=settings.steps,
        max_epochs=-1,
        log_every_n_steps=10,
    )
    trainer.fit(make_module(model_name=settings.model_name), make_data(documents))
    report(steps, cpu, pushes, monitored, snapshots)


def report(
    steps: list[tuple[float, float]],
    cpu: list[float],
    pushes: list[tuple[float, float]],
    monitored: list[float],
    snapshots: list[float],
) -> None:
    """Print the figures; steps in which a push began or ended, or a snapshot was written, are in neither group."""
    during: list[tuple[float, float]] = []
    outside: list[tuple[float, float]] = []
    for (begin, end), used, snapshot in list(zip(steps, cpu, snapshots, strict=True))[WARM_UP:]:
        if snapshot > 1e-3:
            continue
        if any(start <= begin and end <= stop for start, stop in pushes):
            during.append(((end - begin) * 1e3, used * 1e3))
        elif not any(start < end and begin < stop for start, stop in pushes):
            outside.append(((end - begin) * 1e3, used * 1e3))
    lines = [
        f"{len(pushes)} pushes of {statistics.median(stop - start for start, stop in pushes):.1f} s (median); "
        f"{len(during)} steps during one, {len(outside)} without; medians and quartiles:"
    ]
    for place, what in enumerate(("on the clock", "CPU time")):
        with_push, without = [step[place] for step in during], [step[place] for step in outside]
        low, high = bounds(with_push, without)
        ratio = statistics.median(with_push) / statistics.median(without)
        whole = statistics.median([*with_push, *without]) / statistics.median(without)
        lines.append(
            f"step, {what}: {quantiles(with_push)} ms during a push, {quantiles(without)} ms without; "
            f"ratio of the medians {ratio:.4f} (95 % by bootstrap: {low:.4f} to {high:.4f}); "
            f"of all the run's steps to those without {whole:.4f}"
        )
    shares = [cost / used for cost, used in list(zip(monitored, cpu, strict=True))[WARM_UP:]]
    lines += [
        f"writing a snapshot: {quantiles([s * 1e3 for s in snapshots if s > 1e-3])} ms, in the step that pushes",
        f"VramMonitor: {statistics.median(shares):.3%} of a step's CPU time (mean {statistics.mean(shares):.3%})",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
