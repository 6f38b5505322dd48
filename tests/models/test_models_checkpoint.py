"""Checkpoints: foreign pickles are refused unread, damage is named, equal weights, equal bytes."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.errors import CompressError
from compress.models.checkpoint import (
    class_names,
    foreign_names,
    load_checkpoint,
    save_checkpoint,
)

HERE = Path(__file__).parent


class Call:
    """Unpickled, it calls ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def makes_folder(path: Path) -> Call:
    return Call(os.mkdir, str(path))


def makes_folder_through_ultralytics(path: Path) -> Call:
    from ultralytics.utils.files import increment_path

    return Call(increment_path, str(path), False, "", True)


def makes_folder_through_torch(path: Path) -> Call:
    return Call(torch.hub.os.makedirs, str(path))


PAYLOADS = [makes_folder, makes_folder_through_ultralytics, makes_folder_through_torch]
PLACES: dict[str, Callable[[nn.Module, Any], Any]] = {
    "beside the model": lambda net, call: {"model": net, "train_args": {"task": call}},
    "as the model": lambda net, call: {"model": call},
    "as the average": lambda net, call: {"model": net, "ema": call},
    "inside the model": lambda net, call: {"model": _with_attribute(net, call)},
    "at the top": lambda net, call: call,
}


def _with_attribute(net: nn.Module, value: object) -> nn.Module:
    net.extra = value
    return net


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_that_names_foreign_code_is_refused_before_it_runs(
    payload: Callable[[Path], Call], place: str, net: nn.Module, tmp_path: Path
) -> None:
    trace, file = tmp_path / "it-ran", tmp_path / "bad.pt"
    torch.save(PLACES[place](net, payload(trace)), file)
    with pytest.raises(CompressError, match="refused before loading") as caught:
        load_checkpoint(file)
    assert not trace.exists()
    assert str(file) in str(caught.value)
    assert foreign_names(file)[0] in str(caught.value)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_payloads_of_these_tests_do_run_where_nothing_guards(
    payload: Callable[[Path], Call], tmp_path: Path
) -> None:
    trace, file = tmp_path / "it-ran", tmp_path / "bad.pt"
    torch.save({"model": payload(trace)}, file)
    torch.load(file, weights_only=False)
    assert trace.is_dir()


def _shortened(good: bytes, share: float) -> bytes:
    return good[: int(len(good) * share)]


def _without_pickle(good: bytes) -> bytes:
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/version", "3")
    return buffer.getvalue()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "one byte": lambda good: good[:1],
    "first half": lambda good: _shortened(good, 0.5),
    "all but the end": lambda good: _shortened(good, 0.99),
    "text": lambda good: b"version https://git-lfs.github.com/spec/v1\n",
    "zeros": lambda good: bytes(4096),
    "zip without pickle": _without_pickle,
    "bare pickle": lambda good: pickle.dumps({"model": 1}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(damage: str, net: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    save_checkpoint(net, file)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(CompressError, match="not a readable PyTorch checkpoint") as caught:
        load_checkpoint(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}]
)
def test_other_formats_of_torch_are_named(
    options: dict[str, Any], net: nn.Module, tmp_path: Path
) -> None:
    file = tmp_path / "old.pt"
    torch.save({"model": net}, file, **options)
    with pytest.raises(CompressError, match=r"old\.pt: not a readable PyTorch checkpoint"):
        load_checkpoint(file)


def test_no_damage_gets_through_as_another_kind_of_error(tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    torch.save({"model": nn.Conv2d(1, 1, 1), "epoch": -1, "names": {0: "a"}}, file)
    good = np.frombuffer(file.read_bytes(), np.uint8)
    random = np.random.default_rng(0)
    for _ in range(150):
        bad = good.copy()
        where = random.integers(0, len(bad), int(random.integers(1, 6)))
        bad[where] = random.integers(0, 256, len(where))
        file.write_bytes(bad.tobytes())
        with pytest.raises(CompressError, match=r"net\.pt"):
            load_checkpoint(file)


@pytest.mark.parametrize(
    "content",
    [
        {"epoch": 3},
        {"model": None, "ema": None},
        {"model": {"weight": torch.zeros(2)}},
        {"model": nn.Conv2d(3, 8, 1)},
        [1, 2],
        torch.zeros(3),
        None,
    ],
    ids=["no model", "empty", "state dict", "other module", "list", "tensor", "nothing"],
)
def test_a_torch_file_without_a_yolo_model_is_named(content: object, tmp_path: Path) -> None:
    file = tmp_path / "other.pt"
    torch.save(content, file)
    with pytest.raises(CompressError, match=r"other\.pt: holds no YOLO model"):
        load_checkpoint(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match=r"none\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")


def test_what_is_saved_is_loaded(net: nn.Module, tmp_path: Path) -> None:
    save_checkpoint(net, tmp_path / "net.pt")
    loaded = load_checkpoint(tmp_path / "net.pt")
    assert not loaded.training
    assert class_names(loaded) == class_names(net)
    assert loaded.yaml == net.yaml
    ours, theirs = loaded.state_dict(), net.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_half_precision_averages_of_ultralytics_are_loaded_as_float32(
    net: nn.Module, tmp_path: Path
) -> None:
    average = deepcopy(net).half()
    torch.save({"model": None, "ema": average, "epoch": 7}, tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.model[0].conv.weight, average.model[0].conv.weight.float())


def test_saving_leaves_the_model_alone(net: nn.Module, tmp_path: Path) -> None:
    net.train().requires_grad_(True)
    net.criterion = sentinel = object()
    before = deepcopy(net.state_dict())
    save_checkpoint(net, tmp_path / "net.pt")
    assert net.training
    assert net.criterion is sentinel
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_equal_weights_give_equal_bytes_whatever_happened_to_the_model(
    net: nn.Module, tmp_path: Path
) -> None:
    first, second = tmp_path / "a.pt", tmp_path / "other name.pt"
    save_checkpoint(net, first)
    trained = deepcopy(net).train().requires_grad_(True)
    trained.pt_path, trained.args = "/somewhere/x.pt", {"task": "detect", "lr0": 0.1}
    trained.criterion = object()
    for parameter in trained.parameters():
        parameter.grad = torch.ones_like(parameter)
    save_checkpoint(trained, second)
    assert digest(first) == digest(second)
    net.model[0].conv.weight.data[0, 0, 0, 0] += 1e-6
    save_checkpoint(net, first)
    assert digest(first) != digest(second)


def test_a_loaded_checkpoint_is_saved_as_it_was_in_any_process(
    net: nn.Module, tmp_path: Path
) -> None:
    source, here, there = (tmp_path / f"{name}.pt" for name in ("source", "here", "there"))
    save_checkpoint(net, source)
    save_checkpoint(load_checkpoint(source), here)
    script = (
        "from pathlib import Path\n"
        "from compress.models.checkpoint import load_checkpoint, save_checkpoint\n"
        f"save_checkpoint(load_checkpoint(Path({str(source)!r})), Path({str(there)!r}))\n"
    )
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)
    assert digest(here) == digest(there)


def test_a_write_that_fails_leaves_the_old_file(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "net.pt"
    save_checkpoint(net, file)
    before = digest(file)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    net.model[0].conv.weight.data += 1
    for target, name in ((Path, "write_bytes"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, full)
            with pytest.raises(OSError, match="No space"):
                save_checkpoint(net, file)
        assert digest(file) == before
