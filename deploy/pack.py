"""Makes a bundle of an exported file: what the runtime needs to know is read off the graph."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deploy.detector import Detector, load_model
from deploy.errors import DeployError
from deploy.graph_facts import GraphFacts, Thresholds, graph_facts
from deploy.manifest import MANIFEST, SCHEMA, read_bundle, sha256_of

MODEL = "model.onnx"
RANGES = "ranges.json"
LABELS = "labels.txt"
_RUNTIME = "deploy"
_MAKING = (Path(__file__).name, "graph_facts.py")
_SCRIPT = '''"""Find objects: python detect.py IMAGE_OR_FOLDER [--json] [--out FOLDER]."""

import sys
from pathlib import Path

from deploy.main import main

sys.exit(main(Path(__file__).resolve().parent))
'''


def write_bundle(
    model: Path, target: str, folder: Path, limits: Thresholds, ranges: Path | None = None
) -> list[str]:
    """Write a bundle of the ONNX file ``model`` into ``folder``, which must be new or empty.

    Args:
        model: an exported file that carries ultralytics' metadata.
        target: the runtime that it was made for.
        folder: made if need be.
        limits: the thresholds of the bundle.
        ranges: scales and zero points of an INT8 file.

    Returns:
        The bundle's files relative to ``folder``, the manifest first.

    Raises:
        DeployError: the file is none that a bundle can run, or ``folder`` cannot be used.
    """
    _make_empty(folder)
    facts = _read_facts(model, limits)
    shutil.copyfile(model, folder / MODEL)
    if ranges is not None:
        shutil.copyfile(ranges, folder / RANGES)
    (folder / LABELS).write_text("".join(f"{name}\n" for name in facts.labels), encoding="utf-8")
    (folder / "detect.py").write_text(_SCRIPT, encoding="utf-8")
    _copy_runtime(folder / _RUNTIME)
    files = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    manifest = _manifest(folder, files, facts, target)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    Detector(read_bundle(folder))  # what cannot be loaded is no bundle
    return [MANIFEST, *files]


def _read_facts(model: Path, limits: Thresholds) -> GraphFacts:
    session = load_model(model, "")
    metadata = session.get_modelmeta().custom_metadata_map
    outputs = [list(output.shape) for output in session.get_outputs()]
    image = list(session.get_inputs()[0].shape)
    try:
        return graph_facts(metadata, image, outputs, limits)
    except ValueError as error:
        raise DeployError(
            f"'{model}' cannot be bundled: {error}. Take a file that the stage 'export' wrote, "
            "with `head: decoded` or `head: nms`"
        ) from error


def _manifest(folder: Path, files: list[str], facts: GraphFacts, target: str) -> dict[str, Any]:
    before = asdict(facts.preprocessing)
    size = [before.pop("height"), before.pop("width")]
    return {
        "schema": SCHEMA,
        "target": target,
        "model": MODEL,
        "labels": list(facts.labels),
        "preprocessing": {"letterbox": size, **before, "color": "RGB", "layout": "NCHW"},
        "postprocessing": {**asdict(facts.postprocessing), "strides": list(facts.strides)},
        "files": {
            name: {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}
            for name in files
        },
    }


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = any(folder.iterdir())
    except OSError as error:
        raise DeployError(f"'{folder}' cannot be written: {error.strerror}") from error
    if content:
        raise DeployError(f"'{folder}' is not empty: name another folder for the bundle")


def _copy_runtime(folder: Path) -> None:
    """This package without the parts that make bundles."""
    folder.mkdir()
    for module in Path(__file__).parent.glob("*.py"):
        if module.name not in _MAKING:
            shutil.copyfile(module, folder / module.name)
