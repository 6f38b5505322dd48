"""What decides a stage's result, and the key made of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bench.devices.machine import read_machine
from compress.pipeline.files import canonical_json, jsonable
from compress.pipeline.job import Job
from compress.pipeline.links import Input, Step

_MISSING = "not set"
_CPU = "cpu"
_WORKED_ON_IT = frozenset({"checkpoint", "sensitivity"})  # trained or measured on the device
_TEACHERS = {"distill": {"teachers": {"__all__": {"model"}}, "unlabeled": {"images"}}}
_NOT_IN_KEY: Any = {"name": True, "accept": True, "recover": _TEACHERS, **_TEACHERS}


def key_material(step: Step, job: Job, inputs: Mapping[str, Input]) -> dict[str, Any]:
    """Everything that changes the stage's result, and nothing else.

    Left out: its name, its gates (checked anew on every run), the references of teachers and
    unlabeled images (their hashes are among the inputs), paths, workers, and which of several GPUs
    is used. The user's own layers count in every stage.
    """
    config = step.config.model_dump(mode="json", exclude=_NOT_IN_KEY)
    if step.kind.measured_gates:
        config["accept"] = {
            name: getattr(step.config.accept, name) for name in step.kind.measured_gates
        }
    material = {
        "stage": step.kind.name,
        "version": step.kind.version,
        "config": config,
        "inputs": {name: item.artifact.sha256 for name, item in inputs.items()},
        "data": job.fingerprint,
        "imgsz": job.recipe.imgsz,
        "seed": job.recipe.seed,
        "versions": installed_versions(step.kind.libraries),
    }
    if job.modules is not None:
        material["modules"] = job.modules.sha256
    device = device_kind(job.recipe.device)
    if device != _CPU and _WORKED_ON_IT.intersection(step.kind.gives):
        material["device"] = device
    if step.kind.per_machine(step.config):
        machine = read_machine()
        material["machine"] = {"cpu": machine.cpu, "cores": machine.usable_cores}
    return dict(jsonable(material))


def device_kind(device: str) -> str:
    """``cpu``, ``mps``, ``cuda`` for one GPU of any number, ``cuda x 2`` for two.

    How many there are changes a result: each normalises over its own share of a batch.
    """
    count = len(device.split(","))
    if count > 1:
        return f"cuda x {count}"
    return device if device in (_CPU, "mps") else "cuda"


def key_of(material: Mapping[str, Any]) -> str:
    """SHA-256 of the material, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(material).encode()).hexdigest()


def installed_versions(distributions: Sequence[str]) -> dict[str, str]:
    """Version of each distribution, ``absent`` where there is none; nothing is imported."""
    return {name: _version(name) for name in distributions}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed from one key material to another, each change in a few words."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    changes = [
        _describe(path, before.get(path, _MISSING), after.get(path, _MISSING))
        for path in dict.fromkeys((*before, *after))
        if before.get(path, _MISSING) != after.get(path, _MISSING)
    ]
    return list(dict.fromkeys(changes))


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def _describe(path: str, before: Any, after: Any) -> str:
    section, _, rest = path.partition(".")
    if section == "inputs":
        return f"its input '{rest}' changed"
    if section == "data":
        return "the data set changed"
    if section == "modules":
        return "the file of your own layers (`modules:`) changed"
    if section == "version":
        return f"the stage itself changed (version {before} -> {after})"
    return f"{rest or section} {before} -> {after}"
