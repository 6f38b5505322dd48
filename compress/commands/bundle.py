"""``compress bundle``: a deployment bundle from a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from compress import output
from compress.errors import CompressError
from compress.faults import guarded


@guarded
def bundle(
    context: typer.Context,
    run_folder: Annotated[Path, typer.Argument(help="The folder of a run with exported files")],
    target: Annotated[
        str, typer.Option(help="Runtime of the device: onnxruntime, tensorrt or openvino")
    ] = "onnxruntime",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the bundle [default: RUN_FOLDER/bundle]")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout")
    ] = False,
) -> None:
    """Make a folder that runs on a device: INT8 graph, labels, settings, hashes, a runtime."""
    from compress.recipe.sections import Target
    from compress.stages.bundle import chosen_graph
    from deploy.graph_facts import Thresholds
    from deploy.pack import write_bundle

    if target not in get_args(Target):
        raise CompressError(f"--target {target}: choose one of {', '.join(get_args(Target))}")
    graphs, ranges = files_of_run(run_folder)
    name = chosen_graph(list(graphs), target)
    folder = out or run_folder / "bundle"
    with output.stdout_for_results():
        int8_ranges = ranges if name.startswith("int8-") else None
        files = write_bundle(graphs[name], target, folder, Thresholds(), int8_ranges)
    fields = {"bundle": str(folder), "graph": name, "target": target, "files": files}
    if as_json:
        output.show_json(fields)
    else:
        output.show_fields({**fields, "try": f"compress predict {folder} IMAGE_OR_FOLDER"})


def files_of_run(folder: Path) -> tuple[dict[str, Path], Path | None]:
    """The last export's graphs by name, and the last ranges file, if any.

    Raises:
        CompressError: the run has no graphs, or one is not as the run left it.
    """
    from compress.pipeline.files import read_json
    from compress.pipeline.job import RECORD

    stages = read_json(folder / RECORD).get("stages", [])
    exports = [stage["files"] for stage in stages if stage["stage"] == "export"]
    if not exports:
        raise CompressError(
            f"'{folder}' is no run with exported files: name the folder of a run (runs/RECIPE) "
            "whose recipe has the stage 'export'"
        )
    graphs = {name: _checked(folder, file) for name, file in exports[-1].items()}
    ranges = [stage["files"]["ranges"] for stage in stages if "ranges" in stage["files"]]
    return graphs, _checked(folder, ranges[-1]) if ranges else None


def _checked(folder: Path, file: Mapping[str, Any]) -> Path:
    from compress.pipeline.files import sha256_of

    path = folder / str(file["path"])
    if not path.is_file() or sha256_of(path) != file["sha256"]:
        raise CompressError(
            f"'{path}' is not what the run left there. Run the recipe again: what is cached is put "
            "back without work"
        )
    return path
