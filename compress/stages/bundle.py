"""Stage ``bundle``: a folder that detects on a device without torch and without this project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from compress.errors import CompressError
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.recipe.schema import BundleStage
from compress.recipe.sections import Target
from deploy.graph_facts import Thresholds
from deploy.pack import write_bundle

_GRAPH = "graph."
_FOLDER = "bundle"
_INT8 = {target: f"int8-{target}" for target in get_args(Target)}


def run(config: BundleStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Bundle the INT8 graph of the recipe's target, or the chain's last float graph.

    Raises:
        DeployError: the graph is none that a bundle can run.
    """
    graphs = {k.removeprefix(_GRAPH): a.path for k, a in inputs.items() if k.startswith(_GRAPH)}
    name = chosen_graph(list(graphs), config.target)
    ranges = inputs["ranges"].path if "ranges" in inputs and name in _INT8.values() else None
    folder = context.out / _FOLDER
    limits = Thresholds(config.score, config.iou, config.max_boxes)
    manifest, *others = write_bundle(graphs[name], config.target, folder, limits, ranges)
    paths = [f"{_FOLDER}/{file}" for file in others]
    return StageResult(
        {"bundle": f"{_FOLDER}/{manifest}", **{path: path for path in paths}},
        {"notes": [f"holds {name}, {_megabytes(folder)} in all: python detect.py IMAGE"]},
    )


def chosen_graph(names: list[str], target: str) -> str:
    """The INT8 graph for ``target``; of a chain that was not quantized the last float graph.

    Raises:
        CompressError: if INT8 graphs are there, but for other targets.
    """
    if _INT8[target] in names:
        return _INT8[target]
    made = [name for name in names if name in _INT8.values()]
    if made:
        raise CompressError(
            f"bundle: there is no INT8 file for {target}, but {', '.join(made)}. List {target} "
            "under `targets` of the export stage, or choose another `target` for the bundle."
        )
    return names[-1]


def _megabytes(folder: Path) -> str:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return f"{size / 1e6:.1f} MB"
