"""The commands with what they do and an example, which their help shows and the tests parse; imports no library."""

from __future__ import annotations

from collections.abc import Sequence

#: Every subcommand with what it does; a test compares it with what the parsers really have.
SUBCOMMANDS: dict[str, str] = {
    "quickstart": "teach the built-in model something new in minutes, and measure it before and after",
    "fit": "fine-tune a model",
    "validate": "loss and metrics on the validation documents",
    "test": "loss and metrics on the test documents",
    "predict": "generate a text for every document of the source and write predictions.jsonl",
    "render": "write the pages that training would see, to check them first",
    "data": "look at the data, or write it in other formats: data check, data convert",
    "export": "merge an adapter into its model and verify the result",
    "serve": "answer requests over HTTP with a model and its adapters",
    "benchmark": "measure speed: benchmark data, benchmark train, benchmark fit, benchmark generate",
    "compare": "measure backends side by side on the same work and write a report",
    "evaluate": "score a model, its predictions or two systems: evaluate olmocr, omnidocbench, compression",
    "hub": "Hugging Face Hub: hub resume, hub pull, hub push-data",
    "models": "list the models, their licenses, the tokens of a page, and what works for them",
    "configs": "list the configurations that come with DeepSynth, for --config NAME",
}
#: The commands that take the options of a run, by their words.
RUN_COMMANDS: dict[str, str] = {
    **{name: SUBCOMMANDS[name] for name in ("fit", "validate", "test", "predict", "render")},
    "data check": "look at all data before training: what cannot be used, lengths, scripts, empty and repeated pages",
    "data convert": "write the samples that training would see as images with their texts",
    "hub push-data": "render the pages that training would see and push them to the Hub as a dataset",
}
#: Examples by the words of the command.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "quickstart": ("deepsynth quickstart",),
    "fit": (
        "deepsynth fit --config finetune --data.source.path=scans",
        "deepsynth fit --config finetune --data.source.path=scans --model.optimizer.lr=1e-4 --trainer.max_epochs=5",
        "deepsynth fit --config finetune --data.source.path=scans --ckpt_path last",
    ),
    "validate": ("deepsynth validate --config runs/finetune/config.yaml --ckpt_path runs/finetune/adapter",),
    "test": ("deepsynth test --config runs/finetune/config.yaml --ckpt_path runs/finetune/adapter",),
    "predict": (
        "deepsynth predict scans --ckpt_path runs/finetune/adapter --output results --format txt",
        "deepsynth predict page.png --ckpt_path hf://owner/adapter",
        "deepsynth predict page.png --model.model_name deepseek-ai/DeepSeek-OCR",
    ),
    "render": ("deepsynth render --config quickstart --num 4 --output pages",),
    "data": ("deepsynth data check --config quickstart --output check",),
    "data check": ("deepsynth data check --config quickstart --output check",),
    "data convert": (
        "deepsynth data convert --config quickstart --output dataset --format parquet",
        "deepsynth data convert --config quickstart --num 24 --output scans --format txt    scans to try things out",
    ),
    "export": ("deepsynth export runs/finetune/adapter --output merged --format published",),
    "serve": (
        "deepsynth serve --ckpt_path runs/finetune/adapter",
        "deepsynth serve --ckpt_path invoices=runs/a/adapter letters=runs/b/adapter --api_key_file key.txt",
        "deepsynth serve --model_name deepsynth/tiny",
    ),
    "benchmark": ("deepsynth benchmark train --model_name deepsynth/tiny --output runs/benchmark.json",),
    "benchmark data": ("deepsynth benchmark data --output runs/benchmark.json",),
    "benchmark train": ("deepsynth benchmark train --model_name deepsynth/tiny --output runs/benchmark.json",),
    "benchmark fit": ("deepsynth benchmark fit --model_name deepsynth/tiny --output runs/benchmark.json",),
    "benchmark generate": ("deepsynth benchmark generate --model_name deepsynth/tiny --output runs/benchmark.json",),
    "compare": (
        "deepsynth compare --config model/deepseek_ocr2_random --backends backend/transformers backend/peft "
        "--output runs/compare",
    ),
    "evaluate": (
        "deepsynth evaluate runs/tuned --against runs/base --output runs/report",
        "deepsynth evaluate --config my.yaml --ckpt_path runs/my/adapter    predicts first, with options of predict",
        "deepsynth evaluate compression --help    also olmocr and omnidocbench: published benchmarks",
    ),
    "evaluate olmocr": ("deepsynth evaluate olmocr olmOCR-bench runs/predict --output runs/olmocr",),
    "evaluate omnidocbench": ("deepsynth evaluate omnidocbench OmniDocBench.json runs/predict --output runs/scores",),
    "hub": ("deepsynth hub pull hf://owner/adapter --output adapter",),
    "hub resume": ("deepsynth hub resume runs/finetune",),
    "hub pull": ("deepsynth hub pull hf://owner/adapter --output adapter",),
    "hub push-data": ("deepsynth hub push-data --config quickstart --repo_id owner/pages",),
    "models": ("deepsynth models", "deepsynth models deepsynth/tiny"),
    "configs": ("deepsynth configs",),
}


def command_of(args: Sequence[str]) -> str:
    """Return the words of the command that arguments begin with: one, or two such as ``data check``."""
    two = " ".join(args[:2])
    return two if two in EXAMPLES else args[0]


def examples(command: str) -> str:
    """Return the examples of a command as lines for its help, a heading above them."""
    found = EXAMPLES[command]
    return "\n".join([f"example{'s' if len(found) > 1 else ''}:", *(f"  {line}" for line in found)]) + "\n"
