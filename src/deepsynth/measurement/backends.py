"""Which backends the benchmarks measure: those of configuration files, or ours beside what others give."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from deepsynth.measurement.process import Backend

#: Without files: what transformers and peft do by themselves, with experts in a loop and as grouped products; ours; and
#: Unsloth's. Options of ``deepsynth fit``.
TRAINING = {
    "transformers-eager": (
        *("--model=PeftModule", "--model.kernels=plain", "--model.loss=plain", "--model.activation_memory=full"),
        "--model.experts_implementation=eager",
    ),
    "transformers": (
        *("--model=PeftModule", "--model.kernels=plain", "--model.loss=plain", "--model.activation_memory=full"),
        "--model.experts_implementation=grouped_mm",
    ),
    "deepsynth": ("--model=PeftModule",),
    "unsloth": ("--model=UnslothModule",),
}

#: The same for reading.
GENERATION = {
    "transformers": ("--model=PeftModule", "--model.generation=transformers"),
    "deepsynth": ("--model=PeftModule",),
    "unsloth": ("--model=UnslothModule",),
}


def list_backends(
    built_in: dict[str, tuple[str, ...]],
    config: Path | None,
    files: Sequence[Path],
    model_name: str,
    weights: str,
) -> list[Backend]:
    """Return the backends to measure.

    Args:
        built_in: options of a fit by name, which stand when there are no ``files``; Unsloth's only where it is
            installed.
        config: a fit configuration that all share; without it ``model_name`` on pages of Python's documentation.
        files: fit configurations of one backend each; their file names are their names.
        model_name: what to measure, when there is no ``config``.
        weights: ``random`` or ``pretrained``, when there is no ``config``.

    Raises:
        ValueError: for two files of the same name.
    """
    if config is not None:
        shared: tuple[str, ...] = ("--config", str(config))
        chosen: tuple[str, ...] = ()
    else:
        shared = ("--data=TextImageDataModule", "--data.source=PythonDocsSource", "--data.source.task=transcribe")
        chosen = (f"--model.model_name={model_name}", f"--model.weights={weights}")
    if not files:
        # The model's class comes before its options, and a class that is chosen again keeps those that it has.
        return [
            Backend(name, (*shared, options[0], *chosen, *options[1:]))
            for name, options in built_in.items()
            if name != "unsloth" or find_spec("unsloth") is not None
        ]
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        raise ValueError(f"backends are named {', '.join(names)}; each file needs a name of its own")
    return [Backend(name, (*shared, "--config", str(file), *chosen)) for name, file in zip(names, files, strict=True)]
