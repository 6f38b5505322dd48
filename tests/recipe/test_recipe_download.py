"""Downloads go through ultralytics; whatever goes wrong there is one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from compress.errors import CompressError
from compress.models.download import fetch_dataset, fetch_weights


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for the parts of ultralytics that download."""
    module = ModuleType("ultralytics")
    for name in ("", ".utils", ".utils.downloads", ".data", ".data.utils"):
        monkeypatch.setitem(sys.modules, f"ultralytics{name}", module)
    vars(module)["GITHUB_ASSETS_NAMES"] = frozenset({"yolov8n.pt"})
    return module


def refuse(*args: Any, **kwargs: Any) -> None:
    raise ConnectionError("no network")


def test_released_weights_arrive_in_the_folder(upstream: ModuleType, tmp_path: Path) -> None:
    def attempt(file: str) -> str:
        Path(file).write_bytes(b"weights")
        return file

    vars(upstream)["attempt_download_asset"] = attempt
    assert fetch_weights("yolov8n.pt", tmp_path).read_bytes() == b"weights"


def test_weights_that_were_never_released_are_not_tried(
    upstream: ModuleType, tmp_path: Path
) -> None:
    vars(upstream)["attempt_download_asset"] = refuse
    with pytest.raises(CompressError, match=r"'best\.pt' is not among the weights"):
        fetch_weights("best.pt", tmp_path)


@pytest.mark.parametrize("attempt", [refuse, str])
def test_weights_that_do_not_arrive(upstream: ModuleType, tmp_path: Path, attempt: object) -> None:
    vars(upstream)["attempt_download_asset"] = attempt
    with pytest.raises(CompressError, match=r"could not be downloaded: no(thing arrived| network)"):
        fetch_weights("yolov8n.pt", tmp_path)


def test_images_are_fetched_by_their_yaml(upstream: ModuleType, tmp_path: Path) -> None:
    def check(yaml: Path, autodownload: bool) -> dict[str, Any]:
        return {"path": yaml.parent / "images"} if autodownload else {}

    vars(upstream)["check_det_dataset"] = check
    assert fetch_dataset(tmp_path / "Fly.yaml") == tmp_path / "images"
    vars(upstream)["check_det_dataset"] = refuse
    with pytest.raises(CompressError, match=r"'Fly\.yaml' could not be downloaded: no network"):
        fetch_dataset(tmp_path / "Fly.yaml")
