"""Texts for validation, test and prediction, with the decoders that are kept from batch to batch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from deepsynth.generation import Decoder, Generation, RepetitionCriterion, decodes, generate
from deepsynth.generation.cache import bytes_per_position
from deepsynth.generation.texts import TextFrame
from deepsynth.models.markup import text_codec
from deepsynth.modules.adapter import recorded_longest_target
from deepsynth.modules.model_module import ModelModule
from deepsynth.profiling.memory import Usage, memory_of
from deepsynth.types import Batch

#: What is known of a sample and of its generated text; see :meth:`DeepSynthModule.predict_step`.
Row = dict[str, Any]

#: Most tokens of a text where no target is known.
LIMIT_WITHOUT_TARGETS = 2048
#: Derived limits are multiples of this, so that few sizes of caches and graphs occur.
_LIMIT_STEP = 64
#: Rows of a stream on a GPU where nothing else is said. A step of 32 rows takes little longer than one of a single row.
_ROWS_ON_A_GPU = 32
#: Share of the memory that training and a decoder that is kept may have together.
_FILLED = 0.9


def limit_for(longest_target: int) -> int:
    """Return the most tokens of a text: a quarter more than the longest target; 0 stands for one that is not known."""
    if not longest_target:
        return LIMIT_WITHOUT_TARGETS
    return -(-longest_target * 5 // (4 * _LIMIT_STEP)) * _LIMIT_STEP


class TextGenerator:
    """Generates the texts of batches as the settings ``generation`` of a module say.

    Args:
        module: whose model generates.
    """

    def __init__(self, module: ModelModule) -> None:
        self._module = module
        self._listeners: list[Callable[[str | None], None]] = []
        self._decoder: Decoder | None = None
        self._before: Usage | None = None  # memory when validation began
        self._stream: Decoder | None = None
        self._pending: deque[Row | None] = deque()
        self._to_skip = self._skipping = 0
        self._token_logprobs = False
        self._warned = False
        #: Tokens of the longest target that is known, from this run or that of the checkpoint; 0 if none is.
        self.longest_target = 0
        #: Ids that end a text; ``None`` for those of the model's family.
        self.stops: tuple[int, ...] | None = None

    def note_targets(self, batch: Batch) -> None:
        """Note the longest target of a batch with labels, by its shapes: nothing waits for a GPU."""
        if "position_ids" not in batch.tokens:  # a packed row has several
            longest = batch.tokens["labels"].shape[1] - batch.prompt_tokens["input_ids"].shape[1]
            self.longest_target = max(self.longest_target, longest)

    def limit(self, batch: Batch) -> int:
        """Return the most tokens of each text of a batch; warn once when that cuts known targets."""
        codec, given = text_codec(self._module.processor.tokenizer), self._module.generation.max_new_tokens
        own = max((len(codec.encode(target)) + 1 for target in batch.targets if target), default=0)  # and EOS
        if given is not None:
            if own > given and not self._warned:
                self._warned = True
                rank_zero_warn(
                    f"model.generation.max_new_tokens is {given}, but targets have up to {own} tokens: longer texts "
                    "are cut and count as errors; raise it, or leave it out to go by the longest target"
                )
            return given
        if not self.longest_target and self._module.adapter:
            self.longest_target = recorded_longest_target(Path(self._module.adapter))
        self.longest_target = max(self.longest_target, own)
        return limit_for(self.longest_target)

    def add_listener(self, listener: Callable[[str | None], None]) -> None:
        """Have a function called with "generation" when generation begins and with ``None`` when it is over."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    def remove_listener(self, listener: Callable[[str | None], None]) -> None:
        """No longer call a function."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def start_validation(self) -> None:
        """Note what memory is held, and what the allocator has reserved for training."""
        self._before = memory_of(self._module.device).usage()

    def end_validation(self, *, again: bool) -> None:
        """Keep the decoder for the next validation if there is room for it beside training; else release it.

        Its caches and captured graphs stay valid: the optimizer changes weights where they are, and whatever else is
        made of weights is made anew in every call; see :meth:`Decoder.submit`.

        Args:
            again: whether more validations are expected.
        """
        memory, before = memory_of(self._module.device), self._before
        if not again or before is None:
            self.release()
            return
        own = max(0, memory.usage().allocated - before.allocated)
        # What the allocator had reserved is what training steps need, or more.
        if before.reserved + own > _FILLED * memory.limit():
            self.release()

    def release(self) -> None:
        """Release the memory of caches and captured graphs."""
        self._decoder = self._stream = None
        self._pending.clear()

    @property
    def holds_memory(self) -> bool:
        """Whether there is a decoder, with its cache, or a text that is not handed out yet."""
        return not (self._decoder is self._stream is None) or bool(self._pending)

    @property
    def uses_decoder(self) -> bool:
        """Whether the decoder of this package generates, and not the model's own way."""
        chosen, module = self._module.generation.implementation, self._module
        return decodes(module.model, module.AUTO_GENERATION if chosen == "auto" else chosen)

    # ------------------------------------------------------------------ one batch

    def generate(self, batch: Batch, deadline: float | None = None) -> list[Generation] | None:
        """Generate the text of each sample of a batch.

        Args:
            batch: on the device of the model.
            deadline: :func:`time.monotonic` at which to give up.

        Returns:
            B generations; ``None`` when the deadline cut them short.
        """
        self._announce("generation")
        with self._module.generation_context():
            generations = self._generate(self._module.in_weights_dtype(batch), deadline)
        self._announce(None)  # not after an exception, which is the generation's own
        return generations

    def _generate(self, batch: Batch, deadline: float | None) -> list[Generation] | None:
        module, limit = self._module, self.limit(batch)
        if not self.uses_decoder:
            return generate(
                module.model,
                module.processor.tokenizer,
                batch,
                max_new_tokens=limit,
                deadline=deadline,
                implementation="transformers",
                repetition=self._repetition(),
                frame=self._frame(),
            )
        if self._decoder is None or self._decoder.slots < len(batch):
            self._decoder = self.make_decoder(len(batch))
        decoder, self._decoder = self._decoder, None  # one that fails in the middle is not used again
        decoder.submit(batch, limit)
        generations = decoder.advance(drain=True, deadline=deadline)
        self._decoder = decoder
        return generations

    def make_decoder(self, slots: int) -> Decoder:
        """Return a decoder of the module's model, as the settings say, for ``slots`` rows at a time."""
        module = self._module
        chosen = module.generation.compile
        if chosen == "auto":
            chosen = "vision" if module.device.type == "cuda" else "none"
        return Decoder(
            module.model,
            module.processor.tokenizer,
            slots=slots,
            frame=self._frame(),
            repetition=self._repetition(),
            compile=chosen,
        )

    def _rows(self, batch: Batch) -> int:
        """Return how many texts of a stream are generated at the same time, which needs no larger batches."""
        module = self._module
        if module.generation.rows is not None:
            return module.generation.rows
        if module.device.type != "cuda":
            return len(batch)
        positions = batch.prompt_tokens["input_ids"].shape[1] + self.limit(batch)
        row = positions * bytes_per_position(module.model.config.get_text_config(), module.resolved_dtype)
        memory = memory_of(module.device)
        free = memory.limit() - memory.usage().allocated
        return max(len(batch), min(_ROWS_ON_A_GPU, free // (2 * row)))

    def _repetition(self) -> RepetitionCriterion | None:
        if not self._module.generation.stop_on_repetition:
            return None
        return RepetitionCriterion.for_tokenizer(self._module.processor.tokenizer)

    def _frame(self) -> TextFrame:
        """Return what surrounds a text of the model."""
        family, processor = self._module.family, self._module.processor
        assert family is not None, "configure_model was called"
        stops = self.stops or family.stop_ids(processor, self._module.model)
        return TextFrame(stops, family.answer_prefix(processor))

    def _announce(self, phase: str | None) -> None:
        for listener in self._listeners:
            listener(phase)

    # ------------------------------------------------------------------ a stream of batches

    def prepare_predictions(self, *, skip: int, token_logprobs: bool) -> None:
        """Say how the next prediction goes; see :meth:`DeepSynthModule.prepare_predictions`."""
        self._to_skip, self._token_logprobs = skip, token_logprobs

    def start_prediction(self) -> None:
        """Begin a stream of batches, behind the samples that are to be skipped."""
        self.release()
        self._skipping, self._to_skip = self._to_skip, 0

    def predict(self, batch: Batch, *, last: bool) -> list[Row]:
        """Return the rows whose turn has come, in the order of the samples; with the ``last`` batch, all."""
        skipped = min(self._skipping, len(batch))
        self._skipping -= skipped
        if skipped < len(batch):
            blank: list[Row | None] = list(blank_rows(batch))
            self._pending.extend([None] * skipped + blank[skipped:])
        self._announce("generation")
        with self._module.generation_context():
            generations = self._advance(batch if skipped < len(batch) else None, last)
        self._announce(None)
        rows = [(self._pending.popleft(), generation) for generation in generations]
        return [self._predicted(row, generation) for row, generation in rows if row is not None]

    def _predicted(self, row: Row, generation: Generation) -> Row:
        row = with_prediction(row, generation)
        if self._token_logprobs:
            tokenizer = self._module.processor.tokenizer
            texts = [tokenizer.decode([token]) for token in generation.ids]
            row["token_logprobs"] = [list(pair) for pair in zip(texts, map(_rounded, generation.logprobs), strict=True)]
        return row

    def _advance(self, batch: Batch | None, last: bool) -> list[Generation]:
        """Begin with a batch, and return the texts whose turn has come; with the last batch, all."""
        batch = batch and self._module.in_weights_dtype(batch)
        if not self.uses_decoder:
            generations = self._generate(batch, None) if batch is not None else []
            assert generations is not None, "without a deadline generation is never cut"
            return generations
        if batch is not None:
            if self._stream is None:
                self._stream = self.make_decoder(self._rows(batch))
            self._stream.submit(batch, self.limit(batch))
        if self._stream is None:
            return []
        return self._stream.advance(drain=last) or []


def blank_rows(batch: Batch) -> list[Row]:
    """Return what is known of the samples of a batch before their texts are generated."""
    return [
        {
            "id": batch.ids[i],
            "document_id": batch.document_ids[i],
            "page": batch.pages[i],
            "prediction": "",
            "target": batch.targets[i],
            "language": batch.languages[i],
            "source": batch.sources[i],
            "prompt": batch.prompt_texts[i],
            "sizes": batch.sizes[i] if batch.sizes else (),
        }
        for i in range(len(batch))
    ]


def with_prediction(row: Row, generation: Generation) -> Row:
    """Return the row of a sample with its generated text; ``mean_logprob`` is that of its tokens and their end."""
    return {
        **row,
        "prediction": generation.text,
        "tokens": generation.tokens,
        "stop": generation.stop,
        "mean_logprob": _rounded(generation.mean_logprob),
    }


def _rounded(logprob: float) -> float | None:
    """Return a log-probability as JSON holds it: not with digits that a batch of another size changes, and no NaN."""
    return round(logprob, 4) if math.isfinite(logprob) else None
