"""``accept`` gates: what a stage's result must hold, checked on every run, cached or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.errors import CompressError
from compress.pipeline.links import Step

Metrics = Mapping[str, Mapping[str, Any]]

MAP_METRICS = ("map50_95", "map50")
NEVER_SLOWER = "never_slower"
_BASE = "base"
_TOLERANCE = 1e-9  # 0.61 - 0.60 is a little less than 0.01 in floating point
_NOT_SLOWER = 1.0  # parent's time / own time
_LARGER_TARGET = (
    "prune less (a milder target in the prune stage; accept.back_off does it by itself)"
)
_SMALLER_TARGET = "prune more (a stronger target in the prune stage)"
_LONGER = "train longer (train.epochs)"
_FLOAT_LAYERS = "keep the most sensitive layers in float (float_layers)"
_INT8_REMEDY = (
    "quantize for this runtime (`target` of ptq or qat), keep fewer layers in float "
    "(float_layers, max_float_share), or deliver the float file"
)
_SHOWN_LAYERS = 3
_SHOWN_CONVS = 8
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
    """One gate. ``limit`` is the least, or for ``size_share`` the largest, ``value`` accepted.

    The value of ``never_slower`` is the upper end of the speed-up's confidence interval: it misses
    only what is slower beyond noise. There may be several of it, one a runtime.
    """

    metric: str
    value: float
    limit: float
    against: str
    passed: bool
    advice: str

    @property
    def verdict(self) -> str:
        """The value beside its limit, and by how much it misses."""
        text = f"{self.metric} is {self.value:.4f}, the limit against '{self.against}' is "
        text += f"{self.limit:.4f}"
        return text if self.passed else f"{text}: missed by {abs(self.value - self.limit):.4f}"

    def __str__(self) -> str:
        """The verdict, and what to try if it is a miss."""
        return self.verdict if self.passed else f"{self.verdict}. To try: {self.advice}"


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
    results = [
        _map_gate(
            step,
            metric,
            gate,
            value=_number(metrics[step.name], metric, step.name),
            reference=_number(_of_stage(metrics, gate.against, step), metric, gate.against),
        )
        for metric, gate in _map_settings(accept)
    ]
    if getattr(accept, NEVER_SLOWER, False):
        results.append(_time_gate(step, metrics[step.name].get("timing")))
    return results


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
    if accept.never_slower:
        yield from (_int8_gate(row) for row in rows if "parent" in row)


def _int8_gate(row: Mapping[str, Any]) -> GateResult:
    """An INT8 file against its float parent in the same runtime of the same run."""
    parent = row["parent"]
    value = float(parent["speedup_ci"][1])
    advice = f"{_INT8_REMEDY}. In {row['graph']}{_left_float(parent['float_convs'])}"
    layers = _listed(parent["blame"])
    if layers:
        advice += f"; slower than in float are {layers}"
    return _least(NEVER_SLOWER, value, _NOT_SLOWER, parent["graph"], advice)


def _left_float(convs: Sequence[str]) -> str:
    if not convs:
        return " no convolution stayed float"
    more = f" and {len(convs) - _SHOWN_CONVS} more" if len(convs) > _SHOWN_CONVS else ""
    return f" stayed float: {', '.join(convs[:_SHOWN_CONVS])}{more}"


def _map_settings(accept: Any) -> list[tuple[str, Any]]:
    gates = [(metric, getattr(accept, metric)) for metric in MAP_METRICS]
    return [(metric, gate) for metric, gate in gates if gate is not None]


def _map_gate(step: Step, metric: str, gate: Any, value: float, reference: float) -> GateResult:
    advice = _MAP_ADVICE.get(step.kind.name, _LONGER)
    return _least(metric, value, reference - gate.max_drop, gate.against, advice)


def _time_gate(step: Step, timing: Mapping[str, Any] | None) -> GateResult:
    if timing is None:
        raise CompressError(f"'{step.name}' has the gate {NEVER_SLOWER}, but did not measure time")
    value = float(timing["speedup_ci"][1])
    return _least(
        NEVER_SLOWER, value, _NOT_SLOWER, step.sources[0], _slow_layers(timing.get("blame") or ())
    )


def _slow_layers(blame: Sequence[Mapping[str, Any]]) -> str:
    remedy = "a larger `align`, the alignment of this runtime's device, or another target"
    layers = _listed(blame)
    return f"{remedy}; leave whole (`ignore`) what became slower: {layers}" if layers else remedy


def _listed(blame: Sequence[Mapping[str, Any]]) -> str:
    """The layers that became slower, with their times."""
    return ", ".join(
        f"{row['layer']} ({row['parent_ms']:.3g} -> {row['ms']:.3g} ms)"
        for row in blame[:_SHOWN_LAYERS]
    )


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
