"""``report.md`` and ``report.html`` of a run folder, from its ``run.json`` alone."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from compress.errors import CompressError
from compress.pipeline.files import write_text
from compress.report import (
    findings,
    int8,
    int8_plots,
    numbers,
    plots,
    pruning,
    pruning_plots,
    tables,
)
from compress.report.figures import (
    Run,
    bench,
    graphs,
    metrics,
    pruned_channels,
    result_model,
    stages,
    training_curves,
)

RECORD = "run.json"
RESOLVED_RECIPE = "recipe.yaml"
DETECTIONS = "detections"
_MARKDOWN_SIGNS = re.compile(r"([\\`*\[\]<>|])")


def write_report(run_folder: Path) -> tuple[Path, Path]:
    """Write both reports into ``run_folder`` and give their paths; partial runs get one too.

    The same ``run.json`` gives the same bytes. Plots need matplotlib; without it tables stand in.

    Raises:
        CompressError: the folder has no readable ``run.json``.
    """
    run = _read_run(run_folder / RECORD)
    picture = _detections(run, run_folder)
    content = _content(run, run_folder) | {"picture": picture}
    markdown, html = run_folder / "report.md", run_folder / "report.html"
    write_text(markdown, _markdown(content))
    write_text(html, _html(content, run, run_folder))
    return markdown, html


def _read_run(file: Path) -> dict[str, Any]:
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CompressError(
            f"{file.parent}: no {RECORD} here, so nothing to report. Give the folder of a run"
        ) from error
    except (OSError, ValueError) as error:
        raise CompressError(f"{file}: cannot be read as the record of a run: {error}") from error
    if not isinstance(run, dict):
        raise CompressError(f"{file}: not the record of a run")
    return run


def _content(run: Run, folder: Path) -> dict[str, Any]:
    """What both reports show."""
    return {
        "run": {"recipe": "", "error": "", "status": "", **run},
        "subtitle": _subtitle(run),
        "status": findings.status(run),
        "headline": findings.headline(run),
        "missing": findings.missing(run, _planned(folder / RESOLVED_RECIPE)),
        "summary": tables.summary(run),
        "gates": tables.gates(run),
        "trials": pruning.trials(run),
        "trials_in": _trials_in(run),
        "targets": pruning.targets(run),
        "steps": {n: pruning.steps(found) for n, found in pruning.steps_of(run).items()},
        "sensitivity": {n: pruning.sensitivity(f) for n, f in pruning.sensitivities(run).items()},
        "int8_sensitivity": {n: int8.sensitivity(f) for n, f in int8.sensitivities(run).items()},
        "compared": int8.compared(run),
        "worst_tensors": int8.worst_tensors(run),
        "simulated": int8.simulated(run),
        "exported": tables.exported_files(run),
        "curves": tables.curves(run),
        "channels": {n: pruning.channels(found) for n, found in pruned_channels(run).items()},
        "warnings": list(bench(run).get("warnings") or []),
        "notes": _notes(run),
        "settings": tables.facts(_settings(run)),
        "bench_settings": tables.facts(bench(run).get("settings") or {}),
        "machine": tables.facts(_machine(run)),
        "versions": tables.facts(run.get("versions") or {}),
        "configs": _configs(run),
        "lineage": tables.lineage(run),
    }


def _planned(recipe: Path) -> list[str]:
    """The recipe's stages by name; empty where the resolved recipe cannot be read."""
    try:
        return [str(stage["name"]) for stage in yaml.safe_load(recipe.read_bytes())["stages"]]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return []


def _settings(run: Run) -> dict[str, Any]:
    data = run.get("data") or {}
    return {
        "recipe": run.get("recipe_file"),
        "overrides": run.get("overrides"),
        "seed": run.get("seed"),
        "image_size": run.get("imgsz"),
        "data": data.get("yaml"),
        "data_fingerprint": data.get("fingerprint"),
        "classes": data.get("names"),
        "images": data.get("images"),
        "started": run.get("started"),
        "finished": run.get("finished"),
        "time": _time(run),
    }


def _machine(run: Run) -> dict[str, Any]:
    facts = dict(run.get("machine") or {})
    if memory := facts.pop("memory_bytes", None):
        facts["memory"] = f"{numbers.amount(memory)}B"
    return facts


