"""Peaks and memory bandwidths of NVIDIA's Jetson modules, from vendors' documents.

Sources are named as vendor and document; none was read off a board. Peaks are dense: data sheets of
Orin and Thor print the sparse number, twice as high. The two DLA cores of a module are not summed:
one engine runs on one core. Bandwidth is shared by CPU, GPU and DLA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Board:
    """What one compute unit of a module can do at most.

    ``int8_tops`` and ``fp16_tflops`` count 10^12 operations a second, two a multiply-accumulate;
    None where the unit has no such arithmetic. ``gb_per_s``: 10^9 bytes a second of memory.
    ``confirmed``: whether ``source`` holds all numbers in so many words; else some are arithmetic
    of cores and clocks, or another precision's, never a lower one.
    """

    module: str
    mode: str
    unit: str
    int8_tops: float | None
    fp16_tflops: float
    gb_per_s: float
    source: str
    confirmed: bool


_TABLE = "NVIDIA, Jetson modules (comparison of data sheets)"
_ORIN_BRIEF = "NVIDIA, Jetson AGX Orin Series Technical Brief"
_ORIN_NANO = "NVIDIA, Jetson Orin Nano Series Data Sheet (DS-11105)"
_SUPER = "NVIDIA, JetPack 6.2 Super Mode announcement"
_DLA = "NVIDIA/Deep-Learning-Accelerator-SW, README"
# an SM of Orin's GPU does 2048 INT8 and 1024 FP16 multiply-accumulates a clock
_ORIN_CLOCKS = "arithmetic of SMs x clock x 4096 INT8 operations"

_NANO = Board("Jetson Nano", "MAXN", "GPU", None, 0.472, 25.6, _TABLE, True)
_TX2 = Board("Jetson TX2", "MAXN", "GPU", None, 1.33, 59.7, _TABLE, True)
_XAVIER_NX = Board(
    "Jetson Xavier NX",
    "20W",
    "GPU",
    13.5,
    6.8,
    59.7,
    f"{_TABLE}; peaks: arithmetic of 6 SMs x 1.1 GHz",
    False,
)
_AGX_XAVIER = Board("Jetson AGX Xavier", "MAXN", "GPU", 22, 11, 136.5, _TABLE, True)
_ORIN_NANO_4 = Board(
    "Jetson Orin Nano 4GB", "10W", "GPU", 10, 5, 34, f"{_ORIN_NANO}; FP16: half of INT8", False
)
_ORIN_NANO_8 = Board(
    "Jetson Orin Nano 8GB", "15W", "GPU", 20, 10, 68, f"{_ORIN_NANO}; FP16: half of INT8", False
)
_ORIN_NX_8 = Board(
    "Jetson Orin NX 8GB",
    "20W",
    "GPU",
    25.1,
    12.5,
    102.4,
    f"{_TABLE}; {_ORIN_CLOCKS} (8 x 765 MHz)",
    False,
)
_ORIN_NX_16 = Board(
    "Jetson Orin NX 16GB",
    "25W",
    "GPU",
    30.1,
    15,
    102.4,
    f"{_TABLE}; {_ORIN_CLOCKS} (8 x 918 MHz)",
    False,
)
_AGX_ORIN_32 = Board(
    "Jetson AGX Orin 32GB",
    "MAXN",
    "GPU",
    53.3,
    26.7,
    204.8,
    f"{_TABLE}; {_ORIN_CLOCKS} (14 x 930 MHz)",
    False,
)
_AGX_ORIN_64 = Board(
    "Jetson AGX Orin 64GB", "MAXN", "GPU", 85.5, 42.7, 204.8, f"{_DLA}; FP16: half of INT8", False
)
_THOR = Board(
    "Jetson AGX Thor (T5000)",
    "MAXN",
    "GPU",
    517,
    258,
    273,
    "NVIDIA, Jetson Thor (2070 TFLOPS of sparse FP4); INT8 is not published: FP8's peak, FP16 half",
    False,
)


def _dla(board: Board, int8_tops: float, source: str) -> Board:
    """One DLA core of the same module; its FP16 is not published, and is less than its INT8."""
    return replace(
        board,
        unit="DLA, one core",
        int8_tops=int8_tops,
        fp16_tflops=int8_tops,
        source=f"{source}; FP16 is not published: INT8's peak",
        confirmed=False,
    )


def _orin_mode(mode: str, int8_tops: float) -> Board:
    return replace(_AGX_ORIN_64, mode=mode, int8_tops=int8_tops, fp16_tflops=int8_tops / 2)


BOARDS: Mapping[str, Board] = {
    "nano": _NANO,
    "tx2": _TX2,
    "xavier-nx": _XAVIER_NX,
    "agx-xavier": _AGX_XAVIER,
    "agx-xavier-dla": _dla(_AGX_XAVIER, 5.7, f"{_ORIN_BRIEF} (11.4 of two cores)"),
    "orin-nano-4gb": _ORIN_NANO_4,
    "orin-nano-4gb-super": replace(
        _ORIN_NANO_4,
        mode="MAXN_SUPER",
        int8_tops=16.7,
        fp16_tflops=8.4,
        gb_per_s=51,
        source=f"{_SUPER}; {_ORIN_CLOCKS} (4 x 1020 MHz)",
    ),
    "orin-nano-8gb": _ORIN_NANO_8,
    "orin-nano-8gb-super": replace(
        _ORIN_NANO_8,
        mode="MAXN_SUPER",
        int8_tops=33.4,
        fp16_tflops=16.7,
        gb_per_s=102,
        source=f"{_SUPER} (67 sparse); FP16: half of INT8",
    ),
    "orin-nx-8gb": _ORIN_NX_8,
    "orin-nx-8gb-super": replace(
        _ORIN_NX_8,
        mode="MAXN_SUPER",
        int8_tops=38.4,
        fp16_tflops=19.2,
        source=f"{_SUPER}; {_ORIN_CLOCKS} (8 x 1173 MHz)",
    ),
    "orin-nx-16gb": _ORIN_NX_16,
    "orin-nx-16gb-super": replace(
        _ORIN_NX_16,
        mode="MAXN_SUPER",
        int8_tops=38.4,
        fp16_tflops=19.2,
        source=f"{_SUPER}; {_ORIN_CLOCKS} (8 x 1173 MHz)",
    ),
    "orin-nx-8gb-dla": _dla(_ORIN_NX_8, 10, f"{_TABLE} (20 sparse of 70)"),
    "orin-nx-16gb-dla": _dla(_ORIN_NX_16, 10, f"{_DLA} (40 sparse of two cores)"),
    "orin-nx-16gb-super-dla": _dla(
        replace(_ORIN_NX_16, mode="MAXN_SUPER"), 20, f"{_SUPER} (80 sparse of two cores)"
    ),
    "agx-orin-32gb": _AGX_ORIN_32,
    "agx-orin-64gb": _AGX_ORIN_64,
    "agx-orin-64gb-50w": _orin_mode("50W", 54.5),
    "agx-orin-64gb-30w": _orin_mode("30W", 20.5),
    "agx-orin-64gb-15w": _orin_mode("15W", 7),
    "agx-orin-64gb-dla": _dla(_AGX_ORIN_64, 26.2, f"{_DLA} (105 sparse of two cores)"),
    "agx-orin-64gb-50w-dla": _dla(_orin_mode("50W", 54.5), 23, f"{_DLA} (92 sparse of two cores)"),
    "agx-orin-64gb-30w-dla": _dla(
        _orin_mode("30W", 20.5), 22.5, f"{_DLA} (90 sparse of two cores)"
    ),
    "agx-orin-64gb-15w-dla": _dla(_orin_mode("15W", 7), 10, f"{_DLA} (40 sparse of two cores)"),
    "agx-thor": _THOR,
}


def boards_document() -> str:
    """The text of ``docs/roofline.md``."""
    rows = [
        f"| `{name}` | {board.module} | {board.mode} | {board.unit} | {_tera(board.int8_tops)} | "
        f"{_tera(board.fp16_tflops)} | {board.gb_per_s:g} | "
        f"{board.source} | {'yes' if board.confirmed else 'in part'} |"
        for name, board in BOARDS.items()
    ]
    return "\n".join([_DOCUMENT, *rows, ""])


def _tera(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


_DOCUMENT = """\
# Roofline

