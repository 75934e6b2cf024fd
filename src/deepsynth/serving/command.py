"""``deepsynth serve``: its options."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from deepsynth.errors import UserError
from deepsynth.io.run_config import mode_of, run_of
from deepsynth.lazy_imports import install_command
from deepsynth.models.quantization.quantize import Kind
from deepsynth.modules.settings import Dtype
from deepsynth.serving.address import Address, Host
from deepsynth.serving.jobs import Limits
from deepsynth.serving.models import ModelSettings, ServedModel, processor_of

#: Texts that are written at the same time, by type of device: a GPU's step takes hardly longer for more of them.
SLOTS = {"cuda": 64, "cpu": 8}


class Serve:
    """Answer requests over HTTP with a model and its adapters.

    ``POST /v1/chat/completions`` is OpenAI's, ``POST /v1/ocr`` takes an image or a PDF and returns the texts of its
    pages, ``/v1/models``, ``/health`` and ``/metrics`` say what there is. Example::

        deepsynth serve --ckpt_path runs/mine/adapter
        curl --data-binary @page.png http://127.0.0.1:8000/v1/ocr

    Args:
        ckpt_path: adapters of one base model, or one whole model: folders, or ``hf://owner/repo@revision``. Requests
            choose by name: ``NAME=FOLDER``, else the name of the run or folder. The first is the default.
        model_name: base model: in place of the one that the adapters name, or without any.
        mode: resolution by name; by default that of the adapter's run, else of the model.
        accelerator: ``cpu``, ``cuda``, or what there is.
        dtype: of the frozen weights; ``auto`` is bfloat16 on a GPU that has it, float32 on the CPU.
        quantization: of the frozen weights.
        compile: what the decoder compiles, as ``model.generation.compile``.
        weights: ``random`` makes the architecture with random weights, to measure speed: no token ends a text.
        stop_on_repetition: end a text whose last 30 tokens stand once more among the 90 before them.
        slots: texts that are written at the same time, for each adapter in use; by default 64 on a GPU and 8 on the
            CPU.
        host: 127.0.0.1 answers this machine alone; 0.0.0.0 and :: all that reach it.
        port: where to listen.
        api_key_file: file with the key that requests then need: ``Authorization: Bearer KEY``.
        max_bytes: of a request's body.
        max_pixels: of a page.
        max_pages: of a request.
        max_new_tokens: of a page's text; by default a quarter more than the longest text of the training.
        max_requests: that are worked on or wait; the next one gets status 429.
        timeout_s: seconds for a whole answer; then it is status 504.
        body_timeout_s: seconds for a body to arrive; then it is status 408.
    """

    def __init__(
        self,
        *,
        ckpt_path: Sequence[str] = (),
        model_name: str | None = None,
        mode: str | None = None,
        accelerator: Literal["auto", "cpu", "cuda"] = "auto",
        dtype: Dtype = "auto",
        quantization: Kind = "none",
        compile: Literal["auto", "none", "vision", "all"] = "auto",
        weights: Literal["pretrained", "random"] = "pretrained",
        stop_on_repetition: bool = True,
        slots: int | None = None,
        host: Host = "127.0.0.1",
        port: int = 8000,
        api_key_file: Path | None = None,
        max_bytes: int = Limits.max_bytes,
        max_pixels: int = Limits.max_pixels,
        max_pages: int = Limits.max_pages,
        max_new_tokens: int | None = None,
        max_requests: int = Limits.max_requests,
        timeout_s: float = Limits.timeout_s,
        body_timeout_s: float = Limits.body_timeout_s,
    ) -> None:
        self.limits = Limits(max_bytes, max_pixels, max_pages, max_new_tokens, max_requests, timeout_s, body_timeout_s)
        self.accelerator = _accelerator(accelerator)
        models, found_mode = served_models(ckpt_path, model_name, max_new_tokens)
        self.settings = ModelSettings(
            models,
            slots=SLOTS[self.accelerator] if slots is None else slots,
            dtype=dtype,
            quantization=quantization,
            compile=compile,
            mode=mode or found_mode,
            weights=weights,
            stop_on_repetition=stop_on_repetition,
        )
        self.address = Address(host, port, api_key_file)

    def run(self, print_line: Any, prepare: Callable[[], None]) -> None:
        """Serve until SIGTERM or Ctrl-C.

        Args:
            print_line: takes what is printed.
            prepare: sets up the log of the model's process, before it loads.

        Raises:
            UserError: when a package is missing, the model cannot be loaded, or its process has ended.
        """
        missing = [name for name in ("litserve", "prometheus_client") if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"deepsynth serve needs {' and '.join(missing)}: {install_command('serve')}")
        from deepsynth.serving.server import run_service

        processor_of(self.settings)  # the process of the model would answer a mistake with its traceback
        address = self.address
        key = "" if address.api_key_file is None else ", with the key of --api_key_file"
        names = ", ".join(model.name for model in self.settings.models)
        print_line(f"serving {names} on {self.accelerator} at http://{address.host}:{address.port}{key}")
        run_service(self.settings, self.limits, address, self.accelerator, prepare)


def _accelerator(chosen: str) -> str:
    import torch

    if chosen == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if chosen == "cuda" and not torch.cuda.is_available():
        raise UserError("--accelerator is cuda, and torch sees no GPU; use --accelerator cpu")
    return chosen


def served_models(
    paths: Sequence[str], base: str | None, max_new_tokens: int | None
) -> tuple[tuple[ServedModel, ...], str | None]:
    """Return what ``--ckpt_path`` names, and the resolution of the first one's run.

    Args:
        paths: ``[NAME=]FOLDER`` or ``hf://owner/repo``.
        base: ``--model_name``.
        max_new_tokens: of a text.

    Raises:
        UserError: when nothing is named, or a folder holds no model.
    """
    from deepsynth.hub.pull import resolve_checkpoint
    from deepsynth.modules.text_generator import LIMIT_WITHOUT_TARGETS

    if not paths:
        if base is None:
            raise UserError("there is nothing to serve: give --ckpt_path runs/NAME/adapter, or --model_name")
        name = base.rstrip("/").rpartition("/")[2]
        return (ServedModel(name, None, base, max_new_tokens=max_new_tokens or LIMIT_WITHOUT_TARGETS),), None
    models, modes = [], []
    for path in paths:
        name, equals, place = path.partition("=")
        if not equals:
            name, place = "", path
        folder = resolve_checkpoint(place)
        if not folder.is_dir():
            raise UserError(
                f"--ckpt_path is {place}, and there is no such folder; give an adapter's: runs/NAME/adapter"
            )
        run = run_of(folder)
        named = place.split("@")[0].rpartition("/")[2] if place.startswith("hf://") else run.name
        models.append(ServedModel.of(name or named, folder, base, max_new_tokens))
        modes.append(mode_of(run))
    return tuple(models), modes[0]
