"""A snapshot of an adapter: exactly the files that a reader of the repository needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from deepsynth.hub.card import Card
from deepsynth.hub.privacy import clean_json_files, without_local_paths
from deepsynth.hub.snapshot import Snapshot, Target
from deepsynth.hub.spool import Spool

#: What may be pushed. Anything else that lies in an adapter's folder stays here.
ADAPTER_FILES = (
    "README.md",
    "metrics.json",
    "deepsynth.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    # the processor
    "processor_config.json",
    "preprocessor_config.json",
    "image_processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)
OPTIMIZER_FILE = "optimizer.pt"


def snapshot_adapter(
    spool: Spool,
    target: Target,
    save_adapter: Callable[[Path], None],
    card: Card,
    message: str,
    *,
    tag: str | None = None,
    save_optimizer: Callable[[Path], None] | None = None,
) -> Snapshot:
    """Write the adapter with its card and metrics into the spool, complete or not at all.

    Args:
        spool: where it waits to be pushed.
        target: where it goes.
        save_adapter: writes adapter and processor into a folder that it makes.
        card: becomes README.md, and metrics.json.
        message: title of the commit.
        tag: tag to set on the commit.
        save_optimizer: writes the optimizer state to a file, when that is to be pushed too.

    Raises:
        OSError: when the disk is full or read-only.
    """
    staged = spool.stage()
    try:
        folder = staged / "files"
        save_adapter(folder)
        measured = {
            "step": card.step,
            "metrics": dict(card.metrics),
            "settings": without_local_paths(dict(card.metric_settings)),
            "deepsynth": card.version,
        }
        (folder / "metrics.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card.text(), encoding="utf-8")
        clean_json_files(folder, card.base_model)
        allowed = list(ADAPTER_FILES)
        if save_optimizer is not None:
            save_optimizer(folder / OPTIMIZER_FILE)
            allowed.append(OPTIMIZER_FILE)
        return spool.seal(folder, target, message, allow=allowed, tag=tag)
    finally:
        spool.discard(staged)
