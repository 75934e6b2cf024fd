"""The tables of a comparison, the same for every form of the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deepsynth.measurement.cells import NOT_MEASURED, Result, Setting

#: Samples whose cost is stated.
COST_SAMPLES = 50_000
#: Stands for a figure that a cell does not have.
NO_FIGURE = "–"


@dataclass(frozen=True)
class Comparison:
    """The results of several backends.

    Attributes:
        results: by cell: what was measured, its options, and last the backend.
        backends: names in the order of the report.
        baseline: the backend that ratios are to.
        environment: versions and machine.
        settings: that all cells have in common.
        price_per_gpu_hour: for the cost of samples.
    """

    results: dict[str, Result]
    backends: list[str]
    baseline: str
    environment: dict[str, str]
    settings: dict[str, Setting]
    price_per_gpu_hour: float | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether it was measured on a GPU; the driver's tool may be missing where there is one."""
        named = self.environment.get("gpu", "none") != "none"
        return named or any(key.endswith("allocated_gib") for result in self.results.values() for key in result)

    def get(self, cell: str, backend: str) -> Result:
        """Return a backend's result of a cell, ``not_measured`` when there is none."""
        return self.results.get(f"{cell}/{backend}", {NOT_MEASURED: "not run yet"})

    def value(self, cell: str, backend: str, key: str) -> float | None:
        """Return one number, ``None`` when there is none."""
        found = self.get(cell, backend).get(key)
        return float(found) if isinstance(found, (int, float)) else None

    def cells(self, measure: str) -> list[str]:
        """Return the cells of a measurement without the backend, in their order: ``train/batch=2``, …."""
        names = (name.rpartition("/")[0] for name in self.results)
        return list(dict.fromkeys(name for name in names if name.partition("/")[0] == measure))

    def ratio(self, cell: str, backend: str, key: str) -> float | None:
        """Return a number over the baseline's."""
        own, base = self.value(cell, backend, key), self.value(cell, self.baseline, key)
        return own / base if own is not None and base else None


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: above it.
        note: below the title: what the figures are.
        head: column names; the first columns are names, the others figures.
        rows: as many texts each.
        names: how many columns are names.
    """

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]
    names: int = 1


#: Makes the text of a column from the comparison, the cell and the backend.
Show = Callable[[Comparison, str, str], str]


def number(key: str, digits: int, scale: float = 1.0) -> Show:
    """Return a column's function: a number of a cell, with its spread where the cell has one."""

    def show(c: Comparison, cell: str, backend: str) -> str:
        value = c.value(cell, backend, key)
        if value is None:
            return NO_FIGURE
        low, high = c.value(cell, backend, f"{key}_low"), c.value(cell, backend, f"{key}_high")
        text = f"{scale * value:,.{digits}f}"
        return text if low is None or high is None else f"{text} ({scale * low:,.{digits}f}–{scale * high:,.{digits}f})"

    return show


def word(key: str) -> Show:
    """Return a column's function: a text of a cell."""
    return lambda c, cell, backend: str(c.get(cell, backend).get(key, NO_FIGURE))


def times_baseline(key: str) -> Show:
    """Return a column's function: a number over the baseline's."""

    def show(c: Comparison, cell: str, backend: str) -> str:
        ratio = c.ratio(cell, backend, key)
        return NO_FIGURE if ratio is None else f"{ratio:.2f}×"

    return show


def cost(c: Comparison, cell: str, backend: str) -> str:
    """Return what 50,000 samples cost at the given price."""
    rate = c.value(cell, backend, "samples_per_s")
    if not rate or c.price_per_gpu_hour is None:
        return NO_FIGURE
    return f"{COST_SAMPLES / rate / 3600 * c.price_per_gpu_hour:,.2f}"


def change(metric: str) -> Show:
    """Return a column's function: a metric before and after fine-tuning."""

    def show(c: Comparison, cell: str, backend: str) -> str:
        before, after = c.value(cell, backend, f"{metric}_before"), c.value(cell, backend, f"{metric}_after")
        return NO_FIGURE if before is None or after is None else f"{before:.3f} → {after:.3f}"

    return show


_MEMORY = (
    ("peak allocated GiB", number("peak_allocated_gib", 2)),
    ("reserved GiB", number("peak_reserved_gib", 2)),
    ("peak RSS of the process GiB", number("peak_rss_gib", 2)),
)

