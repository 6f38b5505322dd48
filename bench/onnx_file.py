"""Reading ONNX files that may be damaged, and finding the one that an engine was built of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.optional import require


def load_onnx(path: Path) -> Any:
    """The ``ModelProto`` of a file; weights in files beside it are not read.

    Raises:
        BenchError: onnx is missing, or the file cannot be read.
    """
    onnx = require("onnx")
    try:
        return onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise BenchError(f"'{path}' cannot be read: {error.strerror}.") from error
    except Exception as error:  # protobuf raises kinds of its own
        raise BenchError(f"'{path}' is truncated or no ONNX file: export it again.") from error


def source_hash(engine: Path) -> str | None:
    """SHA-256 of the ONNX file that ``engine`` was built of, by the JSON beside it.

    None where there is none, or the engine was written anew without it.
    """
    try:
        facts = json.loads(engine.with_name(f"{engine.name}.json").read_text())
        if facts.get("engine_sha256", "") not in ("", _sha256(engine)):
            return None
        return str(facts["onnx_sha256"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def source_onnx(engine: Path) -> Path | None:
    """The ONNX file that an engine was built of, found by its hash in the engine's folder.

    The hash stands in the JSON that ``compress engine`` leaves beside the engine.
    """
    wanted = source_hash(engine)
    if wanted is None:
        return None
    files = sorted(engine.parent.glob("*.onnx"), key=lambda file: file.stem != engine.stem)
    return next((file for file in files if _sha256(file) == wanted), None)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
