"""``run.json``: what a run did and where every file came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.devices.machine import read_machine
from compress.pipeline.back_off import written
from compress.pipeline.cache import Entry
from compress.pipeline.files import read_json, write_json
from compress.pipeline.gates import GateResult
from compress.pipeline.job import RECORD, Job
from compress.pipeline.keys import installed_versions
from compress.pipeline.links import Input, Step

SCHEMA = 1
_OF_ONE_RUN = ("started", "finished", "cached")
_MEMORY = ".stages.json"


class RunRecord:
    """The growing content of ``run.json``; on disk it is replaced whole, never half written."""

    def __init__(self, folder: Path, job: Job, steps: Sequence[Step]) -> None:
        """Begin the record of one run of ``job`` into ``folder``."""
        self._file = folder / RECORD
        self.value: dict[str, Any] = {
            "schema": SCHEMA,
            "recipe": job.name,
            "recipe_file": str(job.source),
            "overrides": list(job.overrides),
            "seed": job.recipe.seed,
            "imgsz": job.recipe.imgsz,
            "versions": _versions(steps),
            "machine": asdict(read_machine()),
            "data": {
                "yaml": str(job.data.yaml),
                "fingerprint": job.fingerprint,
                "names": list(job.data.names.values()),
                "images": {split: len(images) for split, images in job.data.splits.items()},
            },
            "modules": _modules(job),
            "started": _now(),
            "finished": None,
            "status": "running",
            "stages": [],
        }

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The stages so far."""
        return list(self.value["stages"])

    def add(
        self,
        step: Step,
        entry: Entry,
        inputs: Mapping[str, Input],
        gates: Sequence[GateResult],
        cached: bool,
    ) -> None:
        """Note a stage that is done."""
        files = {
            name: {"path": f"{step.folder}/{file.path}", "sha256": file.sha256, "bytes": file.bytes}
            for name, file in entry.files.items()
        }
        self.value["stages"].append(
            {
                "name": step.name,
                "stage": step.kind.name,
                "key": entry.key,
                "cached": cached,
                "seconds": round(entry.seconds, 3),
                "folder": step.folder,
                "files": files,
                "inputs": {
                    name: {"from": item.origin, "sha256": item.artifact.sha256}
                    for name, item in inputs.items()
                },
                "config": step.config.model_dump(mode="json"),
                "metrics": dict(entry.metrics),
                "gates": [asdict(gate) for gate in gates],
            }
        )

    def forget_from(self, name: str) -> None:
        """Take the stage ``name`` and those after it back: another trial begins there."""
        stages = self.value["stages"]
        del stages[[stage["name"] for stage in stages].index(name) :]

    def add_trial(
        self,
        number: int,
        prune: Step,
        gated: Step,
        gates: Sequence[GateResult],
        entries: Mapping[str, Entry],
    ) -> None:
        """Note what the target of ``prune`` came to at the gates of ``gated``, and where it lies.

        ``entries`` are the stored results by stage name; they stay when another trial's files take
        their place in the run folder.
        """
        unit, value = written(prune.config.target)
        pruned = entries[prune.name].metrics
        self.value.setdefault("trials", []).append(
            {
                "trial": number,
                "prune": prune.name,
                "target": {unit: value},
                "achieved": pruned.get("target", {}).get("kept"),
                "stage": gated.name,
                "gates": [asdict(gate) for gate in gates],
                "passed": all(gate.passed for gate in gates),
                "kept_in": {step.name: str(entries[step.name].folder) for step in (prune, gated)},
            }
        )

    def save(self) -> None:
        """Write what there is so far."""
        write_json(self._file, self.value)

    def finish(self, status: str, error: str = "") -> bool:
        """Write the end of the run, unless it only repeats the last one. Says if it wrote."""
        self.value |= {"status": status, "finished": _now()}
        if error:
            self.value["error"] = error
        if _lasting(read_json(self._file)) == _lasting(self.value):
            return False
        self.save()
        return True


class Memory:
    """What each stage was last made of, by name. It outlives runs that stop early."""

    def __init__(self, folder: Path) -> None:
        """Read what earlier runs into ``folder`` left."""
        self._folder = folder
        self._stages = read_json(folder / _MEMORY)

    def material(self, name: str) -> Mapping[str, Any]:
        """The key material of the stage's last result; empty if there was none."""
        return dict(self._stages.get(name, {}).get("material", {}))

    def note(self, step: Step, entry: Entry) -> None:
        """Remember ``entry``; published files of the stage's last result that it lacks go."""
        files = [f"{step.folder}/{file.path}" for file in entry.files.values()]
        fresh = {"material": dict(entry.material), "files": files}
        last = self._stages.get(step.name, {})
        self._remove(set(last.get("files", ())) - set(files))
        if last != fresh:
            self._stages[step.name] = fresh
            write_json(self._folder / _MEMORY, self._stages)

    def forget_all_but(self, names: Sequence[str]) -> None:
        """Remove the published files of stages that the recipe no longer has."""
        gone = [name for name in self._stages if name not in names]
        for name in gone:
            self._remove(set(self._stages.pop(name).get("files", ())))
        if gone:
            write_json(self._folder / _MEMORY, self._stages)

    def _remove(self, files: set[str]) -> None:
        for file in (self._folder / path for path in files):
            if not file.resolve().is_relative_to(self._folder.resolve()):
                continue
            file.unlink(missing_ok=True)
            folder = file.parent
            while folder != self._folder and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
                folder = folder.parent


def _versions(steps: Sequence[Step]) -> dict[str, str]:
    libraries = sorted({name for step in steps for name in step.kind.libraries})
    return installed_versions(("yolo-compress", *libraries))


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if key not in _OF_ONE_RUN}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


def _modules(job: Job) -> dict[str, str] | None:
    """The file with layers of the user's own that was run, if any."""
    if job.modules is None:
        return None
    return {"file": str(job.modules.path), "sha256": job.modules.sha256}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
