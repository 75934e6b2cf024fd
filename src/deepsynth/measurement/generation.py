"""What generation costs: the first token, each token after it, many pages at once; and how good the texts are."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from deepsynth.generation import Generation
from deepsynth.measurement.cells import Result
from deepsynth.measurement.harness import Harness, NotMeasured, spread
from deepsynth.measurement.synthetic import SyntheticBatches
from deepsynth.types import Batch


def measure_generation(harness: Harness, *, batch_size: int, text_tokens: int, new_tokens: int, repeats: int) -> Result:
    """Generate from synthetic pages, and return latencies, rate and peak memory.

    Each repeat generates from new pages twice: one token, which is the prefill, and ``new_tokens``.

    Args:
        harness: whose module generates.
        batch_size: pages at once.
        text_tokens: of the synthetic batches; generation sees their prompts only.
        new_tokens: that are generated for a page, at least 2; the end of a text is ignored.
        repeats: how often to measure, after a warm-up; the figures are medians.

    Returns:
        ``prefill_ms`` (to the first token of all pages), ``ms_per_token`` (of the tokens after it, one for every page
        at once), ``tokens_per_s`` (all pages, prefill included) with ``_low`` and ``_high``; ``tokens``
        for a page on average; the peak of memory.

    Raises:
        NotMeasured: when every page ends after its first token, or when a first token took longer than a whole text.
    """
    harness.load()
    work = harness.batches(batch_size, text_tokens)
    module = harness.module
    module.eval()
    module.text_generator.release()
    before = module.generation
    # Every page takes all its tokens: random weights repeat themselves, and a trained model ends an empty page at
    # once. So repetition is allowed, and a text ends with a token that no model generates.
    module.generation = replace(before, stop_on_repetition=False)
    module.text_generator.stops = (module.processor.image_token_id,)
    prefills, waits, rates, tokens = [], [], [], []
    try:
        harness.restart_peak()
        for repeat in range(-1, repeats):
            first_s, _ = timed_generation(harness, work, 2 * repeat + 2, 1)
            whole_s, generations = timed_generation(harness, work, 2 * repeat + 3, new_tokens)
            longest = max(generation.tokens for generation in generations)
            if longest < 2:
                raise NotMeasured(f"every page ended after its first token (new_tokens={new_tokens})")
            if repeat >= 0:
                prefills.append(1000 * first_s)
                waits.append(1000 * (whole_s - first_s) / (longest - 1))
                rates.append(sum(generation.tokens for generation in generations) / whole_s)
                tokens.append(statistics.mean(generation.tokens for generation in generations))
    finally:
        module.generation = before
        module.text_generator.stops = None
        module.text_generator.release()
        module.train()
    if statistics.median(waits) <= 0:
        raise NotMeasured(
            f"noise: the first token took as long as all {new_tokens}; measure more repeats or new_tokens, alone"
        )
    result = {
        **spread("prefill_ms", prefills),
        **spread("ms_per_token", waits),
        **spread("tokens_per_s", rates),
        "tokens": statistics.median(tokens),
        **harness.peak(),
    }
    harness.release()
    return result


def timed_generation(
    harness: Harness, work: SyntheticBatches, index: int, new_tokens: int
) -> tuple[float, list[Generation]]:
    """Return the seconds that the generation of a batch took, and the texts."""
    harness.module.generation = replace(harness.module.generation, max_new_tokens=new_tokens)
    batch: Batch = work[index]
    harness.synchronize()
    start = time.perf_counter()
    generations = harness.module.generate(batch)
    harness.synchronize()
    seconds = time.perf_counter() - start
    harness.look_at_memory()
    assert generations is not None, "without a deadline generation is never cut"
    return seconds, generations


def measure_source(harness: Harness, *, batch_size: int, num_pages: int, new_tokens: int) -> Result:
    """Generate from pages of the configuration's own source as ``deepsynth predict`` does, rendering included.

    The rate is that of a long source, from the end of the first batch to the end of the last but one: the first waits
    for workers to start and for kernels to be compiled, and pages that are generated across batches are finished with
    the last. Pages that the workers draw before the rate begins are ready when they are asked for, so measure many more
    than ``num_workers * prefetch_factor`` batches.

    Args:
        harness: whose module predicts its own data.
        batch_size: pages at once.
        num_pages: to measure, in whole batches, between the first and the last.
        new_tokens: most that are generated for a page.

    Returns:
        ``pages_per_s`` and ``tokens_per_s``, ``pages``, so many; ``start_s``, to the end of the first batch; the peak
        of memory.

    Raises:
        NotMeasured: when the source has no third batch.
    """
    harness.load()
    data, module, clock = harness.data, harness.module, _PredictClock()
    before = data.eval_batch_size, module.generation
    data.eval_batch_size = batch_size
    module.generation = replace(module.generation, max_new_tokens=new_tokens, stop_on_repetition=False)
    batches = 2 + -(-num_pages // batch_size)
    try:
        harness.restart_peak()
        trainer = harness.trainer(clock, limit_predict_batches=batches)
        trainer.predict(harness.module, datamodule=data, return_predictions=False)
    finally:
        data.eval_batch_size, module.generation = before
    if len(clock.batches) < 3:
        raise NotMeasured(f"the source has less than three batches of {batch_size} pages")
    counted = clock.batches[1:-1]
    seconds = counted[-1][0] - clock.batches[0][0]
    pages = sum(pages for _, pages, _ in counted)
    result = {
        "pages_per_s": pages / seconds,
        "tokens_per_s": sum(tokens for _, _, tokens in counted) / seconds,
        "pages": pages,
        "start_s": clock.batches[0][0] - clock.begun,
        **harness.peak(),
    }
    harness.release()
    return result


class _PredictClock(Callback):
    """Records when each batch of a prediction ended, with its pages and tokens."""

    def __init__(self) -> None:
        self.begun = 0.0
        self.batches: list[tuple[float, int, int]] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin before the workers do."""
        self.begun = time.perf_counter()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Count the texts that came with a batch."""
        self.batches.append((time.perf_counter(), len(outputs), sum(row["tokens"] for row in outputs)))


#: The metrics of the validation set that are compared before and after.
METRICS = ("loss", "cer", "wer", "rouge1", "rouge2", "rougeL", "bleu")


def measure_quality(harness: Harness, *, steps: int, batch_size: int) -> Result:
    """Validate, fine-tune on the configuration's own data, and validate again.

    Args:
        harness: whose module is loaded and was not trained yet.
        steps: of fine-tuning.
        batch_size: of fine-tuning.

    Returns:
        ``cer_before``, ``cer_after`` and the same for ``loss``, ``wer``, ``rouge1``, ``rouge2``, ``rougeL`` and
        ``bleu``; ``quality_steps``, ``samples`` seen and ``fit_s``.

    Raises:
        NotMeasured: for random weights, or without validation documents to generate.
    """
    if harness.module.weights == "random":
        raise NotMeasured("model.weights is random: such a model predicts nothing; use published weights")
    if not harness.data.holds_out_validation:
        raise NotMeasured("there is no validation set: set data.val_fraction or data.val_source")
    if not harness.module.generation.samples:
        raise NotMeasured("model.generation.samples is 0: no text is generated for the validation set")
    harness.load()
    harness.data.batch_size = batch_size
    before = _validate(harness)
    start = time.perf_counter()
    harness.trainer(max_steps=steps, limit_val_batches=0).fit(harness.module, datamodule=harness.data)
    harness.synchronize()
    seconds = time.perf_counter() - start
    after = _validate(harness)
    harness.release()
    if "cer" not in before or "cer" not in after:
        raise NotMeasured("the validation documents have no known text")
    result: Result = {"quality_steps": steps, "samples": steps * batch_size, "fit_s": seconds}
    for name in METRICS:
        if name in before and name in after:
            result |= {f"{name}_before": before[name], f"{name}_after": after[name]}
    return result


def _validate(harness: Harness) -> dict[str, float]:
    logged = harness.trainer().validate(harness.module, datamodule=harness.data, verbose=False)
    return {name.removeprefix("val/"): float(value) for part in logged for name, value in part.items()}