def _time(run: Run) -> str:
    """How long the run took; empty where it has no end."""
    try:
        began, ended = (datetime.fromisoformat(str(run[key])) for key in ("started", "finished"))
    except (KeyError, ValueError):
        return ""
    return numbers.duration((ended - began).total_seconds())


def _subtitle(run: Run) -> str:
    data = run.get("data") or {}
    parts = (
        str(run.get("started") or "")[:10],
        f"took {took}" if (took := _time(run)) else "",
        f"data {Path(str(data['yaml'])).name}" if data.get("yaml") else "",
        f"{run['imgsz']} pixels" if run.get("imgsz") else "",
    )
    return ", ".join(part for part in parts if part)


def _configs(run: Run) -> dict[str, str]:
    return {
        str(stage.get("name")): yaml.safe_dump(stage["config"], sort_keys=False, allow_unicode=True)
        for stage in stages(run)
        if stage.get("config")
    }


def _notes(run: Run) -> list[str]:
    """Remarks of stages: one text or several."""
    found = [(stage.get("name"), metrics(stage).get("notes") or []) for stage in stages(run)]
    return [
        f"{name}: {note}"
        for name, notes in found
        for note in ([notes] if isinstance(notes, str) else notes)
    ]


def _trials_in(run: Run) -> str:
    """The folder of the cache that keeps every trial's files; empty where nothing was tried."""
    kept = [trial.get("kept_in") or {} for trial in run.get("trials") or []]
    folders = [Path(str(folder)).parent for found in kept for folder in found.values()]
    return str(folders[0]) if folders else ""


def _detections(run: Run, folder: Path) -> Path | None:
    """The picture of sample detections, relative to ``folder``; nothing outside of it."""
    files = [(stage.get("files") or {}).get(DETECTIONS) for stage in stages(run)]
    for file in (Path(str(found.get("path"))) for found in files if found):
        inside = (folder / file).resolve().is_relative_to(folder.resolve())
        if inside and (folder / file).is_file():
            return file
    return None


def _markdown(content: Mapping[str, Any]) -> str:
    text = _render("report.md.j2", content, finalize=_markdown_text)
    return re.sub(r"\n{3,}", "\n\n", text)


def _markdown_text(value: Any) -> Any:
    """Escape what Markdown would read as a sign; what a macro gave is done already."""
    from markupsafe import Markup

    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return Markup(_MARKDOWN_SIGNS.sub(r"\\\1", " ".join(value.split())))


def _html(content: Mapping[str, Any], run: Run, folder: Path) -> str:
    picture = content["picture"]
    shown = {"picture_uri": _data_uri(folder / picture) if picture else "", "plots": _plots(run)}
    return _render("report.html.j2", {**content, **shown}).lstrip()


def _render(template: str, content: Mapping[str, Any], **options: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("compress.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    return environment.get_template(template).render(content)


def _data_uri(file: Path) -> str:
    kind = "png" if file.suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _plots(run: Run) -> dict[str, Any]:
    """SVG texts that are safe to show as they are; empty without matplotlib."""
    from markupsafe import Markup

    sections = ("training", "channels", "steps", "sensitivity", "int8_sensitivity")
    if find_spec("matplotlib") is None:
        return {"overview": [], **{section: {} for section in sections}}
    result = result_model(run)
    chosen = result.graph if result else None
    files = graphs(run)
    overview = (plots.accuracy_over_latency(files, chosen), plots.latency(files, chosen))
    drawn = (
        {name: plots.training(found) for name, found in training_curves(run).items()},
        {name: pruning_plots.channels(found) for name, found in pruned_channels(run).items()},
        {name: pruning_plots.steps(found) for name, found in pruning.steps_of(run).items()},
        {n: pruning_plots.sensitivity(found) for n, found in pruning.sensitivities(run).items()},
        {n: int8_plots.sensitivity(found) for n, found in int8.sensitivities(run).items()},
    )
    by_stage = {
        section: {name: Markup(svg) for name, svg in plotted.items() if svg}
        for section, plotted in zip(sections, drawn, strict=True)
    }
    return {"overview": [Markup(svg) for svg in overview if svg], **by_stage}
