"""How a file's outputs are read: off the bundle that it lies in, or the ONNX file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.onnx_file import source_onnx
from bench.onnx_metadata import read_onnx_metadata

if TYPE_CHECKING:
    from deploy.manifest import Postprocessing, Preprocessing

_RAW = "raw"


def processing_of(
    path: Path, image: Sequence[int], outputs: Sequence[Sequence[int]]
) -> tuple[Preprocessing, Postprocessing]:
    """What happens to an image before and behind the file ``path``.

    Args:
        path: an ``.onnx`` file, or what was made of one that lies beside it.
        image: shape of its input.
        outputs: shapes of its outputs.

    Raises:
        BenchError: nothing says how its outputs are read, or they are not boxes.
    """
    from deploy.errors import DeployError
    from deploy.graph_facts import Thresholds, graph_facts
    from deploy.manifest import MANIFEST, read_bundle

    if (path.parent / MANIFEST).is_file():
        try:
            bundle = read_bundle(path.parent)
        except DeployError as error:
            raise BenchError(f"{error}.") from error
        if bundle.model.stem == path.stem:
            return bundle.preprocessing, bundle.postprocessing
    metadata = _metadata_of(path)
    if metadata.get("head") == _RAW:
        raise BenchError(
            f"'{path}' gives the head's raw maps: there are no boxes to read. Export it with "
            "`head: decoded` or `head: nms` for the end-to-end latency, or leave --images out."
        )
    try:
        facts = graph_facts(metadata, list(image), [list(shape) for shape in outputs], Thresholds())
    except ValueError as error:
        raise BenchError(
            f"'{path}': its boxes cannot be read: {error}. Take a file that `compress run` or "
            "ultralytics exported, or leave --images out."
        ) from error
    return facts.preprocessing, facts.postprocessing


def _metadata_of(path: Path) -> Mapping[str, str]:
    facts = _engine_facts(path)
    if facts.get("metadata") and isinstance(facts["metadata"], dict):
        return {str(key): str(value) for key, value in facts["metadata"].items()}
    onnx = _onnx_of(path, facts)
    if onnx is None:
        raise BenchError(
            f"'{path}': nothing says how its outputs are read. Put the ONNX file that it was made "
            "of beside it, or leave --images out."
        )
    try:
        return read_onnx_metadata(onnx)
    except (OSError, ValueError) as error:
        raise BenchError(f"'{onnx}': its metadata cannot be read: {error}.") from error


def _engine_facts(path: Path) -> Mapping[str, Any]:
    """The JSON beside an engine; empty where there is none."""
    try:
        facts = json.loads(path.with_name(f"{path.name}.json").read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _onnx_of(path: Path, facts: Mapping[str, Any]) -> Path | None:
    """``path`` itself, or the ONNX file beside it that it was made of."""
    if path.suffix == ".onnx":
        return path
    beside = path.with_suffix(".onnx")
    if facts or not beside.is_file():  # the JSON of an engine names the hash of its ONNX file
        return source_onnx(path)
    return beside
