"""What a reader wants to know first: what was gained, what it cost, and what is not known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from compress.report import numbers
from compress.report.figures import (
    Model,
    Run,
    base_model,
    bench,
    difference,
    graphs,
    models,
    ratio,
    result_model,
    splits,
    stages,
)

_STATUS = {
    "done": "finished",
    "gate": "a gate was missed",
    "failed": "stopped by a fault",
    "running": "not finished",
}


@dataclass(frozen=True)
class Finding:
    """One figure of the result against the base; ``good`` is None where it cannot be judged."""

    title: str
    value: str
    detail: str
    good: bool | None = None


def status(run: Run) -> str:
    """How the run ended, in words."""
    found = str(run.get("status", ""))
    return _STATUS.get(found, found or "unknown")


def headline(run: Run) -> list[Finding]:
    """Speed, size, computation and mAP of the result against the base, as far as known."""
    base, result = base_model(run), result_model(run)
    found = list(_gains(base, result)) if base and result and base != result else []
    if base and result and found:
        found += _costs(run, base, result)
    gates = [gate for stage in stages(run) for gate in stage.get("gates") or []]
    verdicts = [bool(gate.get("passed")) for gate in gates]
    if verdicts:
        passed = f"{sum(verdicts)} of {len(verdicts)}"
        found.append(Finding("Gates", passed, "passed", all(verdicts)))
    return found


def _gains(base: Model, result: Model) -> Iterator[Finding]:
    ms, mb, count = numbers.milliseconds, numbers.megabytes, numbers.amount
    sizes = (base.file_bytes, result.file_bytes)
    for title, (before, after), text, unit in (
        ("Faster", (base.p50, result.p50), ms, "ms median latency"),
        ("Smaller", sizes, mb, "MB exported file"),
        ("Less computation", (base.macs, result.macs), count, "MACs"),
    ):
        factor = ratio(before, after)
        if factor is not None:
            detail = f"{text(before)} to {text(after)} {unit}"
            yield Finding(title, numbers.times(factor), detail, factor > 1)


def _costs(run: Run, base: Model, result: Model) -> Iterator[Finding]:
    exported = [(split, base.on(split), result.on(split)) for split in splits(run)]
    known = [place for place in exported if None not in (place[1].map50_95, place[2].map50_95)]
    where = "exported file" if known else "in PyTorch"
    for split, before, after in known or [("val", base.torch, result.torch)]:
        change = difference(after.map50_95, before.map50_95)
        if change is not None:
            figures = [numbers.precision(score.map50_95) for score in (before, after)]
            detail = f"{figures[0]} to {figures[1]}, {where}"
            yield Finding(f"mAP50-95, {split}", f"{numbers.points(change)} points", detail)


def missing(run: Run, planned: Sequence[str] = ()) -> list[str]:
    """What the report cannot show, and why. ``planned`` are the names of the recipe's stages."""
    done = {str(stage.get("name")) for stage in stages(run)}
    absent = [name for name in planned if name not in done]
    found = [f"Stages that did not run: {', '.join(absent)}."] if absent else []
    if not graphs(run):
        return [*found, "No exported file: its size, latency and mAP are unknown."]
    if not bench(run):
        return [*found, "No bench: latency and mAP of the exported files are unknown."]
    unmeasured = [graph.name for graph in graphs(run) if graph.p50 is None]
    if unmeasured:
        found.append(f"Latency of files for a runtime not measured here: {', '.join(unmeasured)}.")
    unrated = [model.name for model in models(run) if model.torch.map50_95 is None]
    if unrated:
        found.append(f"Without mAP in PyTorch: {', '.join(unrated)}.")
    return found
