"""Models as their authors publish them: the original keys, configuration, tokenizer, processor and code.

The original code, vLLM, SGLang and llama.cpp's converter read such a folder; ``docs/guides/serve.md`` says what each of
them needs.
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

from deepsynth.errors import UserError
from deepsynth.models.deepseek_ocr.published import AUTO_MAP, SECOND_AUTO_MAP
from deepsynth.models.deepseek_ocr.published_second import second_to_published
from deepsynth.models.reachability import why_unreachable
from deepsynth.models.tokens import image_layout
from deepsynth.modules.adapter import json_object

#: The original code's files and where they are, by family. They are their authors', and no part of DeepSynth.
_SHARED_CODE = ("configuration_deepseek_v2.py", "conversation.py", "modeling_deepseekv2.py")
ORIGINAL_CODE: dict[str, tuple[str, tuple[str, ...]]] = {
    "deepseek_ocr": ("deepseek-ai/DeepSeek-OCR", ("deepencoder.py", "modeling_deepseekocr.py", *_SHARED_CODE)),
    "deepseek_ocr2": ("deepseek-ai/DeepSeek-OCR-2", ("deepencoderv2.py", "modeling_deepseekocr2.py", *_SHARED_CODE)),
}
_AUTO_MAPS = {"deepseek_ocr": AUTO_MAP, "deepseek_ocr2": SECOND_AUTO_MAP}
#: What a published folder has beside its weights, configuration and index.
_CARRIED = ("*.json", "*.py", "*.txt", "*.model", "LICENSE*")
_WRITTEN = ("config.json", "generation_config.json", "model.safetensors.index.json")
#: Sizes that the original code, vLLM and SGLang build whatever config.json says.
_SAM = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "output_channels": 256}
_SAM |= {"image_size": 1024, "patch_size": 16, "window_size": 14}
_BUILT: dict[str, dict[str, dict[str, int]]] = {
    "deepseek_ocr": {
        "sam_config": _SAM,
        "encoder_config": {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "image_size": 224,
            "patch_size": 14,
        },
    },
    "deepseek_ocr2": {
        "sam_config": _SAM,
        "encoder_config": {
            "hidden_size": 896,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "intermediate_size": 4864,
        },
    },
}


def write_published(model: Any, processor: Any, source: str, folder: Path, max_shard_size: str) -> None:
    """Write a model's folder in the original form.

    Args:
        model: native.
        processor: of its base.
        source: the base: a folder or a Hub repository.
        folder: where to.
        max_shard_size: of one weight file.

    Raises:
        UserError: naming the fields that the published configuration has no place for.
    """
    second = model.config.model_type == "deepseek_ocr2"
    write_processor(processor, folder)
    if not second and model.config.published is not None and not _is_native(source, model.config.model_type):
        _carry(source, folder)
    _begin_with_bos(folder, processor.tokenizer.bos_token)
    if not second:
        model.save_pretrained(folder, format="published", max_shard_size=max_shard_size)
        config = json_object(folder / "config.json")
        if "auto_map" not in config:  # which SGLang recognizes the model by
            _write_json(folder / "config.json", {**config, "auto_map": dict(AUTO_MAP)})
        return
    model.config.dtype = model.dtype
    written = json.dumps(second_to_published(model.config), indent=2, ensure_ascii=False)
    model.save_pretrained(folder, max_shard_size=max_shard_size)  # transformers keeps the original keys
    (folder / "config.json").write_text(written + "\n", encoding="utf-8")


def native_config_of(folder: Path, config: Any, processor: Any) -> Any:
    """Return what transformers has to be told to load a published folder; ``None`` where the folder says it all.

    transformers reads DeepSeek-OCR-2 in its own form alone, so the folder's configuration cannot be tried; its
    tokenizer can.

    Args:
        folder: that was written.
        config: of the model that was written.
        processor: likewise.

    Raises:
        UserError: beginning with FAIL, when the tokenizer is another one.
    """
    from transformers import PreTrainedTokenizerFast

    if config.model_type == "deepseek_ocr":
        return None
    if PreTrainedTokenizerFast.from_pretrained(str(folder)).get_vocab() != processor.tokenizer.get_vocab():
        raise UserError("FAIL: the tokenizer that was written is not the base model's")
    return copy.deepcopy(config)


def add_code(folder: Path, family: str) -> tuple[str, ...]:
    """Add the original code that the configuration names, from the Hub, and return the files that are still missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    missing = _missing_code(folder, family)
    if not missing:
        return ()
    repository, files = ORIGINAL_CODE[family]
    offline = why_unreachable(repository) is not None
    try:
        found = snapshot_download(repository, allow_patterns=[*files, "LICENSE*"], local_files_only=offline)
    except (HfHubHTTPError, LocalEntryNotFoundError):
        return missing
    for file in Path(found).iterdir():
        if not (folder / file.name).exists() and (file.name in missing or file.name.startswith("LICENSE")):
            shutil.copyfile(file, folder / file.name)
    return _missing_code(folder, family)


