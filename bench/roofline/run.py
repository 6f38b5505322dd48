"""A file's floor on boards, as a value and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.onnx_file import source_onnx
from bench.roofline.boards import BOARDS, Board
from bench.roofline.floor import Floor, floor_of
from bench.text_table import text_table
from bench.work import NetWork, work_of

SCHEMA = 1
WARNING = (
    "ESTIMATE from data sheets, NOT a measurement. Real engines are slower, by a factor that is "
    "unknown here: measure on the board."
)
_HALF = 16  # engines for these boards compute float layers in FP16
_SHOWN_LAYERS = 3


@dataclass(frozen=True)
class Roofline:
    """One file on several boards, by their names."""

    file: str
    net: NetWork
    floors: dict[str, Floor]

    def as_json(self) -> dict[str, Any]:
        """Ready for ``json.dumps``; every floor is under ``estimate``."""
        return {
            "schema": SCHEMA,
            "kind": "roofline",
            "warning": WARNING,
            "file": self.file,
            "macs": self.net.macs,
            "estimates": [
                {"name": name, "board": asdict(BOARDS[name]), "estimate": _estimate(floor)}
                for name, floor in self.floors.items()
            ],
        }


def roofline_of(
    path: Path, boards: Sequence[str] = (), shape: Sequence[int] | None = None
) -> Roofline:
    """The floor of an ONNX file, or of the one that an engine was built of.

    Args:
        path: ``.onnx``, or an ``.engine`` with its ONNX file and JSON beside it.
        boards: names of ``bench.roofline.boards.BOARDS``; none for all.
        shape: of the input, where the file leaves it open.

    Raises:
        BenchError: a board is not known, or the file's work cannot be read.
    """
    unknown = sorted(set(boards) - BOARDS.keys())
    if unknown:
        raise BenchError(f"Board '{unknown[0]}' is not known; known are {', '.join(BOARDS)}.")
    graph = _graph(path)
    net = work_of(graph, shape, float_bits=_HALF)
    as_float = work_of(graph, shape, float_bits=_HALF, int8=False)
    floors = {}
    for name in boards or BOARDS:
        board = BOARDS[name]
        floors[name] = floor_of((as_float if board.int8_tops is None else net).layers, board)
    return Roofline(str(path), net, floors)


def render_roofline(roofline: Roofline) -> str:
    """The table of boards, and what bounds the net."""
    net = roofline.net
    int8 = sum(layer.macs for layer in net.layers if layer.int8)
    head = ("board", "mode", "unit", "at least ms", "by layers ms", "bound by compute", "by memory")
    rows = [_row(name, BOARDS[name], floor) for name, floor in roofline.floors.items()]
    return "\n".join(
        [
            WARNING,
            "",
            f"{roofline.file}: {net.macs / 1e9:.2f} GMACs, {int8 / net.macs:.0%} of them INT8; "
            f"weights {sum(layer.weight_bytes for layer in net.layers) / 1e6:.1f} MB; one batch",
            text_table(head, rows, left=3),
            "",
            "at least: tensors between layers cost nothing. by layers: each passes memory once; "
            "shares are of this.",
            *_remarks(roofline),
            "Numbers of the boards and their sources: docs/roofline.md",
        ]
    )


def _graph(path: Path) -> Path:
    if path.suffix == ".onnx":
        return path
    source = source_onnx(path) if path.suffix == ".engine" else None
    if source is None:
        raise BenchError(
            f"'{path}': MACs and bytes are read from .onnx files, or from the one that an .engine "
            "was built of, if it lies beside it with the engine's JSON."
        )
    return source


def _row(name: str, board: Board, floor: Floor) -> tuple[str, ...]:
    share = floor.compute_bound_share
    return (
        name,
        board.mode,
        board.unit,
        f"{floor.least_ms:.3f}",
        f"{floor.by_layers_ms:.3f}",
        f"{share:.0%}",
        f"{1 - share:.0%}",
    )


def _remarks(roofline: Roofline) -> list[str]:
    remarks = []
    int8 = any(layer.int8 for layer in roofline.net.layers)
    without = [name for name in roofline.floors if BOARDS[name].int8_tops is None]
    if int8 and without:
        remarks.append(f"No INT8 arithmetic on {', '.join(without)}: all layers count as FP16.")
    if len(roofline.floors) == 1:
        [floor] = roofline.floors.values()
        longest = sorted(floor.layers, key=lambda layer: -layer.ms)[:_SHOWN_LAYERS]
        named = [
            f"{layer.work.module or layer.work.operator} {layer.ms:.3f} ms "
            f"({'compute' if layer.compute_bound else 'memory'})"
            for layer in longest
        ]
        remarks.append(f"Longest layers: {', '.join(named)}.")
    return remarks


def _estimate(floor: Floor) -> dict[str, Any]:
    return {
        "least_ms": floor.least_ms,
        "by_layers_ms": floor.by_layers_ms,
        "compute_bound_share": floor.compute_bound_share,
        "layers": [
            {
                **asdict(layer.work),
                "compute_ms": layer.compute_ms,
                "memory_ms": layer.memory_ms,
            }
            for layer in floor.layers
        ],
    }
