"""``accept`` gates: what a stage's result must hold, checked on every run, cached or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.errors import CompressError
from compress.pipeline.links import Step

Metrics = Mapping[str, Mapping[str, Any]]

_BASE = "base"
_TOLERANCE = 1e-9  # 0.61 - 0.60 is a little less than 0.01 in floating point
_LARGER_TARGET = "prune less (a larger target.macs in the prune stage)"
_SMALLER_TARGET = "prune more (a smaller target.macs in the prune stage)"
_LONGER = "train longer (train.epochs)"
_FLOAT_LAYERS = "keep the most sensitive layers in float (float_layers)"
_MAP_ADVICE = {
    "train": f"{_LONGER}, or train with another learning rate (train.lr0)",
    "prune": f"{_LARGER_TARGET}, or move the gate to the finetune stage that recovers the loss",
    "finetune": f"{_LONGER}, distil from a better teacher, or {_LARGER_TARGET}",
    "ptq": f"calibrate on more images (calibration.images), {_FLOAT_LAYERS}, or use qat",
    "qat": f"{_LONGER}, or {_FLOAT_LAYERS}",
    "bench": f"{_FLOAT_LAYERS}, or give the qat stage more epochs",
}


@dataclass(frozen=True)
class GateResult:
    """One gate. ``limit`` is the least, or for ``size_share`` the largest, ``value`` accepted."""

    metric: str
    value: float
    limit: float
    against: str
    passed: bool
    advice: str

    def __str__(self) -> str:
        """The value beside its limit, and by how much it misses."""
        text = f"{self.metric} is {self.value:.4f}, the limit against '{self.against}' is "
        text += f"{self.limit:.4f}"
        if self.passed:
            return text
        return f"{text}: missed by {abs(self.value - self.limit):.4f}. To try: {self.advice}"


def check_gates(step: Step, metrics: Metrics) -> list[GateResult]:
    """Every gate of ``step``. ``metrics`` holds those of all stages up to it, by name.

    Raises:
        CompressError: a gate asks for what was not measured.
    """
    accept = getattr(step.config, "accept", None)
    if accept is None:
        return []
    if "bench" in metrics[step.name]:
        return list(_bench_gates(step, metrics[step.name]["bench"]))
    return [
        _map_gate(
            step,
            metric,
            gate,
            value=_number(metrics[step.name], metric, step.name),
            reference=_number(_of_stage(metrics, gate.against, step), metric, gate.against),
        )
        for metric, gate in _map_settings(accept)
    ]


def _bench_gates(step: Step, bench: Mapping[str, Any]) -> Iterator[GateResult]:
    accept, rows = step.config.accept, bench["rows"]
    for metric, gate in _map_settings(accept):
        values = [
            _number(row.get("map", {}).get("val", {}), metric, f"{step.name}, {row['graph']}")
            for row in (_result_row(bench), _float_row(rows, gate.against, step))
        ]
        yield _map_gate(step, metric, gate, *values)
    if accept.min_speedup is not None:
        speedup = _number(_result_row(bench), "speedup", step.name)
        yield _least("speedup", speedup, accept.min_speedup, _BASE, _SMALLER_TARGET)
    if accept.max_size_share is not None:
        base = _float_row(rows, _BASE, step)
        share = _result_row(bench)["bytes"] / base["bytes"]
        limit = accept.max_size_share
        passed = share <= limit + _TOLERANCE
        yield GateResult("size_share", share, limit, _BASE, passed, _SMALLER_TARGET)


def _map_settings(accept: Any) -> list[tuple[str, Any]]:
    gates = [(metric, getattr(accept, metric)) for metric in ("map50_95", "map50")]
    return [(metric, gate) for metric, gate in gates if gate is not None]


def _map_gate(step: Step, metric: str, gate: Any, value: float, reference: float) -> GateResult:
    advice = _MAP_ADVICE.get(step.kind.name, _LONGER)
    return _least(metric, value, reference - gate.max_drop, gate.against, advice)


def _least(metric: str, value: float, limit: float, against: str, advice: str) -> GateResult:
    return GateResult(metric, value, limit, against, value >= limit - _TOLERANCE, advice)


def _of_stage(metrics: Metrics, name: str, step: Step) -> Mapping[str, Any]:
    if name not in metrics:
        raise _unknown(name, list(metrics), step)
    return metrics[name]


def _result_row(bench: Mapping[str, Any]) -> Mapping[str, Any]:
    rows: Sequence[Mapping[str, Any]] = bench["rows"]
    return next(row for row in rows if row["graph"] == bench["result"])


def _float_row(rows: Sequence[Mapping[str, Any]], stage: str, step: Step) -> Mapping[str, Any]:
    found = [row for row in rows if row["stage"] == stage and row["precision"] == "fp32"]
    if not found:
        raise _unknown(stage, [row["stage"] for row in rows], step)
    return found[0]


def _unknown(name: str, known: Sequence[str], step: Step) -> CompressError:
    names = ", ".join(dict.fromkeys(known))
    return CompressError(
        f"the accept gate of '{step.name}' compares against '{name}', which was not measured. "
        f"Measured were: {names}"
    )


def _number(metrics: Mapping[str, Any], metric: str, where: str) -> float:
    value = metrics.get(metric)
    if value is None:
        raise CompressError(f"a gate asks for {metric}, but '{where}' did not measure it")
    return float(value)
