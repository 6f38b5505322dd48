from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline_fakes import Lines

from compress.pipeline.cache import MANIFEST, Entry, NotStored, StageCache
from compress.pipeline.contract import StageResult

KEY = "0123456789abcdef" * 4


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def cache(tmp_path: Path, lines: Lines) -> StageCache:
    return StageCache(tmp_path / "cache", lines)


def store(cache: StageCache, text: str = "weights", key: str = KEY) -> Entry:
    with cache.writing("prune", key) as folder:
        (folder / "model.pt").write_text(text)
        (folder / "sub").mkdir()
        (folder / "sub" / "part.bin").write_bytes(b"\0" * 10)
        result = StageResult(
            {"checkpoint": "model.pt", "part": "sub/part.bin"},
            {"map50": 0.5, "curves": {"loss": [1.0, float("nan")]}},
        )
        return cache.store(folder, key, result, {"stage": "prune", "seed": 0}, 1.5)


def test_what_is_stored_is_found_again(cache: StageCache) -> None:
    stored = store(cache)
    found = cache.load("prune", KEY)
    assert found == stored
    assert found.artifacts()["checkpoint"].path.read_text() == "weights"
    assert found.metrics == {"map50": 0.5, "curves": {"loss": [1.0, None]}}
    assert found.seconds == 1.5


def test_another_key_is_not_found(cache: StageCache, lines: Lines) -> None:
    store(cache)
    with pytest.raises(NotStored) as fault:
        cache.load("prune", "f" * 64)
    assert not fault.value.damage
    assert not lines.said


def test_keys_that_begin_alike_are_told_apart(cache: StageCache) -> None:
    store(cache)
    with pytest.raises(NotStored):
        cache.load("prune", KEY[:16] + "0" * 48)


def _flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / "model.pt").read_bytes())
    status = (folder / "model.pt").stat()
    content[0] ^= 1
    (folder / "model.pt").write_bytes(content)
    os.utime(folder / "model.pt", ns=(status.st_atime_ns, status.st_mtime_ns))


def _change_a_metric(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"map50": 0.5', '"map50": 0.9'))


def _empty_object(folder: Path) -> None:
    (folder / MANIFEST).write_text("{}")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte flipped, size and time kept": (_flip_a_byte, "model.pt has other bytes"),
    "cut short": (lambda at: os.truncate(at / "sub/part.bin", 4), "part.bin has another size"),
    "file gone": (lambda at: (at / "model.pt").unlink(), "model.pt is missing"),
    "manifest gone": (lambda at: (at / MANIFEST).unlink(), f"it has no {MANIFEST}"),
    "manifest cut": (lambda at: os.truncate(at / MANIFEST, 20), f"{MANIFEST} cannot be read"),
    "manifest a list": (lambda at: (at / MANIFEST).write_text("[]"), f"{MANIFEST} cannot be read"),
    "manifest empty": (_empty_object, f"{MANIFEST} cannot be read"),
    "metric edited": (_change_a_metric, f"{MANIFEST} was changed"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_a_miss_with_a_warning_and_can_be_replaced(
    cache: StageCache, lines: Lines, damage: str
) -> None:
    spoil, what = DAMAGES[damage]
    entry = store(cache)
    spoil(entry.folder)
    with pytest.raises(NotStored) as fault:
        cache.load("prune", KEY)
    assert fault.value.damage == what
    assert len(lines.said) == 1
    assert "warning" in lines.said[0]
    store(cache, "again")
    assert cache.load("prune", KEY).artifacts()["checkpoint"].path.read_text() == "again"


def test_failed_writing_leaves_the_old_result(cache: StageCache) -> None:
    old = store(cache)

    def fail() -> None:
        with cache.writing("prune", KEY) as folder:
            (folder / "model.pt").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert cache.load("prune", KEY) == old
    assert [path.name for path in old.folder.parent.iterdir()] == [old.folder.name]


def test_clean_removes_leftovers_but_not_those_of_a_living_writer(cache: StageCache) -> None:
    entries = store(cache).folder.parent
    for name in (".new-prune-1111", ".old-prune-2222", ".new-qat-3333"):
        (entries / name).mkdir()
    with cache.exclusive("qat", "3333"):
        cache.clean()
        left = {path.name for path in entries.iterdir()}
    assert left == {f"prune-{KEY[:16]}", ".new-qat-3333"}


def test_scratch_stays_until_it_is_dropped(cache: StageCache) -> None:
    (cache.scratch("qat", KEY) / "last.pt").write_text("epoch 3")
    assert (cache.scratch("qat", KEY) / "last.pt").read_text() == "epoch 3"
    assert not list(cache.scratch("qat", "f" * 64).iterdir())
    cache.drop_scratch("qat", KEY)
    cache.drop_scratch("qat", KEY)
    assert not list(cache.scratch("qat", KEY).iterdir())


def test_manifest_is_plain_json_with_the_key_material(cache: StageCache) -> None:
    manifest = json.loads((store(cache).folder / MANIFEST).read_text())
    assert manifest["key"] == KEY
    assert manifest["material"] == {"stage": "prune", "seed": 0}
    assert manifest["files"]["checkpoint"]["bytes"] == len("weights")
