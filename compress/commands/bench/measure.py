"""``compress bench FILE ...``: measure artifacts against each other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress import output
from compress.commands.bench.artifacts import Artifacts, expand, measured_accuracy, with_accuracy
from compress.commands.options import shape_of
from compress.errors import CompressError
from compress.faults import STOPPED, guarded

if TYPE_CHECKING:
    from bench.entries import Loader
    from bench.results.schema import BenchResult
    from bench.settings import Settings
    from compress.progress import ConsoleProgress

_PERCENT = 100
_ARTIFACTS = (".onnx", ".engine", ".xml", ".bin", ".pt", ".torchscript")


@dataclass(frozen=True)
class _Board:
    """A board to measure on. ``keep``: leave the files there."""

    host: str
    keep: bool
    ssh_options: Sequence[str]


@guarded
def measure(
    context: typer.Context,
    artifacts: Annotated[
        list[Path],
        typer.Argument(help="Exported files, run folders or bundles; the first file is the base"),
    ],
    runtime: Annotated[
        str,
        typer.Option(
            help="onnxruntime, onnxruntime-tensorrt, openvino, tensorrt or torch; or one a file, "
            "separated by commas [default: what fits file and device]"
        ),
    ] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda or jetson")] = "cpu",
    host: Annotated[
        str, typer.Option(help="Measure on this machine, reached by ssh: user@board")
    ] = "",
    index: Annotated[int, typer.Option(min=0, help="Which GPU")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of one inference")] = 1,
    min_seconds: Annotated[float, typer.Option(min=0, help="Least time of measuring")] = 5.0,
    min_count: Annotated[int, typer.Option(min=1, help="Least samples a file")] = 64,
    align: Annotated[
        str, typer.Option(help="Refuse channels that are no multiple of this, or of a device's")
    ] = "",
    shape: Annotated[
        str, typer.Option(help="Input of files that leave it open, such as 1,3,640,640")
    ] = "",
    streams: Annotated[
        int, typer.Option(min=0, help="Also throughput, with so many copies side by side")
    ] = 0,
    images: Annotated[
        Path | None, typer.Option(help="Also latency from image to boxes, on this folder's images")
    ] = None,
    energy_seconds: Annotated[
        float, typer.Option(min=0, help="How long a file runs alone to meter its energy; 0: not")
    ] = 5.0,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph/--no-cuda-graph", help="TensorRT: one launch a batch")
    ] = True,
    data: Annotated[
        Path | None, typer.Option(help="Also mAP of each file, on the data of this yaml")
    ] = None,
    split: Annotated[str, typer.Option(help="Of --data")] = "val",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the files on the --host")] = False,
    ssh_option: Annotated[
        list[str] | None, typer.Option(help="For ssh -o, such as Port=2222; repeatable")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Keep the result, a JSON file")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots")] = None,
    md: Annotated[Path | None, typer.Option(help="Write the table as Markdown")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout")
    ] = False,
) -> None:
    """Measure files against each other in one interleaved run."""
    from bench.results.text import render
    from bench.settings import Settings
    from compress.progress import ConsoleProgress

    settings = Settings(
        device=device,
        threads=threads,
        index=index,
        min_seconds=min_seconds,
        min_count=min_count,
        shape=_sizes(shape),
        align=_align(align),
        streams=streams,
        images=None if images is None else str(images),
        energy_seconds=energy_seconds,
        cuda_graph=cuda_graph,
    )
    if not host and (keep or ssh_option):
        raise CompressError("--keep and --ssh-option are of use with --host alone")
    board = _Board(host, keep, ssh_option or ()) if host else None
    with output.stdout_for_results():
        found = expand(artifacts, device, _one_each(runtime, len(artifacts)))
        _require_places(found.paths, [out, html, md])
        _require_split(data, split)
        result = _measured(found, settings, board, ConsoleProgress(quiet))
        _keep(result, out)  # before anything else can fail
        result = with_accuracy(result, found.accuracy)
        if data is not None and result["complete"]:
            accuracy, left_out = measured_accuracy(found, data, split)
            result = with_accuracy(result, accuracy)
            result["warnings"] += left_out
        result["warnings"] += found.notes
        _keep(result, out, html, md)
    if as_json:
        output.show_json(result)
    else:
        typer.echo(render(result))
    if not result["complete"]:
        raise typer.Exit(STOPPED)


def _require_places(artifacts: Sequence[Path], places: Sequence[Path | None]) -> None:
    """Refuse places for results that would lose something, or cannot be written."""
    files = [place for place in places if place is not None]
    for file in files:
        if files.count(file) > 1:
            raise CompressError(f"'{file}' is named twice: give each result a file of its own")
        if file.suffix in _ARTIFACTS or file in artifacts:
            raise CompressError(f"'{file}' is a place for a net, not for a result: name a .json")
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(b"")
            draft.unlink()
        except OSError as error:
            raise CompressError(f"'{file}' cannot be written: {error.strerror}") from error
        if file.is_dir():
            raise CompressError(f"'{file}' cannot be written: it is a folder")


def _require_split(data: Path | None, split: str) -> None:
    """Tell what is wrong with the data before anything is measured."""
    if data is None:
        return
    from compress.data.dataset import load_dataset, require_labels

    dataset = load_dataset(data)
    if split not in dataset.splits:
        raise CompressError(f"{data} has no {split} split: choose one of {list(dataset.splits)}")
    require_labels(dataset, split)


def _measured(
    found: Artifacts, settings: Settings, board: _Board | None, progress: ConsoleProgress
) -> BenchResult:
    from bench.remote.run import bench_on_host
    from bench.run import bench_files
    from compress.commands.bench.engines import read_source, with_engines

    if board is None:
        paths = with_engines(found.paths, found.runtimes, settings, progress.say)
        with progress.task("latency", _PERCENT) as bar:
            return bench_files(
                paths,
                settings,
                runtimes=found.runtimes,
                labels=found.labels,
                loaders=_loaders(),
                progress=bar.advance,
            )
    with progress.task(f"latency on {board.host}", _PERCENT) as bar:
        return bench_on_host(
            board.host,
            found.paths,
            settings,
            runtimes=found.runtimes,
            labels=found.labels,
            progress=bar.advance,
            keep=board.keep,
            ssh_options=board.ssh_options,
            read_source=read_source,
            tell=progress.say,
        )


def _loaders() -> Mapping[str, Loader]:
    from bench.entries import TORCH
    from compress.commands.bench.torch_loader import load_torch

    return {TORCH: load_torch}


def _keep(
    result: BenchResult, out: Path | None, html: Path | None = None, md: Path | None = None
) -> None:
    from bench.results.files import write_result
    from bench.results.page import result_page, write_page
    from bench.results.text import render

    if out is not None:
        write_result(out, result)
    if md is not None:
        write_page(md, f"{render(result, markdown=True)}\n")
    if html is not None:
        write_page(html, result_page(result))


def _sizes(text: str) -> list[int] | None:
    shape = shape_of(text)
    return None if shape is None else list(shape)


def _one_each(runtime: str, count: int) -> list[str] | None:
    """One runtime a file, of ``onnxruntime`` or ``onnxruntime,openvino``; None by default."""
    names = [name.strip() for name in runtime.split(",")]
    if not runtime:
        return None
    return names * count if len(names) == 1 else names


def _align(text: str) -> int | None:
    from bench.alignment.profiles import alignment_of

    if not text or text.isdecimal():
        return int(text) if text else None
    try:
        return alignment_of(text)
    except ValueError as error:
        raise CompressError(f"--align {error}") from error
