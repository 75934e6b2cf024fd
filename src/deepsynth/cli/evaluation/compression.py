"""``deepsynth evaluate compression``: predict pages of growing texts at several resolutions, and draw the curve."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.cli import LightningArgumentParser

from deepsynth.callbacks.prediction_rows import rows_of
from deepsynth.callbacks.prediction_writer import NAME
from deepsynth.cli.predict import PredictCLI
from deepsynth.cli.trainer import DeepSynthCLI
from deepsynth.data import OcrProcessor, TextRenderer
from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, explain_write_errors
from deepsynth.measurement.evaluation.compression import (
    Condition,
    curves,
    page_results,
    passages,
    plot,
    record,
    shuffled,
    table,
)
from deepsynth.models.tokens import ImageLayout
from deepsynth.types import Document

_OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "modes": (list[str], [], "Resolutions by name, such as tiny and small; by default the model's own."),
    "font_sizes": (list[float], [14.0], "Sizes of the type of drawn pages, pixels."),
    "text_tokens": (list[int], [600, 1300], "Fewest and most text tokens of a page."),
    "bucket": (int, 100, "Text tokens that a point of the curve spans."),
    "num": (int, 100, "Pages of each condition."),
    "control": (bool, True, "Also predict the pages with the letters of every word shuffled."),
}


class CompressionCLI(PredictCLI):
    """The options of ``deepsynth predict``, and those of the curve."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the conditions."""
        super().add_arguments_to_parser(parser)
        for name, (kind, default, words) in _OPTIONS.items():
            parser.add_argument(f"--{name}", type=kind, default=default, help=words)


class PlanCLI(CompressionCLI):
    """Data and options alone: nothing is predicted."""

    def __init__(self, args: Sequence[str]) -> None:
        parser = {"prog": "deepsynth evaluate compression", "description": "Measure precision against compression."}
        DeepSynthCLI.__init__(self, args, run=False, parser_kwargs=parser)


