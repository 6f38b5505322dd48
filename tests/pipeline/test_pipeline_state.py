"""A damaged state of a training is no state: the training begins anew, and says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from slow import slow

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from compress.models.build import build_model  # noqa: E402
from compress.models.trainer import Training, TrainingJob, train  # noqa: E402
from compress.models.training_state import read_state, write_state  # noqa: E402


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "junk": lambda file: file.write_bytes(b"junk"),
    "empty": lambda file: file.write_bytes(b""),
    "no mapping": lambda file: torch.save(torch.zeros(2), file),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("state.pt", "best_weights.pt"):
        write_state({"epoch": 1, "weights": torch.arange(4.0)}, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("name", ["state.pt", "best_weights.pt"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_either_file_ends_both(folder: Path, damage: str, name: str) -> None:
    DAMAGE[damage](folder / name)
    with pytest.warns(UserWarning, match=f"{name} is damaged"):
        assert read_state(folder / "state.pt") is None
    assert not list(folder.glob("*.pt"))


def test_whole_states_are_read_and_missing_ones_are_none(folder: Path) -> None:
    state = read_state(folder / "state.pt")
    assert state is not None
    assert state["weights"].tolist() == [0, 1, 2, 3]
    assert read_state(folder / "none.pt") is None
    (folder / "best_weights.pt").unlink()
    assert read_state(folder / "state.pt") is not None


@pytest.mark.parametrize("name", ["state.pt", *slow("best_weights.pt")])
def test_a_training_over_damaged_files_ends_like_a_fresh_one(
    data_yaml: Path, net_yaml: Path, tmp_path: Path, name: str
) -> None:
    from small_nets import IMGSZ, NAMES, Silent

    def once() -> Training:
        arguments = {"epochs": 1, "batch": 8, "optimizer": "SGD", "lr0": 0.01}
        job = TrainingJob(data_yaml, 16, IMGSZ, 0, "cpu", 0, tmp_path, arguments)
        return train(build_model(net_yaml, NAMES, 0), job, Silent(), "t")

    first = SimpleNamespace(**vars(once()))
    truncate(tmp_path / name)
    with pytest.warns(UserWarning, match="begins anew"):
        again = once()
    assert all(torch.equal(again.weights[key], value) for key, value in first.weights.items())
