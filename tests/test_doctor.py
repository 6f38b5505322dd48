from __future__ import annotations

import re
from pathlib import Path

import pytest

from compress import doctor
from compress.doctor import EXTRAS, Check, examine, extra_of, table

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def by_name(root: Path) -> dict[str, Check]:
    return {check.name: check for check in examine(root)}


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda module: None)


def test_extras_are_those_of_the_package() -> None:
    declared = PYPROJECT.read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    lists = dict(re.findall(r"^(\w+) = \[(.*?)\]", declared, re.DOTALL | re.MULTILINE))
    assert set(EXTRAS) <= set(lists)
    for extra, packages in EXTRAS.items():
        names = set(re.findall(r'"([A-Za-z-]+)', lists[extra]))
        assert {name for name in names if not name.startswith("types-")} == set(packages)


@pytest.mark.usefixtures("nothing_installed")
def test_what_is_missing_comes_with_the_command(tmp_path: Path) -> None:
    found = by_name(tmp_path)
    assert found["train"].lacks["torch"] == "pip install 'yolo-compress[train]'"
    assert found["cpu"].lacks == {"onnxruntime": "pip install 'yolo-compress[train]'"}
    assert found["tensorrt"].lacks.keys() == {"tensorrt", "pycuda"}
    assert not found["train"].have


def test_what_is_here_has_a_version(tmp_path: Path) -> None:
    assert re.match(r"\d+\.", by_name(tmp_path)["dev"].have["pytest"])


def test_devices_are_recognised_by_their_files(tmp_path: Path) -> None:
    assert "a Jetson" in by_name(tmp_path)["jetson"].lacks
    assert "an NVIDIA GPU with its driver" in by_name(tmp_path)["cuda"].lacks
    for file in ("etc/nv_tegra_release", "proc/driver/nvidia/version"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("")
    assert "a Jetson" not in by_name(tmp_path)["jetson"].lacks
    assert "an NVIDIA GPU with its driver" not in by_name(tmp_path)["cuda"].lacks


def test_module_leads_to_its_extra() -> None:
    assert extra_of("torch.nn") == "train"
    assert extra_of("torch_pruning") == "train"
    assert extra_of("pycuda") == "tensorrt"
    assert extra_of("compress.stages.train") == ""


def test_every_lack_stands_beside_its_own_mend() -> None:
    lacks = {"a GPU": "buy one", "torch for CUDA": "get it", "tensorrt": "pip", "pycuda": "pip"}
    grid = table([Check("device", "cuda", {"torch": "2.0", "numpy": "1.0"}, lacks)])
    columns = [list(column.cells) for column in grid.columns]
    rows = [tuple(str(cell) for cell in row) for row in zip(*columns, strict=True)]
    assert [row[3:] for row in rows] == list(lacks.items())
    assert [row[:3] for row in rows[:3]] == [
        ("device", "cuda", "torch 2.0"),
        ("", "", "numpy 1.0"),
        ("", "", ""),
    ]
    assert not any("\n" in cell for row in rows for cell in row)


def test_nothing_lacking_says_so() -> None:
    (row,) = zip(
        *(column.cells for column in table([Check("b", "n", {}, {})]).columns), strict=True
    )
    assert [str(cell) for cell in row] == ["b", "n", "", "nothing", ""]
