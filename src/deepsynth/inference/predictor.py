"""The text of an image by one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from deepsynth.data.pipeline import Pipeline
from deepsynth.data.processing.collator import Collator
from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.errors import UserError
from deepsynth.hub.pull import resolve_checkpoint
from deepsynth.io.run_config import mode_of, run_of
from deepsynth.models.lora import LoraSettings
from deepsynth.modules import PeftModule
from deepsynth.modules.adapter import adapter_settings, json_object
from deepsynth.modules.settings import GenerationSettings
from deepsynth.types import Document

ImageLike = Path | str | bytes | Image.Image


class Predictor:
    """A loaded model that says what an image shows.

    Args:
        adapter: folder of an adapter, or ``hf://owner/repo@revision``; ``None`` for the model as it comes.
        model_name: a built-in model, a local folder or a Hub repository; by default that of the adapter.
        prompt: prompt with ``<image>``; by default the one that the adapter was trained with, or that of transcription.
        mode: resolution by name, such as ``base``; by default that of the adapter's run, or of the model's files.
        max_new_tokens: most tokens of a text; by default by the longest text of the adapter's training.
        device: torch's name; by default a GPU where there is one.

    Raises:
        UserError: without an adapter and a model's name, for a folder that holds no adapter, or for a mode or a prompt
            that the model cannot take; before any weights are loaded.
    """

    def __init__(
        self,
        adapter: Path | str | None = None,
        *,
        model_name: str | None = None,
        prompt: str | None = None,
        mode: str | None = None,
        max_new_tokens: int | None = None,
        device: str | None = None,
    ) -> None:
        if adapter is None and model_name is None:
            raise UserError("adapter is None, and so is model_name; give one of them")
        folder = None if adapter is None else resolve_checkpoint(str(adapter))
        stored = {} if folder is None else adapter_settings(folder)
        name = model_name or stored.get("model_name")
        if name is None:
            raise UserError(f"{folder} does not say which model it belongs to; give model_name")
        lora = {key.removeprefix("lora."): value for key, value in stored.items() if key.startswith("lora.")}
        if prompt is None and folder is not None and (folder / "deepsynth.json").is_file():
            prompt = json_object(folder / "deepsynth.json").get("prompt")
        if mode is None and folder is not None:
            mode = mode_of(run_of(folder))
        processor = OcrProcessor(name, mode, prompt)
        layout = processor.layout
        if mode is not None:
            layout.check(mode)
        self.module = PeftModule(
            name,
            adapter=None if folder is None else str(folder),
            lora=LoraSettings(**lora),
            generation=GenerationSettings(max_new_tokens=max_new_tokens),
        )
        self.module.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        self.module.configure_model()
        self.module.to(self.module.device).eval()
        self.prompt = prompt
        self._pipeline = Pipeline(TextRenderer(), None, processor, prompt_only=True)

    def __call__(self, image: ImageLike) -> str:
        """Return the text of an image: a file, the content of one, or pixels.

        Raises:
            UserError: when it is no image, or a broken one.
        """
        return self.predict([image])[0]

    @torch.inference_mode()
    def predict(self, images: Sequence[ImageLike]) -> list[str]:
        """Return the texts of images, which are generated together."""
        documents = [
            Document(str(number), "", image=Path(image) if isinstance(image, str) else image)
            for number, image in enumerate(images)
        ]
        samples = [self._pipeline.sample(document, None, 0) for document in documents]
        processor = self._pipeline.processor
        batch = Collator(processor.pad_token_id)([sample for sample in samples if sample is not None])
        device = self.module.device
        batch = batch.map_tensors(lambda tensor: tensor.to(device)).with_pixel_values()
        generations = self.module.generate(batch)
        assert generations is not None, "there is no deadline"
        return [generation.text for generation in generations]


def predict(image: ImageLike, adapter: Path | str | None = None, *, model_name: str | None = None) -> str:
    """Return the text of one image; to predict several, keep a :class:`Predictor`, which loads the model once.

    Args:
        image: a file, the content of one, or pixels.
        adapter: folder of an adapter, or ``hf://owner/repo@revision``.
        model_name: by default that of the adapter.
    """
    return Predictor(adapter, model_name=model_name)(image)
