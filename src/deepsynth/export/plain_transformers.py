"""DeepSeek-OCR for transformers alone, which has its layers as Unlimited-OCR.

That model differs in one thing: behind the prompt a token sees the last 128 tokens only. With a window as long as the
decoder has positions it computes what DeepSeek-OCR computes: encoders and decoder to the last bit, the whole up to the
rounding of a mask that transformers then gives to attention.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepsynth.errors import UserError

MODEL_TYPE = "unlimited_ocr"
#: What such a folder needs elsewhere.
NEEDS = "loads in transformers (5.24 or newer, with torchvision for its image processor) without DeepSynth"
#: What a folder in DeepSynth's own classes needs elsewhere.
NATIVE_NEEDS = (
    "elsewhere run `import deepsynth.models; deepsynth.models.register()` before transformers loads this folder, or "
    "export with --format transformers"
)
#: Writes a prompt as DeepSeek-OCR's processor does: pages first, a new line, the text.
_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.content is string %}{{ message.content | trim }}"
    "{% else %}{% for part in message.content %}{% if part.type == 'image' %}<image>{% else %}"
    "{{ '\n' if not loop.first else '' }}{{ part.text | trim }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)
_OURS, _THEIRS = "vision_encoder.layers.", "vision_encoder.encoder.layers."
#: In every published file and never used; transformers' class does not have it.
_UNUSED = "patch_embedding.weight"
_NO_SETTINGS = ("model_type", "architectures", "_name_or_path", "transformers_version", "dtype")


def own_name(name: str) -> str:
    """Return the name that a weight of transformers' class has in DeepSynth's."""
    return name.replace(_THEIRS, _OURS)


def write_for_transformers(model: Any, processor: Any, folder: Path, max_shard_size: str) -> tuple[str, ...]:
    """Write a folder of DeepSeek-OCR that transformers loads by its own classes, and return what to know of it.

    Args:
        model: of DeepSynth's class.
        processor: likewise.
        folder: where to.
        max_shard_size: of one weight file.

    Raises:
        UserError: where transformers does not have the layers.
    """
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if MODEL_TYPE not in CONFIG_MAPPING:
        raise UserError(
            f"format is 'transformers', but the installed transformers has no {MODEL_TYPE} (5.24 has); use "
            "--format native"
        )
    config = _config(model.config, CONFIG_MAPPING[MODEL_TYPE])
    with torch.device("meta"):
        written = AutoModelForImageTextToText.from_config(config, dtype=model.dtype)
    state = {name.replace(_OURS, _THEIRS): t for name, t in model.state_dict().items() if not name.endswith(_UNUSED)}
    written.load_state_dict(state, assign=True)
    written.generation_config = model.generation_config
    written.save_pretrained(folder, max_shard_size=max_shard_size)
    _processor(processor).save_pretrained(folder)
    return (NEEDS,)


def _config(own: Any, theirs: Any) -> Any:
    """Return the configuration of transformers' class, with a window that covers all positions."""

    def settings(part: Any) -> dict[str, Any]:
        return {name: value for name, value in part.to_dict().items() if name not in _NO_SETTINGS}

    text = settings(own.text_config)
    text |= {"sliding_window": own.text_config.max_position_embeddings, "layer_types": None}
    vision = own.vision_config
    return theirs(
        text_config=text,
        vision_config={name: settings(getattr(vision, name)) for name in ("sam_config", "encoder_config")},
        image_token_id=own.image_token_id,
        tie_word_embeddings=own.tie_word_embeddings,
    )


def _processor(own: Any) -> Any:
    """Return transformers' processor with the resolution and the tokenizer of DeepSeek-OCR's."""
    from transformers import UnlimitedOcrProcessor

    from deepsynth.models.unlimited_ocr.image_processing import UnlimitedOcrImageProcessor

    images = own.image_processor
    names = ("size", "crop_to_patches", "tile_size", "min_patches", "max_patches", "image_mean", "image_std")
    views = UnlimitedOcrImageProcessor(
        **{name: getattr(images, name) for name in names},
        maximum_pad_value=images.size["height"] if images.stretch else 0,
        background_color=[int(mean * 255) for mean in images.image_mean],
    )
    return UnlimitedOcrProcessor(
        views,
        own.tokenizer,
        chat_template=_CHAT_TEMPLATE,
        patch_size=own.patch_size,
        downsample_ratio=own.downsample_ratio,
    )
