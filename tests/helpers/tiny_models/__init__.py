"""Tiny random models of every family, made from a configuration: the same classes, small numbers, no network.

A file for each has ``make(folder)``, which writes a folder that loads like a published one, with weights, tokenizer,
processor and chat template; ``PAGES``, sizes of two pages in pixels, which take different numbers of tokens where the
family has such; and ``SLOW``, whether its tests are left out of the usual run.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def find_makers() -> dict[str, ModuleType]:
    """Return the files of this folder by name."""
    names = sorted(module.name for module in iter_modules(__path__))
    return {name: import_module(f"{__name__}.{name}") for name in names}


def skip_without_image_processors() -> None:
    """Skip a test where transformers loads image processors by torchvision alone, as 5.17 does, and that is missing."""
    if getattr(transformers.AutoImageProcessor, "_backends", None):  # a stand-in, which raises when it is used
        pytest.skip("this transformers loads image processors by torchvision alone, which is not installed")


def byte_tokenizer(special: Sequence[str], *, eos: str, pad: str, **named: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer of single bytes with some special tokens, which have the first ids.

    Args:
        special: special tokens.
        eos: of these.
        pad: of these.
        named: other arguments of the tokenizer, such as ``extra_special_tokens``.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, pad_token=pad, additional_special_tokens=list(special), **named
    )


def write(folder: Path, config: Any, processor: Any) -> Path:
    """Write a random model of a configuration with its processor into a folder, and return the folder.

    Weights are larger than at the start of a pretraining, so that what a model sees changes what it writes, and a head
    that stays frozen can say one token for sure.
    """
    from transformers import AutoModelForImageTextToText

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "norm" not in name:
                of_words = name.endswith(("embed_tokens.weight", "lm_head.weight"))
                torch.nn.init.normal_(parameter, std=0.5 if of_words else min(0.5, parameter[0].numel() ** -0.5))
    eos, pad = processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = eos, pad
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


#: The decoder's numbers, for configurations of a Llama or Qwen.
DECODER: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}
