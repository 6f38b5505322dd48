"""What the pipeline and a stage say to each other. No torch in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from compress.data.dataset import DataSet
from compress.progress import Progress


@dataclass(frozen=True)
class Artifact:
    """A file that a stage gave or the recipe named. ``sha256`` is of the file's bytes."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Context:
    """Where and on what a stage works.

    ``out`` is an empty temporary folder: what is left there becomes the stage's output.
    ``scratch`` outlives a kill: the same stage with the same key finds it again and goes on.
    ``shared`` is for what is measured once and used by many, such as times of layers: it outlives
    runs, every stage sees the same folder, and no key knows of it.
    """

    data: DataSet
    imgsz: int
    seed: int
    device: str
    workers: int
    out: Path
    scratch: Path
    shared: Path
    progress: Progress

    @property
    def first_device(self) -> str:
        """For all but training, which takes every GPU that ``device`` names."""
        return self.device.split(",")[0]


@dataclass(frozen=True)
class StageResult:
    """What a stage gives.

    ``files`` maps an artifact's name to its file inside ``Context.out``. ``metrics`` is JSON-able;
    keys the report and the gates know: ``params``, ``macs`` (counts), ``map50``, ``map50_95``
    (0 to 1, val split, PyTorch), ``channels`` (layer name -> [before, after]), ``curves``
    (name -> list of floats, one an epoch), ``bench`` (see ``stages/bench.py``), ``notes``.
    Of pruning: ``target`` (``resource``, ``keep`` asked for and ``kept``, shares of the parent's, 0
    to 1), ``macs_kept``, ``left_whole`` (block -> why), ``timing`` against the parent
    (``parent_ms``, ``ms``, ``speedup``, ``speedup_ci``, ``runtime``, ``threads``, ``blame``: rows
    of ``layer``, ``parent_ms``, ``ms``), ``steps`` (rows of ``keep``, ``macs_kept``,
    ``map50_95``) and ``sensitivity`` (``dense`` mAP and rows of ``layer``, ``drop``,
    ``map50_95``).
    """

    files: Mapping[str, str]
    metrics: Mapping[str, Any] = field(default_factory=dict)


class StageFunction(Protocol):
    """The one signature of all stages. ``inputs`` maps the names of ``pipeline.links``."""

    def __call__(
        self, config: Any, inputs: Mapping[str, Artifact], context: Context
    ) -> StageResult:
        """Do the stage's work and leave its files in ``context.out``."""
