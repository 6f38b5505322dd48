"""What the user names to be measured: files, run folders, bundles; and what runs know of mAP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.entries import OPENVINO, TENSORRT, TORCH, label_of, usual_runtime
from compress.errors import CompressError

if TYPE_CHECKING:
    from bench.results.schema import BenchResult

# SHA-256 of a file -> split -> ``map50`` and ``map50_95``
Accuracy = Mapping[str, Mapping[str, Mapping[str, float]]]

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
    accuracy: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
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
    """``result`` with the mAP of each file that ``accuracy`` knows, by its hash.

    An engine has that of the ONNX file that it was built of, and a note that says so.
    """
    rows = []
    for row in result["rows"]:
        own, source = accuracy.get(row["sha256"]), accuracy.get(row["source_sha256"] or "")
        found, notes = own or source, list(row["notes"])
        if found is None:
            rows.append(row)
            continue
        if own is None:
            notes.append(_OF_ONNX)
        scores = {split: dict(scores) for split, scores in found.items()}
        rows.append({**row, "map": {**row["map"], **scores}, "notes": notes})
    return {**result, "rows": rows}  # type: ignore[typeddict-item]


def measured_accuracy(
    artifacts: Artifacts, data: Path, split: str = "val", device: str = "cpu"
) -> tuple[Accuracy, list[str]]:
    """The mAP of every ONNX file among ``artifacts``, measured here and now on ``data``.

    An engine is rated by the ONNX file of its name beside it. What cannot be rated is left out.

    Args:
        artifacts: as ``expand`` gives them.
        data: a data yaml.
        split: of ``data``.
        device: of the evaluation.

    Returns:
        The mAP by hash, and why files are not in it.

    Raises:
        CompressError: the yaml, its images or its labels are not there.
    """
    from compress.data.dataset import load_dataset, require_labels
    from compress.models.evaluate import evaluate
    from compress.models.head_form import kind_of_file
    from compress.pipeline.files import sha256_of

    dataset = load_dataset(data)
    if split not in dataset.splits:
        raise CompressError(
            f"{data} has no {split} split: choose one of {', '.join(dataset.splits)}"
        )
    require_labels(dataset, split)
    found: dict[str, dict[str, dict[str, float]]] = {}
    left_out = []
    for path, runtime in zip(artifacts.paths, artifacts.runtimes, strict=True):
        file = path.with_suffix(".onnx")
        if not file.is_file():
            left_out.append(f"'{path}' has no mAP: there is no '{file.name}' beside it to rate")
            continue
        digest = sha256_of(file)
        if digest in found:
            continue
        if kind_of_file(file) == "raw":
            left_out.append(f"'{path}' has no mAP: its head is raw")
            continue
        size = _image_size(file)
        if size is None:
            left_out.append(f"'{path}' has no mAP: it does not take square images of a fixed size")
            continue
        rated_in = "openvino" if runtime == OPENVINO else "onnxruntime"
        score = evaluate(file, dataset.yaml, size, split, device=device, runtime=rated_in)  # type: ignore[arg-type]
        found[digest] = {split: {"map50": score.map50, "map50_95": score.map50_95}}
    return found, left_out


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


def _merge(gathered: _Gathered, found: Mapping[str, dict[str, dict[str, float]]]) -> None:
    for digest, scores in found.items():
        gathered.accuracy.setdefault(digest, {}).update(scores)


def _accuracy_of_run(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """What the run's bench stages measured, by the hashes of the files that they rated."""
    from compress.pipeline.files import read_json

    stages = read_json(folder / _RUN).get("stages") or []
    hashes = {
        name: str(file["sha256"])
        for stage in stages
        if stage.get("stage") == "export"
        for name, file in stage["files"].items()
    }
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in _bench_rows(stages):
        digest = hashes.get(str(row.get("graph")))
        scores = {split: _scores(values) for split, values in (row.get("map") or {}).items()}
        if digest and scores:
            found.setdefault(digest, scores)
    return found


def _bench_rows(stages: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    benches = [(stage.get("metrics") or {}).get("bench") or {} for stage in stages]
    return [row for bench in benches for row in bench.get("rows") or []]


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
