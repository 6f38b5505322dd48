"""What the user names to be measured: files, run folders, bundles; and what runs know of mAP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.entries import ONNXRUNTIME, OPENVINO, TENSORRT, TORCH, label_of, usual_runtime
from bench.onnx_file import source_onnx
from compress.errors import CompressError

if TYPE_CHECKING:
    from bench.results.schema import BenchResult

Scores = dict[str, dict[str, float]]  # split -> ``map50`` and ``map50_95``
# (SHA-256 of a file, runtime that it was rated in) -> scores
Accuracy = Mapping[tuple[str, str], Scores]

_RUN, _BUNDLE = "run.json", "manifest.json"
_INT8 = "int8-"
_SCORES = ("map50", "map50_95")
_OF_ONNX = "mAP of the ONNX file that it was built of"


@dataclass(frozen=True)
class Artifacts:
    """Files with the runtime and the label of each, and the mAP that runs measured of them."""

    paths: tuple[Path, ...]
    runtimes: tuple[str, ...]
    labels: tuple[str, ...]
    accuracy: Accuracy
    notes: tuple[str, ...]


@dataclass
class _Found:
    """One file to measure. ``home`` is the folder that tells files of the same name apart."""

    path: Path
    runtime: str
    name: str
    home: str


@dataclass
class _Gathered:
    files: list[_Found] = field(default_factory=list)
    accuracy: dict[tuple[str, str], Scores] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def expand(
    named: Sequence[Path], device: str = "cpu", runtimes: Sequence[str] | None = None
) -> Artifacts:
    """The files behind what the user named.

    A file stays what it is. A run folder gives its last export: float files, and each INT8 file in
    the runtime that it was made for, with its float parent there. A bundle gives its model.

    Args:
        named: files, run folders and bundles.
        device: what will compute: ``cpu``, ``cuda`` or ``jetson``.
        runtimes: what runs each of ``named``; None for what fits it and the device.

    Raises:
        CompressError: a folder is neither a run nor a bundle, a run has no exported files, or one
            is not as the run left it.
        BenchError: nothing reads such a file.
        DeployError: a bundle is damaged.
    """
    if runtimes is not None and len(runtimes) != len(named):
        raise CompressError(
            f"--runtime names {len(runtimes)} runtimes for {len(named)} artifacts: give one for "
            "all, or one for each"
        )
    gathered = _Gathered()
    for place, path in enumerate(named):
        wanted = None if runtimes is None else runtimes[place]
        if (path / _RUN).is_file():
            _add_run(gathered, path, device, wanted)
        elif (path / _BUNDLE).is_file():
            _add_bundle(gathered, path, device, wanted)
        elif path.is_dir():
            raise CompressError(
                f"'{path}' is neither a run folder (it has no {_RUN}) nor a bundle (no {_BUNDLE}). "
                "Name the exported files themselves"
            )
        else:
            runtime = wanted or _usual(path, device)
            gathered.files.append(_Found(path, runtime, path.stem, path.absolute().parent.name))
            _add_accuracy(gathered, path)
    return Artifacts(
        paths=tuple(file.path for file in gathered.files),
        runtimes=tuple(file.runtime for file in gathered.files),
        labels=tuple(_labels(gathered.files)),
        accuracy=gathered.accuracy,
        notes=tuple(gathered.notes),
    )


def with_accuracy(result: BenchResult, accuracy: Accuracy) -> BenchResult:
    """``result`` with the mAP of each file that ``accuracy`` knows, by its hash and its runtime.

    An engine has that of the ONNX file that it was built of, and a note that says so.
    """
    rows = []
    for row in result["rows"]:
        own = accuracy.get((row["sha256"], _rating_runtime(row["runtime"])))
        source = accuracy.get((row["source_sha256"] or "", ONNXRUNTIME))
        found, notes = own or source, list(row["notes"])
        if found is None:
            rows.append(row)
            continue
        if own is None:
            notes = [*dict.fromkeys([*notes, _OF_ONNX])]
        scores = {split: dict(scores) for split, scores in found.items()}
        rows.append({**row, "map": {**row["map"], **scores}, "notes": notes})
    return {**result, "rows": rows}  # type: ignore[typeddict-item]


def measured_accuracy(
    artifacts: Artifacts, data: Path, split: str = "val", device: str = "cpu"
) -> tuple[Accuracy, list[str]]:
    """The mAP of every ONNX file among ``artifacts``, measured here and now on ``data``.

    A file is rated in the runtime that it is measured in, an engine by the ONNX file that it was
    built of, in ONNX Runtime. What cannot be rated is left out.

    Args:
        artifacts: as ``expand`` gives them.
        data: a data yaml.
        split: of ``data``.
        device: of the evaluation.

    Returns:
        The mAP by hash and runtime, and why files are not in it.

    Raises:
        CompressError: the yaml, its images or its labels are not there.
    """
    from compress.data.dataset import load_dataset, require_labels
    from compress.models.evaluate import evaluate
    from compress.pipeline.files import sha256_of

    dataset = load_dataset(data)
    if split not in dataset.splits:
        raise CompressError(
            f"{data} has no {split} split: choose one of {', '.join(dataset.splits)}"
        )
    require_labels(dataset, split)
    found: dict[tuple[str, str], Scores] = {}
    left_out = []
    for path, runtime in zip(artifacts.paths, artifacts.runtimes, strict=True):
        try:
            file, size = _to_rate(path)
        except _Unratable as reason:
            left_out.append(f"'{path}' has no mAP: {reason}")
            continue
        rated_in = OPENVINO if runtime == OPENVINO else ONNXRUNTIME
        key = sha256_of(file), rated_in
        if key not in found:
            score = evaluate(file, dataset.yaml, size, split, device=device, runtime=rated_in)  # type: ignore[arg-type]
            found[key] = {split: {"map50": score.map50, "map50_95": score.map50_95}}
    return found, left_out


class _Unratable(Exception):
    """Why a file has no mAP."""


def _to_rate(path: Path) -> tuple[Path, int]:
    """The ONNX file whose mAP is that of ``path``, and its image size.

    Raises:
        _Unratable: there is none, or it cannot be rated.
    """
    from compress.models.head_form import kind_of_file

    file = source_onnx(path) if path.suffix == ".engine" else path
    if file is None:
        raise _Unratable("the ONNX file that it was built of is not beside it")
    if file.suffix != ".onnx":
        raise _Unratable(f"only ONNX files and engines of them are rated, not {file.suffix} files")
    if kind_of_file(file) == "raw":
        raise _Unratable("its head is raw")
    size = _image_size(file)
    if size is None:
        raise _Unratable("it does not take square images of a fixed size")
    return file, size


def _image_size(file: Path) -> int | None:
    """Height and width of the input, where they are one number."""
    import onnx

    graph = onnx.load(str(file), load_external_data=False).graph
    sizes = [size.dim_value for size in graph.input[0].type.tensor_type.shape.dim]
    return int(sizes[2]) if len(sizes) == 4 and sizes[2] == sizes[3] > 0 else None


def _add_run(gathered: _Gathered, folder: Path, device: str, wanted: str | None) -> None:
    from compress.commands.bundle import files_of_run
    from compress.stages.bench_plan import plan_shots

    graphs, _ = files_of_run(folder)
    home = folder.absolute().name
    runtime = wanted or (None if device == "cpu" else TENSORRT)
    if runtime is None:
        plan = plan_shots(graphs)
        gathered.notes += plan.warnings
        gathered.files += [
            _Found(shot.path, shot.runtime, label, home) for label, shot in plan.timed.items()
        ]
    else:
        gathered.files += [
            _Found(path, runtime, name, home)
            for name, path in graphs.items()
            if not name.startswith(_INT8) or name == f"{_INT8}{runtime.partition('-')[0]}"
        ]
    _merge(gathered, _accuracy_of_run(folder))


def _add_bundle(gathered: _Gathered, folder: Path, device: str, wanted: str | None) -> None:
    from deploy.manifest import read_bundle

    bundle = read_bundle(folder)
    made_for = {"cpu": OPENVINO, "cuda": TENSORRT}.get(device)
    runtime = wanted or (
        bundle.target if bundle.target == made_for else _usual(bundle.model, device)
    )
    name = label_of(folder.absolute().name, runtime)
    gathered.files.append(_Found(bundle.model, runtime, name, folder.absolute().parent.name))
    _add_accuracy(gathered, bundle.model)


def _usual(path: Path, device: str) -> str:
    """What runs ``path``, an ONNX file on a Jetson as the engine that is built of it there."""
    if path.suffix == ".pt":
        return TORCH
    if path.suffix == ".onnx" and device == "jetson":
        return TENSORRT
    return usual_runtime(path, device)


def _add_accuracy(gathered: _Gathered, path: Path) -> None:
    """What the run knows in whose folder ``path`` lies."""
    for folder in path.absolute().parents[:2]:
        if (folder / _RUN).is_file():
            _merge(gathered, _accuracy_of_run(folder))


def _merge(gathered: _Gathered, found: Accuracy) -> None:
    for key, scores in found.items():
        gathered.accuracy.setdefault(key, {}).update(scores)


def _accuracy_of_run(folder: Path) -> Accuracy:
    """What the run's bench stages measured; each rated the files of the export before it."""
    from compress.pipeline.files import read_json

    found: dict[tuple[str, str], Scores] = {}
    hashes: dict[str, str] = {}
    for stage in read_json(folder / _RUN).get("stages") or []:
        if stage.get("stage") == "export":
            hashes = {name: str(file["sha256"]) for name, file in stage["files"].items()}
        for row in ((stage.get("metrics") or {}).get("bench") or {}).get("rows") or []:
            digest = hashes.get(str(row.get("graph")).removesuffix(f"@{OPENVINO}"))
            scores = {split: _scores(values) for split, values in (row.get("map") or {}).items()}
            if digest and scores:
                # what was rated but not timed has no runtime: it was rated in ONNX Runtime
                runtime = _rating_runtime(str(row.get("runtime") or "")) or ONNXRUNTIME
                found.setdefault((digest, runtime), {}).update(scores)
    return found


def _rating_runtime(name: str) -> str:
    """The one of the two that rate files which a row's runtime is, such as ``OpenVINO 2025.1``."""
    if name.startswith("OpenVINO"):
        return OPENVINO
    return ONNXRUNTIME if name.startswith("ONNX Runtime") else ""


def _scores(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(values[name]) for name in _SCORES if name in values}


def _labels(files: Sequence[_Found]) -> list[str]:
    """Names; those that several files have begin with the folder, or then with a number."""
    labels = [_with_runtime(file) for file in files]
    twice = {label for label in labels if labels.count(label) > 1}
    labels = [
        f"{file.home}/{label}" if label in twice else label
        for file, label in zip(files, labels, strict=True)
    ]
    twice = {label for label in labels if labels.count(label) > 1}
    return [
        f"{label}#{labels[:place].count(label) + 1}" if label in twice else label
        for place, label in enumerate(labels)
    ]


def _with_runtime(file: _Found) -> str:
    """Names of runs' and bundles' files tell the runtime already where they need to."""
    plain = "@" in file.name or file.name.startswith(_INT8) or file.runtime == TENSORRT
    return file.name if plain else label_of(file.name, file.runtime)
