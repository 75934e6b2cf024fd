"""What the decoder does with one model: are its texts transformers', what does each part of it cost, and where to.

    python scripts/measure_decoding.py OUT.jsonl [--model deepsynth/full-size-ocr] [--parts parity speed …]

Weights are random for a model of full size, pages are drawn. Each finding is a line of the file, written at once; a
finding that is there is not measured again, and one that fails says why and lets the others go on. ``gpu_generate.sh``
calls it.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from deepsynth.generation import Decoder
from deepsynth.generation import decoder as decoder_module
from deepsynth.generation import model_runner as reader_module
from tests.helpers.generation import batch_of, load, samples, tokenizer_of

PARTS = ("parity", "speed", "vision", "compiled", "profile")


class Ids:
    """A tokenizer that writes ids, and knows no end when it is told so: random weights may end a text early."""

    def __init__(self, tokenizer: Any, end: bool) -> None:
        self.eos_token_id = tokenizer.eos_token_id if end else -1

    def decode(self, ids: Any, **kwargs: Any) -> str:
        """Return ids with spaces between."""
        return " ".join(map(str, ids))


class Study:
    """One model on one device, and the file that takes what is found."""

    def __init__(self, file: Path, name: str, device: str, dtype: torch.dtype, tokens: int) -> None:
        self.file, self.name, self.device, self.dtype, self.tokens = file, name, device, dtype, tokens
        lines = file.read_text().splitlines() if file.exists() else []
        self.known = {json.loads(line)["cell"] for line in lines if "error" not in json.loads(line)}
        self.model = self._load()
        self.exact: Any = None  # the same weights in float32, where texts part
        self.tokenizer = tokenizer_of(name)
        self.of = samples(name, 4, max_tokens=8192)

    def _load(self) -> Any:
        if "full-size" not in self.name:
            return load(self.name, self.dtype, self.device)
        from transformers import AutoConfig, AutoModelForImageTextToText

        from deepsynth.models.random_weights import fill_with_random_weights
        from deepsynth.models.registry import load_pretrained

        torch.manual_seed(0)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(load_pretrained(AutoConfig, self.name), dtype=self.dtype)
        fill_with_random_weights(model, torch.device(self.device))
        return model.eval()

    def cell(self, cell: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure a cell that is not known yet, and write down what came of it."""
        cell = f"{self.name.rsplit('/', 1)[-1]}/{cell}" + ("/float32" if self.dtype == torch.float32 else "")
        if cell in self.known:
            return
        begun = time.perf_counter()
        try:
            found = measure()
        except Exception as error:  # noqa: BLE001  the other cells go on
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        if self.device == "cuda":
            torch.cuda.empty_cache()
        line = json.dumps({"cell": cell, **found, "cell_s": round(time.perf_counter() - begun, 1)})
        with self.file.open("a") as file:
            file.write(line + "\n")
        print(f"RESULT {line[:1000]}", flush=True)

    def batch(self, size: int) -> Any:
        """Return so many pages, the same few again and again."""
        pages = (self.of * -(-size // len(self.of)))[:size]
        return batch_of(self.name, pages, self.device, self.dtype)

    def timed(self, call: Callable[[], Any]) -> float:
        """Return milliseconds."""
        self.wait()
        begun = time.perf_counter()
        call()
        self.wait()
        return 1000 * (time.perf_counter() - begun)

    def wait(self) -> None:
        """Let the device finish."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def decoder(self, slots: int, *, end: bool = False, compile: Any = "none") -> Decoder:
        """Return a decoder whose texts are ids."""
        return Decoder(self.model, Ids(self.tokenizer, end), slots=slots, compile=compile)

    def peak(self) -> dict[str, float]:
        """Return the peak of memory since it was last reset."""
        return {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3)} if self.device == "cuda" else {}

    # ------------------------------------------------------------------ parts

    def parity(self, kind: str, pages: int, size: int, tokens: int) -> None:
        """Compare greedy ids with transformers' in batches; where they part, give the margin of the two candidates.

        Ours are written in batches and one by one. Beside them, transformers without a cache: one forward pass over
        prompt and text tells which token follows each. A batch is a cell.
        """
        of = samples(self.name, pages, max_tokens=8192)
        for first in range(0, pages, size):
            rows = of[first : first + size]
            self.cell(f"parity/{kind}/{first}", lambda rows=rows: self.compare(rows, tokens))  # type: ignore[misc]

    def compare(self, rows: list[Any], tokens: int) -> dict[str, Any]:
        """Compare one batch of :meth:`parity`."""
        batch = batch_of(self.name, rows, self.device, self.dtype)
        theirs = self.theirs(batch, tokens)
        alone = [self.ours(batch_of(self.name, [row], self.device, self.dtype), 1, tokens)[0] for row in rows]
        uncached = [self.uncached(row, written) for row, written in zip(rows, theirs, strict=True)]
        ways = {"batched": self.ours(batch, len(rows), tokens), "one by one": alone, "no cache": uncached}
        same = {way: sum(map(list.__eq__, texts, theirs)) for way, texts in ways.items()}
        ties = [
            {"way": way, "row": number, **self.margin(rows[number], one, other)}
            for way, texts in ways.items()
            for number, (one, other) in enumerate(zip(texts, theirs, strict=True))
            if one != other
        ]
        return {"pages": len(rows), "tokens": tokens, "same": same, "parted": ties}

    def ours(self, batch: Any, size: int, tokens: int) -> list[list[int]]:
        """Return the ids that the decoder writes."""
        decoder = self.decoder(size, end=True)
        decoder.submit(batch, tokens)
        return [list(map(int, g.text.split())) for g in decoder.advance(drain=True) or []]

    @torch.inference_mode()
    def uncached(self, sample: Any, text: list[int]) -> list[int]:
        """Return the most likely token at each place of a text, by one forward pass without a cache."""
        prompts = batch_of(self.name, [sample], self.device, self.dtype).prompts
        ids = torch.cat([prompts["input_ids"], torch.tensor([text], device=self.device).long()], dim=1)
        inputs = {**prompts, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        logits = self.model(**inputs, use_cache=False).logits[0, -len(text) - 1 : -1]
        return logits.argmax(dim=-1).tolist()

    def adapt(self) -> None:
        """Merge an adapter of the attention, which changes what is written, into the weights."""
        from peft import LoraConfig, get_peft_model

        targets = r".*language_model.*\.(q|k|v|o)_proj"
        adapted = get_peft_model(self.model, LoraConfig(r=16, lora_alpha=32, target_modules=targets))
        generator = torch.Generator(self.device).manual_seed(0)
        for name, factor in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(factor, std=0.02, generator=generator)
        self.model, self.exact = adapted.eval().merge_and_unload(), None

    def theirs(self, batch: Any, tokens: int) -> list[list[int]]:
        """Return the ids that transformers writes, up to the end."""
        written = self.model.generate(
            **batch.prompts,
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )[:, batch.prompts["input_ids"].shape[1] :].tolist()
        end = self.tokenizer.eos_token_id
        return [row[: row.index(end) + 1] if end in row else row for row in written]

    @torch.inference_mode()
    def margin(self, sample: Any, ours: list[int], theirs: list[int]) -> dict[str, Any]:
        """Say how far apart the two tokens are where texts part, by the model's own forward pass without a cache.

        In 16 bits also by the same weights in float32: ``gap`` is the distance of the two there, ``noise`` the standard
        deviation of what rounding does to the distance of two logits, taken over the vocabulary at that place. It is a
        ``tie`` where the gap is no more than three times the noise.
        """
        place = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
        if place is None:
            return {"place": min(len(ours), len(theirs)), "lengths": [len(ours), len(theirs)]}
        pair = [ours[place], theirs[place]]
        logits = self.next_logits(self.model, sample, ours[:place])
        found = {"place": place, "tokens": pair, "logits": logits[pair].tolist(), "best": float(logits.max())}
        if self.dtype != torch.float32:
            if self.exact is None:
                self.exact = copy.deepcopy(self.model).float()
            exact = self.next_logits(self.exact, sample, ours[:place])
            gap, noise = float(exact[pair[0]] - exact[pair[1]]), 2**0.5 * float((logits - exact).std())
            found |= {"exact": exact[pair].tolist(), "gap": gap, "noise": noise, "tie": abs(gap) <= 3 * noise}
        return found

    def next_logits(self, model: Any, sample: Any, text: list[int]) -> torch.Tensor:
        """Return the logits (V) of what follows a prompt and the beginning of its text, without a cache."""
        prompts = batch_of(self.name, [sample], self.device, model.dtype).prompts
        ids = torch.cat([prompts["input_ids"], torch.tensor([text], device=self.device).long()], dim=1)
        inputs = {**prompts, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        logits: torch.Tensor = model(**inputs, use_cache=False).logits[0, -1].float()
        return logits

    def speed(self, size: int, compile: Any) -> dict[str, Any]:
        """Measure the first token, each one after it, all together, and the peak; after two runs that do not count."""
        batch, decoder = self.batch(size), self.decoder(size, compile=compile)

        def read(most: int) -> None:
            decoder.submit(batch, most)
            decoder.advance(drain=True)

        start = self.timed(lambda: (read(1), read(self.tokens)))
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        first = statistics.median(self.timed(lambda: read(1)) for _ in range(3))
        whole = statistics.median(self.timed(lambda: read(self.tokens)) for _ in range(3))
        graphs = getattr(decoder._steps, "graphs", None)
        return {**self.rates(size, first, whole), "start_s": round(start / 1000, 1), "graphs": len(graphs or ())}

    def speed_of_transformers(self, size: int) -> dict[str, Any]:
        """Measure the same, once, of transformers."""
        batch = self.batch(size)

        def read(most: int) -> None:
            self.model.generate(
                **batch.prompts, max_new_tokens=most, min_new_tokens=most, do_sample=False, pad_token_id=0
            )

        read(2)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        return self.rates(size, self.timed(lambda: read(1)), self.timed(lambda: read(self.tokens)))

    def rates(self, size: int, first: float, whole: float) -> dict[str, Any]:
        """Return figures of a first token and a whole text that took so many milliseconds."""
        return {
            "prefill_ms": round(first, 2),
            "ms_per_token": round((whole - first) / (self.tokens - 1), 3),
            "tokens_per_s": round(1000 * size * self.tokens / whole, 1),
            **self.peak(),
        }

    def prefill_parts(self, size: int, images: int, compile: Any) -> dict[str, Any]:
        """Measure vision, ``images`` at a time, and the decoder's share of the prefill."""
        batch, decoder = self.batch(size), self.decoder(size, compile=compile)
        reader = decoder._reader
        patches = batch.prompts["pixel_values"].shape[-1] ** 2 // reader._patch**2
        before = dict(reader_module.VISION_PATCHES)
        reader_module.VISION_PATCHES[self.device] = images * patches
        try:
            with torch.inference_mode(), reader.at_work():
                prompts = reader.prompts(batch.prompts)
                slots = list(range(size))
                decoder._steps.prefill(prompts, slots)
                if self.device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                vision = statistics.median(self.timed(lambda: reader.prompts(batch.prompts)) for _ in range(5))
                text = statistics.median(self.timed(lambda: decoder._steps.prefill(prompts, slots)) for _ in range(5))
        finally:
            reader_module.VISION_PATCHES.update(before)
        compiled = reader._compiled_vision is not None
        return {"vision_ms": round(vision, 2), "text_ms": round(text, 2), "compiled": compiled, **self.peak()}

    def profile(self, size: int) -> dict[str, Any]:
        """Write down the kernels of captured steps, by the time that they take."""
        from torch.profiler import ProfilerActivity, profile

        batch, decoder = self.batch(size), self.decoder(size)
        for _ in range(2):
            decoder.submit(batch, 33)
            decoder.advance(drain=True)
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self.device == "cuda" else [])
        decoder.submit(batch, 33)
        with profile(activities=activities) as found:
            decoder.advance(drain=True)
            self.wait()
        by = "self_device_time_total" if self.device == "cuda" else "self_cpu_time_total"
        averages = found.key_averages()
        print(averages.table(sort_by=by, row_limit=40, max_name_column_width=90))
        top = sorted(averages, key=lambda event: -getattr(event, by))[:25]
        return {"events": [[event.key[:90], event.count, round(getattr(event, by) / 1000, 3)] for event in top]}


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="deepsynth/full-size-ocr")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[1, 16, 4, 64])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], help="by default bfloat16 on a GPU")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, args.dtype or ("bfloat16" if device == "cuda" else "float32"))
    study = Study(args.out, args.model, device, dtype, args.tokens)
    print(f"{args.model} on {device}, {decoder_module.PREFILL_TOKENS[device]} tokens at once", flush=True)
    for part in args.parts:
        if part == "parity":
            tokens = min(args.tokens, 48)
            study.parity("plain", args.pages, 25, tokens)
            study.adapt()
            study.parity("merged", args.pages, 25, tokens)
            study.model = study.exact = None
            study.model = study._load()
        elif part in ("speed", "compiled"):
            for size in args.sizes:
                compile = "vision" if part == "speed" else "all"
                study.cell(f"{part}/batch={size}", lambda s=size, c=compile: study.speed(s, c))  # type: ignore[misc]
                if part == "speed" and size in (1, 16):
                    study.cell(f"transformers/batch={size}", lambda s=size: study.speed_of_transformers(s))  # type: ignore[misc]
        elif part == "vision":
            for compile in ("none", "vision"):
                for size, images in ((1, 1), (16, 1), (16, 2), (16, 4), (16, 8)):
                    if size <= max(args.sizes):
                        cell = f"vision/batch={size}/images={images}/{compile}"
                        study.cell(cell, lambda s=size, i=images, c=compile: study.prefill_parts(s, i, c))  # type: ignore[misc]
        else:
            for size in (1, 16):
                if size <= max(args.sizes):
                    study.cell(f"profile/batch={size}", lambda s=size: study.profile(s))  # type: ignore[misc]


if __name__ == "__main__":
    main()