def evaluate_compression(args: Sequence[str], print_line: Callable[[str], None]) -> None:
    """Run ``deepsynth evaluate compression --config … --modes '[tiny, small]' --output DIR``.

    Texts of the source are set as pages of each size of type; pages of scans are taken as they are, without a control.
    With ``--ckpt_path`` the pages are predicted without it too.

    Raises:
        UserError: for conditions that cannot be, a mode with tiles, or a source without text.
    """
    plan = PlanCLI(_without_checkpoint(args))
    options = {name: plan.config[name] for name in _OPTIONS}
    output = plan.config["output"]
    _check(options, output)
    processor = plan.datamodule.processor
    tokenizer = processor.hf_processor.tokenizer
    layouts = {mode: _layout(processor, mode) for mode in options["modes"] or [None]}
    vision_tokens = {mode: layout.features(layout.base_size) ** 2 for mode, layout in layouts.items()}

    def count_tokens(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    documents = list(itertools.islice(plan.datamodule.source, options["num"]))
    scans = any(document.image is not None for document in documents)
    if scans:
        print_line("the source has scans: they are taken as they are; not used: font_sizes, text_tokens, control")
    else:
        _write_texts(plan, options, count_tokens, Path(output))
    sizes = [None] if scans else options["font_sizes"]
    controls = [False, True] if options["control"] and not scans else [False]
    tuned = [False, True] if any(arg.split("=")[0] == "--ckpt_path" for arg in args) else [False]
    results = []
    for mode, size, control, after in itertools.product(layouts, sizes, controls, tuned):
        condition = Condition(mode, size, control, after)
        folder = Path(output) / condition.name
        own = _run_options(plan, condition, layouts, scans=scans, output=Path(output))
        CompressionCLI(["predict", *(args if after else _without_checkpoint(args)), *own, f"--output={folder}"])
        rows = itertools.islice(rows_of(folder / NAME), options["num"])
        results += page_results(condition, rows, count_tokens, vision_tokens[mode])
    if not results:
        raise UserError("the source has no page whose text is known, so there is no precision")
    found = curves(results, options["bucket"])
    lines = table(found, vision_tokens)
    for line in lines:
        print_line(line)
    with explain_write_errors(Path(output), "the curve"):
        plot(found, Path(output) / "compression.png")
        with atomic_file(Path(output) / "compression.json") as file:
            options["vision_tokens"] = {mode or "own": tokens for mode, tokens in vision_tokens.items()}
            file.write_text(json.dumps({**options, "curves": record(found)}, indent=2) + "\n", encoding="utf-8")
        (Path(output) / "compression.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print_line(f"compression.png, .md and .json in {output}")


def _check(options: dict[str, Any], output: Path | None) -> None:
    if output is None:
        raise UserError("--output is not given; name a folder for the predictions and the curve")
    lengths = options["text_tokens"]
    if len(lengths) != 2 or not 0 < lengths[0] <= lengths[1]:
        raise UserError(f"--text_tokens is {lengths}; it must be the fewest and the most text tokens of a page")
    for name in ("bucket", "num"):
        if options[name] < 1:
            raise UserError(f"--{name} is {options[name]}; it must be at least 1")
    if not options["font_sizes"] or min(options["font_sizes"]) <= 0:
        raise UserError(f"--font_sizes is {options['font_sizes']}; it must be sizes above 0, in pixels")


def _layout(processor: Any, mode: str | None) -> ImageLayout:
    if not isinstance(processor, OcrProcessor):
        raise UserError(f"data.processor is {type(processor).__name__}; the curve needs an OcrProcessor")
    layout = processor.family.layout(processor.hf_processor, mode or processor.mode)
    if not isinstance(layout, ImageLayout):
        raise UserError(f"{processor.model_name} has no square views, which the curve needs; give a DeepSeek-OCR model")
    if layout.tile_size is not None:
        raise UserError(f"the mode {mode or processor.mode!r} has tiles; give --modes without, such as tiny and small")
    return layout


def _write_texts(plan: PlanCLI, options: dict[str, Any], count_tokens: Any, output: Path) -> None:
    """Write the passages and their controls as JSON lines."""
    low, high = options["text_tokens"]
    lengths = np.random.default_rng(plan.datamodule.seed).integers(low, high + 1, options["num"]).tolist()
    texts = passages(plan.datamodule.source, lengths, count_tokens)
    with explain_write_errors(output, "the texts"):
        output.mkdir(parents=True, exist_ok=True)
        _write_rows(output / "texts.jsonl", texts)
        mixed = [Document(text.id, shuffled(text.text, number)) for number, text in enumerate(texts)]
        _write_rows(output / "shuffled.jsonl", mixed)


def _write_rows(file: Path, documents: Sequence[Document]) -> None:
    rows = [json.dumps({"id": document.id, "text": document.text}, ensure_ascii=False) for document in documents]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _run_options(
    plan: PlanCLI, condition: Condition, layouts: dict[str | None, ImageLayout], *, scans: bool, output: Path
) -> list[str]:
    """Return the options of ``deepsynth predict`` that make a condition."""
    found = [f"--trainer.default_root_dir={output / 'runs'}", f"--run_name={condition.name}"]
    if condition.mode is not None:
        found.append(f"--data.mode={condition.mode}")
    if scans:
        return found
    found += ["--data.source=JsonlSource", f"--data.source.path={output / _texts(condition)}"]
    renderer = plan.datamodule.renderer
    if renderer is None:
        side = max(layout.base_size for layout in layouts.values())
        found += ["--data.renderer=TextRenderer", *(f"--data.renderer.page_{d}_px={side}" for d in ("width", "height"))]
    elif not isinstance(renderer, TextRenderer):
        raise UserError(f"data.renderer is {type(renderer).__name__}; the curve sets the type of a TextRenderer")
    found += [f"--data.renderer.font_size_px={condition.font_size_px:g}", "--data.renderer.on_overflow=truncate"]
    return [*found, "--data.text.line_breaks=source"]


def _texts(condition: Condition) -> str:
    return "shuffled.jsonl" if condition.shuffled else "texts.jsonl"


def _without_checkpoint(args: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for arg in args:
        if not skip and arg.split("=")[0] != "--ckpt_path":
            kept.append(arg)
        skip = arg == "--ckpt_path"
    return kept
