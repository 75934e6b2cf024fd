"""Features of pages that a frozen encoder has seen before, in memory or on disk.

    X  images     n  features of an image     H  width of the decoder

They are found by what they were made from, the pixels; where those were drawn, by which process, worker or run, does
not matter.
"""

from __future__ import annotations

import hashlib
import logging
import stat
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file

log = logging.getLogger(__name__)

GIB = 2**30
#: Words that are hashed together.
_BLOCK = 2**20
#: Where ``disk`` keeps its files.
DEFAULT_FOLDER = Path("~/.cache/deepsynth/vision")


class FeatureCache(ABC):
    """Keeps features (n, H) by key until it is full; nothing is thrown out.

    Pages come back in a new order every epoch, so of a cache that is too small a fixed part is always found, where one
    that throws out the oldest would find nothing.

    Args:
        limit_bytes: of all features.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.hits = self.lookups = 0

    def get(self, key: str) -> torch.Tensor | None:
        """Return the features on the CPU, bit for bit as they were put; ``None`` when they are not there."""
        found = self._read(key)
        self.lookups += 1
        self.hits += found is not None
        return found

    def put(self, key: str, features: torch.Tensor) -> None:
        """Keep a copy, unless that would exceed the limit."""
        size = features.numel() * features.element_size()
        if self.used_bytes + size > self.limit_bytes:
            if self.used_bytes <= self.limit_bytes:
                log.info("vision_cache: full at %.2f GiB; its contents stay", self.used_bytes / GIB)
                self.used_bytes = self.limit_bytes + 1
            return
        self.used_bytes += size
        self._write(key, features.detach())

    @abstractmethod
    def _read(self, key: str) -> torch.Tensor | None: ...

    @abstractmethod
    def _write(self, key: str, features: torch.Tensor) -> None: ...


class MemoryCache(FeatureCache):
    """Keeps features in the memory of the host, for this process and this run; page-locked when there is a GPU."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self._features: dict[str, torch.Tensor] = {}

    def _read(self, key: str) -> torch.Tensor | None:
        return self._features.get(key)

    def _write(self, key: str, features: torch.Tensor) -> None:
        copy = torch.empty(features.shape, dtype=features.dtype, pin_memory=features.is_cuda)
        self._features[key] = copy.copy_(features)


class DiskCache(FeatureCache):
    """Keeps one file an image, for all processes and later runs.

    A file appears whole or not at all, so ranks may share the folder; each of them takes an equal part of the limit.
    Weights, dtype, device and versions are in the folder's name: what they have not computed is not found.

    Args:
        folder: of all models; the context's own folder is made in it.
        context: of the features, see :func:`context_of`.
        limit_bytes: of the context's folder.
        ranks: processes that write to it.
    """

    def __init__(self, folder: Path, context: str, limit_bytes: int, ranks: int = 1) -> None:
        self.folder = folder.expanduser() / context
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            there = sum(file.stat().st_size for file in self.folder.glob("*/*.safetensors"))
        except OSError as error:
            raise UserError(f"model.engine.vision_cache: the folder {self.folder} cannot be used: {error}") from error
        super().__init__(max(0, limit_bytes - there) // ranks)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _read(self, key: str) -> torch.Tensor | None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._path(key)
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise OSError("it is not a regular file")  # opening a pipe would wait for ever
            features: torch.Tensor = load_file(path)["features"]
            return features
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError) as error:
            log.warning("%s is damaged (%s); its page is encoded again", path, error)
            return None

    def _write(self, key: str, features: torch.Tensor) -> None:
        from safetensors.torch import save

        path = self._path(key)
        try:
            with atomic_file(path, durable=False) as temporary:
                temporary.write_bytes(save({"features": features.cpu().contiguous()}))
        except OSError as error:
            log.warning("%s is not kept: %s", path, error)


@lru_cache(maxsize=2)
def _coefficients(device: torch.device) -> torch.Tensor:
    """Return (2, _BLOCK) odd 64-bit numbers, always the same ones."""
    generator = torch.Generator().manual_seed(0x5EED)
    numbers = torch.randint(-(2**62), 2**62, (2, _BLOCK), generator=generator)
    return (2 * numbers + 1).to(device)


def bit_hash(tensor: torch.Tensor) -> torch.Tensor:
    """Return two 64-bit sums for each million words of a tensor's bits, computed where it is.

    The sums are of the words times fixed random numbers, modulo 2^64 (multilinear hashing; Lemire and Kaser 2014,
    arXiv:1202.4961): two pages that differ agree in both with a probability below 2^-64. Nothing leaves a GPU but the
    sums.
    """
    words = tensor.detach().contiguous().reshape(-1)
    words = words.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[words.element_size()])
    if len(words) > _BLOCK:
        words = F.pad(words, (0, -len(words) % _BLOCK)).view(-1, _BLOCK)
    coefficients = _coefficients(words.device)[:, : words.shape[-1]]
    return torch.cat([(words * lane).sum(-1, keepdim=words.dim() == 1) for lane in coefficients])


def image_keys(
    pixel_values: Sequence[torch.Tensor] | torch.Tensor,
    tiles: torch.Tensor | None = None,
    tiles_of: list[int] | None = None,
) -> list[str]:
    """Return a key for each of X images: its pixels as the encoder sees them, their dtype, and the shape of the views.

    Args:
        pixel_values: (X, 3, S, S) global views, or X images as patches (height, width, ...).
        tiles: (N, 3, S', S') of all images in order.
        tiles_of: X numbers of tiles.
    """
    parts = [[view] for view in pixel_values]
    if tiles is not None and tiles_of is not None:
        for part, own in zip(parts, torch.split(tiles, tiles_of), strict=True):
            part.append(own)
    hashes = [torch.cat([bit_hash(views) for views in part]) for part in parts]
    numbers = torch.cat(hashes).tolist()  # all at once: a GPU is waited for here
    keys = []
    for part, own in zip(parts, hashes, strict=True):
        sums, numbers = numbers[: len(own)], numbers[len(own) :]
        text = f"{sums} {[tuple(views.shape) for views in part]} {part[0].dtype}"
        keys.append(hashlib.sha256(text.encode()).hexdigest()[:40])
    return keys


def context_of(modules: nn.Module, names: list[str], *details: object) -> str:
    """Return a folder name for features: the bits of the named parameters and buffers, and what else they depend on.

    Args:
        modules: of the encoder.
        names: of its parameters and buffers that have a part in the features.
        *details: with a stable text: compilation, pages a pass.
    """
    import transformers

    own = {**dict(modules.named_parameters()), **dict(modules.named_buffers())}
    key = hashlib.sha256()
    for name in sorted(names):
        tensor = own[name]
        key.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {bit_hash(tensor).tolist()}".encode())
        device = tensor.device
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    key.update(repr((torch.__version__, transformers.__version__, place, details)).encode())
    return key.hexdigest()[:16]