#: Measurement, title, note (a template of the comparison's settings) and columns of every table; a column that no cell
#: has a figure for is left out.
TABLES: tuple[tuple[str, str, str, tuple[tuple[str, Show], ...]], ...] = (
    (
        "load",
        "Backends",
        "Weights are the bytes of all parameters and buffers, quantized ones as they are stored.",
        (
            ("module", word("module")),
            ("model", word("model_name")),
            ("weights", word("weights")),
            ("device", word("device")),
            ("dtype", word("dtype")),
            ("weights GiB", number("weights_gib", 3)),
            ("load s", number("load_s", 1)),
            ("trainable", number("trainable", 0)),
            ("seed", word("seed")),
        ),
    ),
    (
        "train",
        "Training",
        "Synthetic batches of one page of the model's size and {text_tokens} text tokens a sample, so that no data "
        "loader is in the figure. Medians over repeats, in brackets the lowest and highest. Tokens are positions of "
        "image, prompt and text. × is relative to {baseline}. MFU: operations that the work needs, over the dense "
        "peak of the device's data sheet; none where that is not known.",
        (
            ("samples/s", number("samples_per_s", 2)),
            ("×", times_baseline("samples_per_s")),
            ("tokens/s", number("tokens_per_s", 0)),
            *_MEMORY,
            ("MFU %", number("mfu", 1, 100)),
            (f"cost of {COST_SAMPLES:,}", cost),
        ),
    ),
    (
        "phases",
        "Where a step's time goes",
        "Milliseconds, median over steps, on the configuration's own data through its loader. The device is "
        "synchronized between phases, so a step is longer than above. Data is the waiting for the batch.",
        (
            ("data", number("data_ms", 1)),
            ("vision", number("vision_ms", 1)),
            ("decoder forward", number("decoder_ms", 1)),
            ("backward", number("backward_ms", 1)),
            ("optimizer", number("optimizer_ms", 1)),
            ("step", number("step_ms", 1)),
            ("tokens a batch", number("positions", 0)),
        ),
    ),
    (
        "generate",
        "Generation",
        "One page a prompt, {new_tokens} new tokens at most. Prefill is the time to the first token of all pages. × is "
        "relative to {baseline}.",
        (
            ("prefill ms", number("prefill_ms", 1)),
            ("ms a token", number("ms_per_token", 2)),
            ("×", times_baseline("ms_per_token")),
            ("tokens/s", number("tokens_per_s", 1)),
            ("tokens a page", number("tokens", 0)),
            *_MEMORY,
        ),
    ),
    (
        "largest_batch",
        "Largest batch",
        "Two steps of training fit, with {text_tokens} text tokens a sample.",
        (
            ("fits", number("largest_batch", 0)),
            ("does not fit", word("too_large")),
            ("of GiB", number("memory_gib", 1)),
        ),
    ),
    (
        "longest_context",
        "Longest context",
        "Positions of image, prompt and text with which two steps of batch 1 fit.",
        (
            ("fits", number("longest_context", 0)),
            ("does not fit", word("too_long")),
            ("of GiB", number("memory_gib", 1)),
        ),
    ),
    (
        "quality",
        "Quality",
        "On the validation set, before and after {quality_steps} steps of fine-tuning on the configuration's data.",
        tuple(
            (title, change(metric))
            for title, metric in (
                *(("loss", "loss"), ("CER", "cer"), ("WER", "wer"), ("ROUGE-1", "rouge1")),
                *(("ROUGE-2", "rouge2"), ("ROUGE-L", "rougeL"), ("BLEU", "bleu")),
            )
        ),
    ),
)


def tables(c: Comparison) -> list[Table]:
    """Return the tables in the order of the report, those without any cell left out."""
    values = {name: c.settings.get(name) for name in ("text_tokens", "new_tokens", "quality_steps")}
    found = []
    for measure, title, note, columns in TABLES:
        cells = [(cell, backend) for cell in c.cells(measure) for backend in c.backends]
        if not cells:
            continue
        shown = [column for column in columns if any(column[1](c, *cell) != NO_FIGURE for cell in cells)] or columns[:1]
        named = any("/" in cell for cell, _ in cells)
        rows = []
        for cell, backend in cells:
            names = [cell.partition("/")[2].replace("=", " "), backend] if named else [backend]
            if NOT_MEASURED in c.get(cell, backend):
                rows.append([*names, "not measured", *[NO_FIGURE] * (len(shown) - 1)])
            else:
                rows.append([*names, *(show(c, cell, backend) for _, show in shown)])
        head = ["work", "backend"] if named else ["backend"]
        note = note.format(baseline=c.baseline, **values)
        found.append(Table(title, note, [*head, *(name for name, _ in shown)], rows, len(head)))
    return found


def missing(c: Comparison) -> list[tuple[str, str, str]]:
    """Return backend, cells and reason of what has no figure; a backend's cells of the same reason are one row."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, result in c.results.items():
        if NOT_MEASURED in result:
            cell, _, backend = name.rpartition("/")
            found.setdefault((backend, str(result[NOT_MEASURED])), []).append(cell)
    return [(backend, ", ".join(cells), reason) for (backend, reason), cells in found.items()]
