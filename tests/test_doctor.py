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
    assert "--host" in by_name(tmp_path)["jetson"].lacks["a Jetson"]
    assert "an NVIDIA GPU with its driver" in by_name(tmp_path)["cuda"].lacks
    files = {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.7, GCID: 1, BOARD: generic",
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Module  535.129.03  Thu Oct 19",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = by_name(tmp_path)
    assert found["jetson"].have == {"Jetson Orin Nano 8GB": "(L4T 36.4.7)"}
    assert found["cuda"].have == {"NVIDIA driver": "535.129.03"}
    assert "a Jetson" not in found["jetson"].lacks
    assert "an NVIDIA GPU with its driver" not in found["cuda"].lacks


@pytest.mark.usefixtures("nothing_installed")
def test_boards_need_not_have_pycuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_library", lambda name: None)
    monkeypatch.setattr(doctor, "find_command", lambda name: None)
    library = tmp_path / "usr/local/cuda/lib64/libcudart.so.11.0"
    library.parent.mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R35 (release), REVISION: 4.1, GCID: 1")
    lacks = by_name(tmp_path)["jetson"].lacks
    assert lacks.keys() == {
        "nvpmodel",
        "jetson_clocks",
        "tegrastats",
        "tensorrt",
        "pycuda or libcudart",
    }
    library.write_text("")
    assert "pycuda or libcudart" not in by_name(tmp_path)["jetson"].lacks
    assert "pycuda or libcudart" not in by_name(tmp_path)["cuda"].lacks


def test_module_leads_to_its_extra() -> None:
    assert extra_of("torch.nn") == "train"
    assert extra_of("torch_pruning") == "train"
    assert extra_of("pycuda") == "tensorrt"
    assert extra_of("pynvml") == "cuda"
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
