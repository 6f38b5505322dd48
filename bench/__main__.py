"""``python3 -m bench REQUEST.json RESULT.json``: what a board runs; see ``bench.remote``.

The request holds ``settings`` (fields of ``bench.settings.Settings``) and ``files``, each with
``path``, ``runtime`` and ``label``. On stderr, lines ``@progress N`` tell new percent points, and
``@fault {"error": ..., "exit_code": ...}`` why there is no result. A signal to end gives a result
that is marked as incomplete.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.results.files import write_result
from bench.results.schema import BenchResult
from bench.run import bench_files
from bench.settings import Settings
from bench.worker_lines import FAULT, PROGRESS


def run(request: dict[str, Any]) -> BenchResult:
    """Measure what ``request`` names.

    Raises:
        BenchError: it is no request, or what it names cannot be measured.
    """
    try:
        settings = Settings(**request["settings"])
        paths = [Path(file["path"]) for file in request["files"]]
        runtimes = [str(file["runtime"]) for file in request["files"]]
        labels = [str(file["label"]) for file in request["files"]]
    except (KeyError, TypeError) as error:
        raise BenchError(f"the request is not one of this version: {error}.") from error
    return bench_files(
        paths,
        settings,
        runtimes=runtimes,
        labels=labels,
        progress=lambda points: _say(f"{PROGRESS}{points}"),
    )


def main(request_file: str, result_file: str) -> int:
    """Exit code: 0 with a result, else that of the fault."""
    try:
        write_result(Path(result_file), run(_read(Path(request_file))))
    except BenchError as error:
        _say(f"{FAULT}{json.dumps({'error': str(error), 'exit_code': error.exit_code})}")
        return error.exit_code
    return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        request: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"'{path}' is no request that can be read: {error}.") from error
    return request


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python3 -m bench REQUEST.json RESULT.json")
    raise SystemExit(main(*sys.argv[1:]))
