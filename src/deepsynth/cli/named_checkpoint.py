"""The checkpoints that ``--ckpt_path last`` and ``--ckpt_path best`` name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from deepsynth.errors import UserError


def take_checkpoint(config: Any, name: str, *, new: bool) -> str | None:
    """Take ``ckpt_path`` out of the configuration of a subcommand, and return the checkpoint that it names.

    Args:
        config: as jsonargparse returns it.
        name: what the run is called.
        new: whether the command may begin without a checkpoint.

    Raises:
        UserError: when it is a word and there is no such checkpoint.
    """
    path: str | None = config.get("ckpt_path")
    if not path:
        return None
    config["ckpt_path"] = None
    return find_checkpoint(path, Path(config.trainer.default_root_dir), name, new=new)


def find_checkpoint(path: str, root: Path, name: str, *, new: bool) -> str | None:
    """Return the checkpoint that a word names; any other path as it is.

    Lightning's own search begins when the trainer is there, with this run's folder, which is new.

    Args:
        path: value of ``--ckpt_path``. ``last`` is the newest checkpoint of the newest run of that name; ``best`` is
            the one of the same run whose file is called so.
        root: the parent of all run folders.
        name: what the run is called; its folders are ``name``, ``name-2``, ….
        new: whether the command may begin without a checkpoint, so that one command line begins a run and continues
            it.

    Raises:
        UserError: when there is none.
    """
    if path not in ("last", "best"):
        return path
    runs = [folder for folder in root.glob("*") if re.fullmatch(re.escape(name) + r"(-\d+)?", folder.name)]
    written = [file for folder in runs for file in (folder / "checkpoints").glob("*.ckpt") if file.is_file()]
    newest = max(written, key=_time, default=None)
    if newest is None and new and path == "last":
        rank_zero_info(f"--ckpt_path last: no run {name} in {root} has a checkpoint yet, so this one begins anew")
        return None
    if newest is None:
        raise UserError(
            f"--ckpt_path is {path!r}, and no run {name} in {root} has a checkpoint; give the path of one, or the "
            "run's name with --run_name"
        )
    best = [file for file in newest.parent.glob("*.ckpt") if file.stem == "best" or file.stem.startswith("best-")]
    if path == "best" and not best:
        raise UserError(
            f"--ckpt_path is 'best', and {newest.parent} holds no best.ckpt: it is written where validation generates "
            "text; use --ckpt_path last, or the path of a checkpoint"
        )
    found = newest if path == "last" else max(best, key=_time)
    rank_zero_info(f"--ckpt_path {path}: {found}")
    return str(found)


def _time(file: Path) -> tuple[int, bool]:
    """Return when a checkpoint was written; of two that were written at once the one that is called last is last."""
    return file.stat().st_mtime_ns, file.stem == "last"
