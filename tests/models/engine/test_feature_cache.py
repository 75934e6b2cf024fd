"""The cache finds what was computed from the same pixels by the same weights, bit for bit, and stays in its bounds."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from deepsynth.models.engine.feature_cache import DiskCache, FeatureCache, MemoryCache, bit_hash, context_of, image_keys

FEATURES = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
SIZE = FEATURES.numel() * 2


def make(kind: str, folder: Path, limit: int = 10 * SIZE) -> FeatureCache:
    return MemoryCache(limit) if kind == "memory" else DiskCache(folder, "context", limit)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_what_was_put_is_found_bit_for_bit_and_does_not_change_with_its_source(kind: str, tmp_path: Path) -> None:
    cache, source = make(kind, tmp_path), FEATURES.clone()
    assert cache.get("aa1") is None
    cache.put("aa1", source)
    source.zero_()
    found = cache.get("aa1")
    assert found is not None
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.view(torch.int16), FEATURES.view(torch.int16))
    assert (cache.hits, cache.lookups) == (1, 2)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_full_cache_keeps_what_it_has(kind: str, tmp_path: Path) -> None:
    cache = make(kind, tmp_path, limit=2 * SIZE)
    for key in ("aa1", "aa2", "aa3", "aa4"):
        cache.put(key, FEATURES)
    assert [cache.get(key) is not None for key in ("aa1", "aa2", "aa3", "aa4")] == [True, True, False, False]


def test_a_cache_says_once_that_it_is_full_and_takes_nothing_smaller_then(caplog: pytest.LogCaptureFixture) -> None:
    cache = MemoryCache(3 * SIZE - 1)
    with caplog.at_level("INFO"):
        for key in ("aa1", "aa2", "aa3", "aa4"):
            cache.put(key, FEATURES)
        cache.put("aa5", FEATURES[:1])
    assert [cache.get(key) is not None for key in ("aa1", "aa2", "aa3", "aa5")] == [True, True, False, False]
    assert [record.getMessage() for record in caplog.records] == ["vision_cache: full at 0.00 GiB; its contents stay"]


def test_a_folder_beyond_the_limit_is_read_and_takes_nothing_more(tmp_path: Path) -> None:
    make("disk", tmp_path).put("aa1", FEATURES)
    (file,) = tmp_path.rglob("*.safetensors")
    assert file.relative_to(tmp_path).as_posix() == "context/aa/aa1.safetensors"
    cache = DiskCache(tmp_path, "context", 1)
    assert cache.limit_bytes == 0
    cache.put("bb1", FEATURES)
    assert cache.get("aa1") is not None
    assert cache.get("bb1") is None


def test_another_run_counts_what_is_on_the_disk_and_ranks_share_the_limit(tmp_path: Path) -> None:
    make("disk", tmp_path).put("aa1", FEATURES)
    file = next(tmp_path.rglob("*.safetensors"))
    assert DiskCache(tmp_path, "context", 5 * SIZE + file.stat().st_size, ranks=2).limit_bytes == 5 * SIZE // 2
    assert DiskCache(tmp_path, "other", 5 * SIZE).get("aa1") is None


def test_a_damaged_file_is_a_miss_and_is_written_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = make("disk", tmp_path)
    cache.put("aa1", FEATURES)
    file = next(tmp_path.rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:40])
    assert cache.get("aa1") is None
    assert "damaged" in caplog.text
    cache.put("aa1", FEATURES)
    assert cache.get("aa1") is not None


def _write(folder: Path, number: int) -> None:
    torch.set_num_threads(1)
    cache = DiskCache(folder, "context", 2**30)
    for key in range(20):
        cache.put(f"k{key}", FEATURES + key)
        found = cache.get(f"k{key}")
        assert found is not None
        assert torch.equal(found, FEATURES + key)


def test_processes_may_write_the_same_features_at_the_same_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write, args=(tmp_path, number)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 20
    assert not list(tmp_path.rglob("*.part"))


def test_users_may_share_a_folder(tmp_path: Path) -> None:
    """Files have the permissions that the umask gives, and nothing that another user puts there stops a run."""
    before = os.umask(0o002)
    try:
        cache = DiskCache(tmp_path, "context", 2**30)
        cache.put("key", FEATURES)
    finally:
        os.umask(before)
    (file,) = tmp_path.rglob("*.safetensors")
    assert file.stat().st_mode & 0o777 == 0o664
    file.unlink()
    os.mkfifo(file)
    assert DiskCache(tmp_path, "context", 2**30).get("key") is None
    file.unlink()
    file.symlink_to("/etc/hostname")
    assert DiskCache(tmp_path, "context", 2**30).get("key") is None


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"model\.engine\.vision_cache: the folder .* cannot be used"):
        DiskCache(tmp_path / "file", "context", SIZE)


def test_keys_tell_pixels_tiles_and_dtypes_apart() -> None:
    pages = torch.randn(3, 3, 400, 400, generator=torch.Generator().manual_seed(0))
    pages[2] = pages[0]
    first, second, third = image_keys(pages)
    assert first == third != second
    changed = pages.clone()
    changed[0, 2, 399, 399] = torch.nextafter(
        changed[0, 2, 399, 399], torch.tensor(9.0)
    )  # the last bit of the last word
    assert image_keys(changed)[0] != first
    assert image_keys(pages.flip(-1))[0] != first
    assert image_keys(pages.bfloat16())[0] != first
    tiles = torch.randn(3, 3, 64, 64)
    with_tiles = image_keys(pages, tiles, [2, 0, 1])
    assert len({*with_tiles, first}) == 4 - (with_tiles[1] == second)
    assert image_keys(pages, tiles.flip(0), [2, 0, 1])[0] != with_tiles[0]
    assert image_keys(pages, tiles, [1, 1, 1])[0] != with_tiles[0]


def test_each_part_of_a_key_matters_when_the_bits_are_the_same() -> None:
    pages = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    (key,) = image_keys(pages)
    assert image_keys(pages.clone()) == [key]
    assert image_keys(pages.view(torch.bfloat16)) != [key]
    assert image_keys(pages.view(1, 3, 4, 16)) != [key]
    tiles = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).half()
    (tiled,) = image_keys(pages, tiles, [2])
    assert tiled != key
    assert image_keys(pages, tiles.view(1, 3, 8, 4), [1]) != [tiled]
    assert image_keys(pages, tiles[:0], [0]) != [tiled]


def test_each_part_of_the_context_matters_when_the_bits_are_the_same() -> None:
    def context(name: str = "weight", shape: tuple[int, ...] = (4, 4), dtype: torch.dtype = torch.float16) -> str:
        module = nn.Module()
        bits = torch.arange(16, dtype=torch.int16)
        module.register_buffer(name, bits.view(dtype).reshape(shape))
        return context_of(module, [name], "none")

    assert context() == context()
    others = [context("bias"), context(shape=(2, 8)), context(dtype=torch.bfloat16)]
    assert len({context(), *others}) == 4


def test_words_that_change_places_are_seen_within_and_across_blocks() -> None:
    words = torch.arange(2**20 + 10, dtype=torch.int32)
    swapped = words.clone()
    swapped[[3, 2**20 + 3]] = words[[2**20 + 3, 3]]
    assert bit_hash(words).tolist() != bit_hash(swapped).tolist()
    assert bit_hash(words).tolist() == bit_hash(words.clone()).tolist()


def test_the_context_follows_weights_and_settings() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    names = [*dict(model.named_parameters()), *dict(model.named_buffers())]
    context = context_of(model, names, "none")
    assert context == context_of(model, names, "none")
    assert context != context_of(model, names, "vision")
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-6
    changed = context_of(model, names, "none")
    assert changed != context
    model[1].running_mean += 1
    assert context_of(model, names, "none") != changed


def test_files_have_the_permissions_of_their_neighbors(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        make("disk", tmp_path / "cache").put("aa1", FEATURES)
    finally:
        os.umask(old)
    (file,) = [path for path in (tmp_path / "cache").rglob("*aa1*") if path.is_file()]
    assert file.stat().st_mode & 0o777 == 0o640