```
compress bench roofline int8-tensorrt.onnx --board orin-nano-8gb-super --board agx-orin-64gb
```

How fast a net can be at most on a board that is not here: of every convolution and matrix product
the larger of its MACs by the board's peak and its bytes by the board's bandwidth. **An estimate
from data sheets, not a measurement.** Real engines are slower, by a factor that differs from net
to net and that nobody here knows; measure with `compress bench` on the board.

- *by layers*: the sum over layers, if each reads its input and weights from memory and writes its
  output back once. A cache that holds a tensor from one layer to the next can beat it where memory
  bounds a layer.
- *at least*: the larger of all MACs by the peak, and of weights and image by the bandwidth. Tensors
  between layers are taken as free, so nothing beats it.
- INT8 layers count the INT8 peak and a byte a value, all others FP16's and two bytes, FP32 files
  too: engines run float layers in FP16. Where a board has no INT8 (Nano, TX2), all count FP16.
- Activations, Concat, Resize, pooling, decoding and NMS count nothing: fused at best.
- Where a peak is not published (FP16 of the DLA, INT8 of Thor), that of a faster precision stands
  in: the floor gets lower, never too high.

Peaks are dense (data sheets of Orin and Thor print sparse ones), of one unit: what GPU and DLA can
do together is of no use to one engine, nor are two DLA cores. Clocks below the mode's highest lower
the peak in proportion, and modes that slow the memory down lower the bandwidth, which stands here
at its highest.

This file is written by `python -m bench.roofline.boards > docs/roofline.md`. Most documents were
read as others quote them, and no number was checked on a board; "in part" says that some are
arithmetic.

| name | module | mode | unit | INT8 TOPS | FP16 TFLOPS | GB/s | source | confirmed |
|-|-|-|-|-|-|-|-|-|"""


if __name__ == "__main__":
    print(boards_document(), end="")
