"""Images and prompts in, model inputs out."""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import BatchFeature, PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin
from transformers.utils import cached_file

from deepsynth.errors import UserError
from deepsynth.io.images import to_rgb
from deepsynth.models.deepseek_ocr.image_processing import DeepseekOcrImageProcessor
from deepsynth.models.tokens import image_layout

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class DeepseekOcrProcessor(ProcessorMixin):
    r"""DeepSeek-OCR's processor: ``processor(images=[page], text="<image>\nFree OCR.")``.

    A prompt has no roles: it begins with the tokenizer's first token, its ends are stripped, and ``<image>`` stands for
    one image each, in order.

    Attributes:
        image_processor: makes the views.
        tokenizer: of the decoder.
        patch_size: side of a patch of the encoder, pixels.
        downsample_ratio: patches along a side of a feature.
        image_token: ``<image>``.
        image_token_id: its id.
    """

    def __init__(
        self,
        image_processor: DeepseekOcrImageProcessor,
        tokenizer: Any,
        chat_template: str | None = None,
        patch_size: int = 16,
        downsample_ratio: int = 4,
    ) -> None:
        """Join an image processor and a tokenizer.

        Raises:
            ValueError: when the tokenizer has no ``<image>``.
        """
        self.patch_size = patch_size
        self.downsample_ratio = downsample_ratio
        self.image_token = "<image>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        if self.image_token_id is None or self.image_token_id == tokenizer.unk_token_id:
            raise UserError(f"the tokenizer has no {self.image_token} token; it is not DeepSeek-OCR's")
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        mode: str | None = None,
        padding_side: str = "left",
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Return the inputs of ``model.generate``.

        Args:
            images: one PIL image, or a list in the order of the prompts' ``<image>``.
            text: one prompt or several.
            mode: a published resolution (``tiny`` … ``gundam``); ``None`` takes the processor's own.
            padding_side: ``left`` to generate, ``right`` to train.
            return_tensors: ``pt``.

        Raises:
            ValueError: when images and ``<image>`` are not equally many.
        """
        prompts = [text] if isinstance(text, str) else list(text or [])
        pages = [] if images is None else list(images) if isinstance(images, list | tuple) else [images]
        pages = [to_rgb(page) for page in pages]
        places = sum(prompt.count(self.image_token) for prompt in prompts)
        if places != len(pages):
            raise ValueError(f"{len(pages)} images for {places} {self.image_token} in the prompts; want one for each")
        layout = image_layout(self, mode)
        counts = iter([layout.tokens(*page.size) for page in pages])
        ids = []
        for prompt in prompts:
            first, *rest = prompt.strip().split(self.image_token)
            sequence = [self.tokenizer.bos_token_id, *self._encode(first)]
            for piece in rest:
                sequence += [self.image_token_id] * next(counts) + self._encode(piece)
            ids.append(sequence)
        inputs = self.tokenizer.pad({"input_ids": ids}, padding_side=padding_side, return_tensors=return_tensors)
        data = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        if pages:
            data.update(self.image_processor(pages, return_tensors=return_tensors, **layout.processor_kwargs()))
        return BatchFeature(data)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> DeepseekOcrProcessor:
        """Load from a native or a published folder (or Hub id).

        A published folder says nothing of tiles: its processor takes the published default, Gundam.

        Args:
            pretrained_model_name_or_path: folder or Hub id.
            **kwargs: where to look on the Hub, and what the tokenizer takes.
        """
        hub = {name: kwargs.pop(name) for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
        settings, _ = cls.get_processor_dict(pretrained_model_name_or_path, **hub)
        for service in ("trust_remote_code", "_from_auto", *_HUB_ARGUMENTS):
            kwargs.pop(service, None)
        kwargs = {**_additional_tokens(pretrained_model_name_or_path, hub), **kwargs}
        # The published tokenizer_config.json names LlamaTokenizerFast, which would split words in Llama's way.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(pretrained_model_name_or_path, **hub, **kwargs)
        images = dict(settings.get("image_processor") or {})
        if not images:
            side = (settings.get("candidate_resolutions") or [[1024, 1024]])[0][0]
            images = {"size": {"height": side, "width": side}}
            images.update({name: settings[name] for name in ("image_mean", "image_std") if name in settings})
        images.pop("image_processor_type", None)
        return cls(
            DeepseekOcrImageProcessor(**images),
            tokenizer,
            patch_size=settings.get("patch_size", 16),
            downsample_ratio=settings.get("downsample_ratio", 4),
        )


def _additional_tokens(source: Any, hub: dict[str, Any]) -> dict[str, list[str]]:
    """Return the argument that lets transformers 5.17 read a ``special_tokens_map.json`` with spelled-out tokens."""
    file = cached_file(source, "special_tokens_map.json", _raise_exceptions_for_missing_entries=False, **hub)
    tokens = json.loads(Path(file).read_text(encoding="utf-8")).get("additional_special_tokens") if file else None
    if not tokens or not any(isinstance(token, dict) for token in tokens):
        return {}
    return {"additional_special_tokens": [token["content"] if isinstance(token, dict) else token for token in tokens]}


class DeepseekVLV2Processor(DeepseekOcrProcessor):
    """The name that published folders give their processor; other models of that family share it."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> DeepseekOcrProcessor:
        """Load a DeepSeek-OCR processor.

        Raises:
            ValueError: when the folder's ``config.json`` is another model's.
        """
        from deepsynth.models.deepseek_ocr.configuration import DeepseekOcrConfig

        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
        DeepseekOcrConfig.from_pretrained(pretrained_model_name_or_path, **hub)
        return DeepseekOcrProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
