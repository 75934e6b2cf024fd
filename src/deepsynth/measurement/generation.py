"""What reading costs: the first token, each token after it, many pages at once, and how right the text is."""

from __future__ import annotations

import statistics
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from deepsynth.generation import Generation
from deepsynth.measurement.cells import Result
from deepsynth.measurement.harness import Bench, NotMeasured, spread
from deepsynth.measurement.synthetic import SyntheticBatches
from deepsynth.types import Batch


def measure_generation(bench: Bench, *, batch_size: int, text_tokens: int, new_tokens: int, repeats: int) -> Result:
    """Read synthetic pages, and return latencies, rate and peak memory.

    Each repeat reads new pages twice: for one token, which is the prefill, and for ``new_tokens``.

    Args:
        bench: whose module reads.
        batch_size: pages at once.
        text_tokens: of the synthetic batches; generation sees their prompts alone.
        new_tokens: that are written for a page, at least 2; the end of a text is not obeyed.
        repeats: the medians are over them, after one that is not counted.

    Returns:
        ``prefill_ms`` (to the first token of all pages), ``ms_per_token`` (of the tokens after it, one for every page
        at once), ``tokens_per_s`` (all pages, prefill included) with ``_low`` and ``_high``; ``tokens``, really
        written for a page on average; the peak of memory.

    Raises:
        NotMeasured: when every page ends after its first token, or when a first token took longer than a whole text.
    """
    bench.load()
    work = bench.batches(batch_size, text_tokens)
    module, hparams = bench.module, bench.module.hparams
    module.eval()
    module.forget_decoders()
    before = hparams["max_new_tokens"], hparams["stop_loops"]
    # Every page shall take all its tokens: random weights repeat themselves, and a trained model ends an empty page at
    # once. So loops may run, and what ends a text is a token that no model writes.
    hparams["stop_loops"] = False
    tokenizer = module.processor.tokenizer
    end = tokenizer.eos_token_id
    tokenizer.eos_token_id = module.processor.image_token_id
    prefills, waits, rates, written = [], [], [], []
    try:
        bench.restart_peak()
        for repeat in range(-1, repeats):
            first_s, _ = _read(bench, work, 2 * repeat + 2, 1)
            whole_s, generations = _read(bench, work, 2 * repeat + 3, new_tokens)
            longest = max(generation.tokens for generation in generations)
            if longest < 2:
                raise NotMeasured(f"every page ended after its first token (new_tokens={new_tokens})")
            if repeat >= 0:
                prefills.append(1000 * first_s)
                waits.append(1000 * (whole_s - first_s) / (longest - 1))
                rates.append(sum(generation.tokens for generation in generations) / whole_s)
                written.append(statistics.mean(generation.tokens for generation in generations))
    finally:
        hparams["max_new_tokens"], hparams["stop_loops"] = before
        tokenizer.eos_token_id = end
        module.forget_decoders()
        module.train()
    if statistics.median(waits) <= 0:
        raise NotMeasured(
            f"noise: the first token took as long as all {new_tokens}; measure more repeats or new_tokens, alone"
        )
    result = {
        **spread("prefill_ms", prefills),
        **spread("ms_per_token", waits),
        **spread("tokens_per_s", rates),
        "tokens": statistics.median(written),
        **bench.peak(),
    }
    bench.release()
    return result


def _read(bench: Bench, work: SyntheticBatches, index: int, new_tokens: int) -> tuple[float, list[Generation]]:
    bench.module.hparams["max_new_tokens"] = new_tokens
    batch: Batch = work[index]
    bench.synchronize()
    start = time.perf_counter()
    generations = bench.module.generate(batch)
    bench.synchronize()
    seconds = time.perf_counter() - start
    bench.look_at_memory()
    assert generations is not None, "without a deadline generation is never cut"
    return seconds, generations


