"""Files that come with ultralytics, found without importing it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path


def ultralytics_folder() -> Path | None:
    """The folder of the installed package; None where it is not installed."""
    spec = importlib.util.find_spec("ultralytics")
    folders = spec.submodule_search_locations if spec else None
    return Path(next(iter(folders))) if folders else None


def default_arguments_file() -> Path | None:
    """The yaml of all arguments that ultralytics knows, with their defaults."""
    folder = ultralytics_folder()
    file = folder / "cfg" / "default.yaml" if folder else None
    return file if file and file.is_file() else None


def model_yamls() -> dict[str, Path]:
    """Model yamls by file name, such as ``yolov8.yaml``."""
    return _yamls("models")


def data_yamls() -> dict[str, Path]:
    """Data yamls by file name, such as ``VisDrone.yaml``."""
    return _yamls("datasets")


def without_scale(name: str) -> str:
    """The file behind the name of a model yaml: ``yolov8n-p2.yaml`` is ``yolov8-p2.yaml``.

    The letter after the version picks the scale inside the file, as ultralytics does it.
    """
    return re.sub(r"(\d+)([nslmx])(.+)?$", r"\1\3", name)


def datasets_folder() -> Path:
    """Where ultralytics looks for data sets with a relative ``path:``, by its settings."""
    settings = _settings_folder() / "Ultralytics" / "settings.json"
    try:
        folder = json.loads(settings.read_text(encoding="utf-8"))["datasets_dir"]
    except (OSError, ValueError, KeyError, TypeError):
        return Path("datasets").absolute()
    return Path(str(folder)).absolute()


def _yamls(kind: str) -> dict[str, Path]:
    folder = ultralytics_folder()
    files = sorted((folder / "cfg" / kind).rglob("*.yaml")) if folder else []
    return {file.name: file for file in files}


def _settings_folder() -> Path:
    if named := os.environ.get("YOLO_CONFIG_DIR"):
        return Path(named).expanduser()
    if sys.platform == "win32":
        return Path.home() / "AppData" / "Roaming"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
