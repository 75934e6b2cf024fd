"""What other tools call our options, and the nearest of our names for a misspelled one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

#: Option by the name that users of other trainers type for it, in lower case with underscores.
_ALIASES: dict[str, tuple[str, ...]] = {
    "model.optimizer.lr": ("lr", "learning_rate", "base_lr", "max_lr"),
    "model.optimizer.weight_decay": ("weight_decay", "wd"),
    "model.schedule": ("scheduler", "lr_scheduler", "lr_scheduler_type", "lr_schedule"),
    "model.warmup_steps": ("warmup", "num_warmup_steps", "warmup_ratio"),
    "model.model_name": ("model_name", "model_name_or_path", "pretrained", "base_model", "checkpoint", "model_id"),
    "model.lora.rank": ("r", "rank", "lora_r", "lora_rank"),
    "model.lora.alpha": ("alpha", "lora_alpha"),
    "model.lora.dropout": ("dropout", "lora_dropout"),
    "model.dtype": ("bf16", "fp16", "fp32", "torch_dtype", "precision"),
    "model.quantization": ("load_in_4bit", "load_in_8bit", "qlora", "quantize", "nf4"),
    "model.engine.activation_memory": ("gradient_checkpointing", "activation_checkpointing"),
    "model.generation.max_new_tokens": ("max_new_tokens", "generation_max_length"),
    "data.batch_size": ("batch", "batch_size", "train_batch_size", "per_device_train_batch_size", "bs"),
    "data.eval_batch_size": ("per_device_eval_batch_size", "val_batch_size"),
    "data.max_tokens": ("max_length", "max_seq_length", "max_seq_len", "seq_len", "cutoff_len"),
    "data.source.path": ("data_path", "dataset", "dataset_path", "data_dir", "path", "input", "images", "train_file"),
    "data.num_workers": ("workers", "num_workers", "dataloader_num_workers"),
    "data.val_fraction": ("val_split", "validation_split", "val_size", "test_size"),
    "data.prompt": ("instruction", "question"),
    "trainer.max_epochs": ("epochs", "num_epochs", "num_train_epochs", "n_epochs"),
    "trainer.max_steps": ("steps", "num_steps", "total_steps", "train_steps", "iterations"),
    "trainer.accumulate_grad_batches": ("gradient_accumulation_steps", "accumulation_steps", "grad_accum"),
    "trainer.gradient_clip_val": ("max_grad_norm", "clip_grad_norm", "grad_clip", "gradient_clipping"),
    "trainer.val_check_interval": ("eval_steps", "val_interval", "validate_every"),
    "trainer.log_every_n_steps": ("logging_steps", "log_interval"),
    "trainer.default_root_dir": ("output_dir", "out_dir", "save_dir", "output"),
    "trainer.devices": ("gpus", "num_gpus", "n_gpus", "devices"),
    "trainer.accelerator": ("device", "cuda", "gpu", "cpu"),
    "trainer.logger": ("report_to", "wandb", "mlflow"),
    "trainer.max_time": ("time_limit",),
    "seed_everything": ("seed", "random_seed"),
    "ckpt_path": ("resume", "resume_from", "resume_from_checkpoint", "ckpt", "checkpoint_path", "weights_path"),
    "run_name": ("name", "run", "experiment", "exp_name"),
}
ALIASES = {alias: key for key, aliases in _ALIASES.items() for alias in aliases}


def suggestion(typed: str, known: Collection[str]) -> str:
    """Return the end of an error about an option that does not exist: the right option, with an example.

    Args:
        typed: the option as it was typed, perhaps with its value: ``--model.lr=1e-4``.
        known: whole names of all options.
    """
    name, _, value = typed.removeprefix("--").partition("=")
    name = name.replace("-", "_").replace(".init_args.", ".").removesuffix("_")
    keys = _right_keys(name, known)
    if not keys:
        return f"deepsynth fit --help WORD shows the options with a word, such as: deepsynth fit --help {_word(name)}"
    options = [f"--{key}" for key in keys]
    example = f"{options[0]}={value}" if value else f"{options[0]}=…"
    if len(options) == 1:
        return f"did you mean {example}?"
    return f"did you mean {', '.join(options[:-1])} or {options[-1]}? For example {example}"


def _right_keys(name: str, known: Collection[str]) -> list[str]:
    """Return the options that a name may stand for, one where it is clear."""
    part, leaf = name.split(".")[0], name.rpartition(".")[2]
    if alias := ALIASES.get(leaf.lower()):
        return [alias]
    leaves: dict[str, list[str]] = {}
    for key in known:
        leaves.setdefault(key.rpartition(".")[2], []).append(key)
    near = [leaf] if leaf in leaves else difflib.get_close_matches(leaf, leaves, n=3, cutoff=0.6)
    found = [_nearest_place(name, leaves[one]) for one in near]
    same_part = [key for key in found if key.split(".")[0] == part]
    return (same_part or found)[: 1 if same_part else 2]


def _nearest_place(name: str, keys: Sequence[str]) -> str:
    """Return the key whose place is most like that of the name; of several the shortest."""
    return max(keys, key=lambda key: (difflib.SequenceMatcher(None, name, key).ratio(), -len(key)))


def _word(name: str) -> str:
    return max(name.replace(".", "_").split("_"), key=len, default="source") or "source"
