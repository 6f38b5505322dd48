"""``python3 -m export.board_build SOURCE.json ENGINE SETTINGS.json``: build an engine on a board.

The board needs TensorRT and nothing else: what only the onnx package can tell of the file stands in
``SOURCE.json``, see ``export.tensorrt_source``. Why there is no engine is told on stderr, as a line
``@fault {"error": ..., "exit_code": ...}``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from export.errors import ExportError
from export.tensorrt_engine import EngineSettings, build_from
from export.tensorrt_source import load_source

_FAULT = "@fault "


def main(source: str, engine: str, settings: str) -> int:
    """Exit code: 0 with an engine, else that of the fault."""
    try:
        build_from(load_source(Path(source)), Path(engine), _settings(Path(settings)))
    except ExportError as error:
        fault = {"error": str(error), "exit_code": error.exit_code}
        sys.stderr.write(f"{_FAULT}{json.dumps(fault)}\n")
        return error.exit_code
    return 0


def _settings(path: Path) -> EngineSettings:
    try:
        shape = json.loads(path.read_text(encoding="utf-8"))["shape"]
        return EngineSettings(shape=None if shape is None else tuple(shape))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{path}: no settings that can be read: {error}.") from error


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit("usage: python3 -m export.board_build SOURCE.json ENGINE SETTINGS.json")
    raise SystemExit(main(*sys.argv[1:]))
