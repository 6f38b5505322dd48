"""A model timed against its parent, both exported, in one interleaved run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from bench.conv_times.table import measured_table
from bench.loop import Minimum
from bench.profile.layer_times import Slower, share_of, slower_layers
from bench.profile.onnxruntime_times import node_times
from bench.run import bench_files
from bench.settings import Settings
from compress.models.exportable import exportable
from compress.progress import Progress
from compress.prune.latency import exported_convs, latency_cost
from compress.prune.solver import Cost
from export.float_onnx import export_float

RUNTIME = "onnxruntime"
_PROFILE = Minimum(seconds=2.0, count=11)
_PERCENT = 100
# of measuring: longer where other work on the machine blurs the result
_SECONDS = (5.0, 15.0, 45.0)
_NARROW = 0.04


@dataclass(frozen=True)
class Timing:
    """Median latencies in ms; ``speedup`` is parent / child, ``speedup_ci`` its 95 % interval.

    ``blame``: the layers that became slower, if the child did so beyond what noise explains.
    """

    parent_ms: float
    ms: float
    speedup: float
    speedup_ci: tuple[float, float]
    threads: int
    blame: tuple[Slower, ...] = ()

    @property
    def share(self) -> float:
        """What is left of the parent's time."""
        return 1 / self.speedup

    def sure(self, precise: bool) -> bool:
        """Whether the interval tells slower from faster; ``precise``: whether it is narrow."""
        low, high = self.speedup_ci
        narrow = high - low <= _NARROW * self.speedup
        return narrow or not (precise or low <= 1 <= high)

    @property
    def slower(self) -> bool:
        """Whether the child is slower than its parent beyond noise."""
        return self.speedup_ci[1] < 1

    def metrics(self) -> dict[str, Any]:
        """As the stage's ``metrics["timing"]``: plain values for JSON."""
        blame = [
            {"layer": entry.layer, "parent_ms": entry.base_ms, "ms": entry.ms}
            for entry in self.blame
        ]
        plain = {**asdict(self), "speedup_ci": list(self.speedup_ci), "blame": blame}
        return {**plain, "runtime": RUNTIME}


class ParentTimer:
    """Times children of one parent, which is exported once."""

    def __init__(
        self,
        parent: nn.Module,
        imgsz: int,
        threads: int,
        folder: Path,
        seed: int,
        progress: Progress,
    ) -> None:
        """Export ``parent``.

        Args:
            parent: in stock classes.
            imgsz: side of the input in pixels.
            threads: of the runtime inside one operator, >= 1.
            folder: for the exported files, which are written over.
            seed: of the random input and of the confidence interval.
            progress: where the measuring shows how far it is.

        Raises:
            ExportError: PyTorch cannot export it.
        """
        self._parent, self._imgsz, self._threads, self._seed = parent, imgsz, threads, seed
        self._folder, self._progress = folder, progress
        self._file = self._export(parent, "parent")

    def time(self, child: nn.Module, precise: bool = False) -> Timing:
        """Measure ``child`` against the parent, longer where other work blurs the result.

        Args:
            child: in stock classes.
            precise: go on until the ratio itself is sure, not only who is the faster one.

        Raises:
            ExportError: PyTorch cannot export it.
            BenchError: ONNX Runtime cannot run it.
        """
        files = [self._file, self._export(child, "child")]
        timing = self._measured(files, _SECONDS[0])
        for seconds in _SECONDS[1:]:
            if timing.sure(precise):
                break
            timing = self._measured(files, seconds)
        return replace(timing, blame=self._blame(files)) if timing.slower else timing

    def cost(self, tables: Path) -> Cost:
        """Time as a cost of the parent's channels.

        Args:
            tables: folder of the tables of layer times; what is missing is measured and added.

        Raises:
            BenchError: ONNX Runtime cannot run a layer.
        """
        convs = exported_convs(self._parent, self._imgsz)
        shapes = {name: conv.shape for name, conv in convs.items()}
        operators = self._operators([self._file])[0]
        share = share_of((conv.layer for conv in convs.values()), operators)
        with self._progress.task("times of single layers", _PERCENT) as bar:
            table = measured_table(shapes.values(), tables, self._threads, bar.advance)
        return latency_cost(shapes, table, 1 - share)

    def _measured(self, files: Sequence[Path], seconds: float) -> Timing:
        with self._progress.task("latency against the parent", _PERCENT) as bar:
            result = bench_files(
                files,
                Settings(
                    threads=self._threads,
                    min_seconds=seconds,
                    seed=self._seed,
                    energy_seconds=0,
                ),
                progress=bar.advance,
            )
        parent_row, row = result["rows"]
        low, high = row["speedup_ci"]
        return Timing(
            parent_ms=parent_row["latency_ms"]["p50"],
            ms=row["latency_ms"]["p50"],
            speedup=row["speedup"],
            speedup_ci=(low, high),
            threads=self._threads,
        )

    def _export(self, model: nn.Module, name: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.onnx"
        export_float(exportable(model), self._imgsz, path)
        return path

    def _operators(self, files: Sequence[Path]) -> list[dict[str, float]]:
        models = {path.stem: path for path in files}
        times = node_times(models, threads=self._threads, minimum=_PROFILE, seed=self._seed)
        return [times[path.stem] for path in files]

    def _blame(self, files: Sequence[Path]) -> tuple[Slower, ...]:
        return tuple(slower_layers(*self._operators(files)))
