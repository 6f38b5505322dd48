"""The recipe as it was run: defaults filled in, overrides applied, references found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from compress.pipeline.contract import Artifact
from compress.pipeline.job import Job

_HEADER = "# {name}: as it was run, with every default{overrides}\n"


def resolved_recipe(job: Job) -> str:
    """YAML text that can be run again from any folder."""
    values = job.recipe.model_dump(mode="json", exclude_none=True)
    for key in ("model", "teacher"):
        if key in values:
            values[key] = _found(values[key], job.named)
    for stage in values["stages"]:
        for holder in (stage, stage.get("recover", {})):
            if distill := holder.get("distill"):
                for teacher in distill["teachers"]:
                    teacher["model"] = _found(teacher["model"], job.named)
                if distill.get("unlabeled"):
                    images = distill["unlabeled"]["images"]
                    distill["unlabeled"]["images"] = _found(images, job.named)
    if job.modules is not None:
        values["modules"] = str(job.modules.path)
    if job.data.yaml.name == values["data"].rpartition("/")[2]:
        values["data"] = str(job.data.yaml)
    overrides = f" and {' '.join(job.overrides)}" if job.overrides else ""
    header = _HEADER.format(name=job.name, overrides=overrides)
    return header + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _found(reference: str, named: Mapping[str, Artifact]) -> Any:
    return str(named[reference].path) if reference in named else reference