def notes_on(config: Any, missing_code: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a published folder cannot do, a line each."""
    found = []
    if missing_code:
        found.append(
            f"missing: {', '.join(missing_code)}. vLLM, SGLang without --trust-remote-code and llama.cpp do not read "
            f"them; for the original code copy them from {ORIGINAL_CODE[config.model_type][0]}"
        )
    other = [
        f"{part}.{name} {getattr(getattr(config.vision_config, part), name)}, not {size}"
        for part, sizes in _BUILT[config.model_type].items()
        for name, size in sizes.items()
        if getattr(getattr(config.vision_config, part), name) != size
    ]
    if other:
        found.append(
            f"vLLM, SGLang and the original code cannot load this model: they build the published encoders, and its "
            f"own has {other[0]}{f' (and {len(other) - 1} more)' if len(other) > 1 else ''}; "
            "serve the adapter or the native export with deepsynth serve"
        )
    return tuple(found)


def write_processor(processor: Any, folder: Path) -> None:
    """Write tokenizer and ``processor_config.json`` for programs with transformers 4 or 5."""
    tokenizer, images = processor.tokenizer, processor.image_processor
    tokenizer.save_pretrained(folder)
    side = image_layout(processor).base_size
    settings = {
        "add_special_token": False,
        "candidate_resolutions": [[side, side]],
        "downsample_ratio": processor.downsample_ratio,
        "ignore_id": -100,
        "image_mean": list(images.image_mean),
        "image_std": list(images.image_std),
        "image_token": "<image>",
        "mask_prompt": False,
        "normalize": True,
        "pad_token": tokenizer.pad_token,
        "patch_size": processor.patch_size,
        "processor_class": "DeepseekVLV2Processor",
        "sft_format": "deepseek",
    }
    _write_json(folder / "processor_config.json", settings)
    # transformers 4 has no TokenizersBackend and takes no list of extra tokens; vLLM and SGLang ask for Llama's class.
    kept = ("bos_token", "eos_token", "pad_token", "unk_token", "model_max_length", "clean_up_tokenization_spaces")
    written = json_object(folder / "tokenizer_config.json")
    described: dict[str, Any] = {name: written[name] for name in kept if name in written}
    if extra := written.get("extra_special_tokens"):
        described["additional_special_tokens"] = list(extra)
    _write_json(folder / "tokenizer_config.json", {**described, "tokenizer_class": "LlamaTokenizerFast"})


def _begin_with_bos(folder: Path, bos: str) -> None:
    """Make a folder's tokenizer begin every text with a token, as the original code begins every prompt.

    llama.cpp's converter and vLLM go by the template in ``tokenizer.json``: without one their prompts lack the token
    and their texts are others. SGLang and the original code encode without special tokens and add it themselves.
    """
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    number = tokenizer.token_to_id(bos)
    if tokenizer.encode("").ids != [number]:
        begin = {"SpecialToken": {"id": bos, "type_id": 0}}
        first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
        template = {
            "type": "TemplateProcessing",
            "single": [begin, first],
            "pair": [begin, first, begin, second],
            "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
        }
        _write_json(file, {**json_object(file), "post_processor": template})  # the rest as it is, for older programs
    settings = json_object(folder / "tokenizer_config.json")
    if settings.get("add_bos_token") is not True:
        _write_json(folder / "tokenizer_config.json", {**settings, "add_bos_token": True, "add_eos_token": False})


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_native(source: str, model_type: str) -> bool:
    """Return whether a base is in transformers' format, whose other files would not fit a published config."""
    return Path(source).is_dir() and json_object(Path(source) / "config.json").get("model_type") == model_type


def _missing_code(folder: Path, family: str) -> tuple[str, ...]:
    """Return the files of code that the configuration in a folder names, with what they import, and that it lacks."""
    named = json_object(folder / "config.json").get("auto_map") or {}
    files = {f"{value.split('--')[-1].partition('.')[0]}.py" for value in named.values()}
    if named == _AUTO_MAPS[family]:
        files |= set(ORIGINAL_CODE[family][1])
    return tuple(sorted(name for name in files if not (folder / name).exists()))


def _carry(source: str, folder: Path) -> None:
    """Copy what the published folder has besides weights: tokenizer, processor, its own code."""
    if not Path(source).is_dir():
        from huggingface_hub import snapshot_download

        source = snapshot_download(source, allow_patterns=list(_CARRIED))
    for pattern in _CARRIED:
        for file in Path(source).glob(pattern):
            if file.name not in _WRITTEN:
                shutil.copyfile(file, folder / file.name)
