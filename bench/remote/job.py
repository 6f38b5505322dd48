"""What a board is to do: the files to send, and the steps to run there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.alignment.check import require_alignment
from bench.builds import needs_engine
from bench.end_to_end import drawn_images
from bench.entries import ONNXRUNTIME, TENSORRT, Entry, entries_of, usual_runtime
from bench.errors import BenchError
from bench.onnx_file import source_onnx
from bench.remote.parcels import (
    Parcel,
    code_archive,
    code_files,
    parcel_of_bytes,
    parcel_of_file,
    parcel_of_json,
)
from bench.settings import Settings

if TYPE_CHECKING:
    # facts of an ONNX file, which can be read where there is the onnx package
    ReadSource = Callable[[Path], dict[str, Any]]

RESULT = "result.json"
_REQUEST, _CODE, _IMAGES = "request.json", "code.zip", "images"
_MANIFEST = "manifest.json"  # of a bundle
_PLAIN_IMAGES = {".bmp", ".npy", ".ppm"}  # that are read without Pillow
_MODULES = {"onnxruntime-tensorrt": ONNXRUNTIME}
_ID_LENGTH = 16


@dataclass(frozen=True)
class Step:
    """A process on the board, done when ``output`` is there. ``title`` is for people."""

    name: str
    arguments: tuple[str, ...]
    output: str
    title: str


@dataclass(frozen=True)
class Job:
    """``names`` maps files on the board to those here, ``built`` labels to engines made there."""

    id: str
    parcels: tuple[Parcel, ...]
    steps: tuple[Step, ...]
    modules: tuple[str, ...]
    names: dict[str, str]
    built: dict[str, str]


def make_job(
    paths: Sequence[Path],
    settings: Settings,
    runtimes: Sequence[str] | None,
    labels: Sequence[str] | None,
    align_labels: Collection[str] | None,
    read_source: ReadSource | None,
) -> Job:
    """See ``bench.remote.run.bench_on_host``; everything that can be checked here is.

    Raises:
        BenchAlignmentError: a file misses ``settings.align``.
        BenchError: a file cannot be read, or something does not fit.
    """
    builds = _builds(paths, settings, runtimes)
    files = _entries(paths, builds, settings, runtimes, labels)
    if settings.align is not None:
        require_alignment(files, settings.align, align_labels)
    images = [] if settings.images is None else _images(Path(settings.images), settings.seed)
    parcels, steps, built = [*images], [], {}
    for number, ((label, entry), build) in enumerate(zip(files.items(), builds)):
        parcels += _with_company(entry.path, f"files/{number}", bool(images))
        if build:
            built[label] = _there(number, entry.path.with_suffix(".engine"))
            step, papers = _build(number, entry.path, built[label], settings, read_source)
            steps.append(step)
            parcels += papers
    request = _request(files, built, settings)
    code = code_archive(code_files(deploy=bool(images), builder=bool(built)))
    parcels += [parcel_of_json(_REQUEST, request), parcel_of_bytes(_CODE, code)]
    steps.append(Step("bench", ("-m", "bench", _REQUEST, RESULT), RESULT, "measuring"))
    hashes = {parcel.name: parcel.sha256 for parcel in parcels}
    return Job(
        id=hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:_ID_LENGTH],
        parcels=tuple(parcels),
        steps=tuple(steps),
        modules=_modules(files, images),
        names=_names(parcels, files, built),
        built=built,
    )


def _there(number: int, path: Path) -> str:
    """Where a file lies on the board: each with its company in a folder of its own."""
    return f"files/{number}/{path.name}"


def _builds(
    paths: Sequence[Path], settings: Settings, runtimes: Sequence[str] | None
) -> list[bool]:
    chosen: list[str | None] = [*runtimes] if runtimes else [None] * len(paths)
    return [needs_engine(path, name, settings.device) for path, name in zip(paths, chosen)]


def _entries(
    paths: Sequence[Path],
    builds: Sequence[bool],
    settings: Settings,
    runtimes: Sequence[str] | None,
    labels: Sequence[str] | None,
) -> dict[str, Entry]:
    """The files by label, those to be built under the name of their engine."""
    if runtimes is None and any(builds):
        runtimes = [
            TENSORRT if build else usual_runtime(path, settings.device)
            for path, build in zip(paths, builds)
        ]
    targets = [
        path.with_suffix(".engine") if build else path
        for path, build in zip(paths, [*builds, *[False] * len(paths)])
    ]
    files = entries_of(targets, settings, runtimes, labels)
    return {label: replace(file, path=path) for (label, file), path in zip(files.items(), paths)}


def _with_company(path: Path, folder: str, for_boxes: bool) -> list[Parcel]:
    """A file, and what is read with it: weights of an IR, facts of an engine; how to read boxes."""
    company = [path]
    if path.suffix == ".xml":
        company.append(path.with_suffix(".bin"))
    if path.suffix == ".engine":
        company += _existing(path.with_name(f"{path.name}.json"))
    if for_boxes:
        company += [*_bundle_of(path), *_existing(source_onnx(path))]
    return [
        parcel_of_file(f"{folder}/{file.relative_to(path.parent).as_posix()}", file)
        for file in dict.fromkeys(company)
    ]


def _bundle_of(path: Path) -> list[Path]:
    """The files of the bundle that ``path`` lies in, if it does; a bundle is read as a whole."""
    manifest = path.with_name(_MANIFEST)
    try:
        names = [Path(name) for name in json.loads(manifest.read_text(encoding="utf-8"))["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    inside = [name for name in names if not name.is_absolute() and ".." not in name.parts]
    return [manifest, *_existing(*(path.parent / name for name in inside))]


def _existing(*files: Path | None) -> list[Path]:
    return [file for file in files if file is not None and file.is_file()]


def _build(
    number: int,
    path: Path,
    engine: str,
    settings: Settings,
    read_source: ReadSource | None,
) -> tuple[Step, list[Parcel]]:
    """The step that makes an engine there, and what it reads."""
    if read_source is None:
        raise BenchError(
            f"'{path}' has to become an engine first: use compress bench --host, which has the "
            "board build it."
        )
    source, wanted = f"builds/{number}.source.json", f"builds/{number}.settings.json"
    papers = [
        parcel_of_json(source, {**read_source(path), "path": _there(number, path)}),
        parcel_of_json(wanted, {"shape": settings.shape}),
    ]
    step = Step(
        name=f"build-{number}",
        arguments=("-m", "export.board_build", source, engine, wanted),
        output=f"{engine}.json",  # the last that is written
        title=f"building an engine of '{path}'",
    )
    return step, papers


def _images(source: Path, seed: int) -> list[Parcel]:
    """The images that are drawn, under names that keep their order."""
    from deploy.errors import DeployError

    try:
        files = drawn_images(source, seed)
    except DeployError as error:
        raise BenchError(f"{error}.") from error
    return [
        parcel_of_file(f"{_IMAGES}/{number:03}{file.suffix}", file)
        for number, file in enumerate(files)
    ]


def _request(
    files: Mapping[str, Entry], built: Mapping[str, str], settings: Settings
) -> dict[str, Any]:
    images = None if settings.images is None else _IMAGES
    return {
        "settings": asdict(replace(settings, align=None, images=images)),
        "files": [
            {
                "path": built.get(label, _there(number, entry.path)),
                "runtime": entry.runtime,
                "label": label,
            }
            for number, (label, entry) in enumerate(files.items())
        ],
    }


def _modules(files: Mapping[str, Entry], images: Sequence[Parcel]) -> tuple[str, ...]:
    """What the board's Python has to have."""
    runtimes = {_MODULES.get(entry.runtime, entry.runtime) for entry in files.values()}
    pillow = {Path(image.name).suffix.lower() for image in images} - _PLAIN_IMAGES
    return ("numpy", *sorted(runtimes), *(["PIL"] if pillow else []))


def _names(
    parcels: Sequence[Parcel], files: Mapping[str, Entry], built: Mapping[str, str]
) -> dict[str, str]:
    """Longer names first: an engine's is the beginning of that of its JSON."""
    names = {p.name: str(p.content) for p in parcels if isinstance(p.content, Path)}
    names.update({engine: str(files[label].path) for label, engine in built.items()})
    return dict(sorted(names.items(), key=lambda pair: -len(pair[0])))