def measure_source(bench: Bench, *, batch_size: int, num_pages: int, new_tokens: int) -> Result:
    """Read pages of the configuration's own source as ``deepsynth predict`` does, rendering included.

    The rate is that of a long source, from the end of the first batch to the end of the last but one: the first waits
    for workers to start and for kernels to be compiled, and pages that are read across batches are finished with the
    last. Pages that the workers draw before the rate begins are ready when they are asked for, so take many more than
    ``num_workers * prefetch_factor`` batches.

    Args:
        bench: whose module reads its own data.
        batch_size: pages at once.
        num_pages: to read, in whole batches, between the first and the last.
        new_tokens: most that are written for a page.

    Returns:
        ``pages_per_s`` and ``tokens_per_s``, ``pages``, so many; ``start_s``, to the end of the first batch; the peak
        of memory.

    Raises:
        NotMeasured: when the source has no third batch.
    """
    bench.load()
    data, hparams, clock = bench.data, bench.module.hparams, _Clock()
    before = data.eval_batch_size, hparams["max_new_tokens"], hparams["stop_loops"]
    data.eval_batch_size, hparams["max_new_tokens"], hparams["stop_loops"] = batch_size, new_tokens, False
    batches = 2 + -(-num_pages // batch_size)
    try:
        bench.restart_peak()
        trainer = bench.trainer(clock, limit_predict_batches=batches)
        trainer.predict(bench.module, datamodule=data, return_predictions=False)
    finally:
        data.eval_batch_size, hparams["max_new_tokens"], hparams["stop_loops"] = before
    if not clock.pages:
        raise NotMeasured(f"the source has less than three batches of {batch_size} pages")
    seconds = clock.last - clock.first
    result = {
        "pages_per_s": clock.pages / seconds,
        "tokens_per_s": clock.tokens / seconds,
        "pages": clock.pages,
        "start_s": clock.first - clock.begun,
        **bench.peak(),
    }
    bench.release()
    return result


class _Clock(Callback):
    """What predict has read when, between its first and its last batch."""

    begun = first = last = 0.0
    pages = tokens = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin before the workers do."""
        self.begun = time.perf_counter()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Count the texts that came with a batch."""
        if trainer.predict_loop.batch_progress.is_last_batch:  # type: ignore[attr-defined]
            return
        self.last = time.perf_counter()
        if not batch_idx:
            self.first = self.last
            return
        self.pages += len(outputs)
        self.tokens += sum(row["tokens"] for row in outputs)


#: The metrics of the validation set that are compared before and after.
METRICS = ("loss", "cer", "wer", "rouge1", "rouge2", "rougeL", "bleu")


def measure_quality(bench: Bench, *, steps: int, batch_size: int) -> Result:
    """Validate, fine-tune on the configuration's own data, and validate again.

    Args:
        bench: whose module is loaded and was not trained yet.
        steps: of fine-tuning.
        batch_size: of fine-tuning.

    Returns:
        ``cer_before``, ``cer_after`` and the same for ``loss``, ``wer``, ``rouge1``, ``rouge2``, ``rougeL`` and
        ``bleu``; ``quality_steps``, ``samples`` seen and ``fit_s``.

    Raises:
        NotMeasured: for random weights, or without validation documents that are read.
    """
    hparams = bench.module.hparams
    if hparams["weights"] == "random":
        raise NotMeasured("model.weights is random: such a model reads nothing; use published weights")
    if not bench.data.holds_out_validation:
        raise NotMeasured("there is no validation set: set data.val_fraction or data.val_source")
    if not hparams["generate_samples"]:
        raise NotMeasured("model.generate_samples is 0: no validation sample is read")
    bench.load()
    bench.data.batch_size = batch_size
    before = _validate(bench)
    start = time.perf_counter()
    bench.trainer(max_steps=steps, limit_val_batches=0).fit(bench.module, datamodule=bench.data)
    bench.synchronize()
    seconds = time.perf_counter() - start
    after = _validate(bench)
    bench.release()
    if "cer" not in before or "cer" not in after:
        raise NotMeasured("the validation documents have no known text")
    result: Result = {"quality_steps": steps, "samples": steps * batch_size, "fit_s": seconds}
    for name in METRICS:
        if name in before and name in after:
            result |= {f"{name}_before": before[name], f"{name}_after": after[name]}
    return result


def _validate(bench: Bench) -> dict[str, float]:
    logged = bench.trainer().validate(bench.module, datamodule=bench.data, verbose=False)
    return {name.removeprefix("val/"): float(value) for part in logged for name, value in part.items()}
