"""Bench results as JSON files: written whole, read with every field checked.

``python -m bench.results.files`` prints the JSON Schema of a result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.errors import BenchError
from bench.results.schema import SCHEMA, BenchResult, Row
from bench.statistics import percentile

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

_MOST_FAULTS = 5  # that a message lists
_MOST_NS = 2**63 - 1  # of 64 bits
_MOST_SEEN = 1e15  # in a trace; beyond it nothing can be drawn


def write_result(path: Path, result: BenchResult) -> None:
    """Write ``result`` in one step: a reader sees the whole file or none.

    Numbers that JSON does not have (NaN, infinity) become null.

    Raises:
        BenchError: the file cannot be written.
    """
    draft = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(_finite(result), indent=1) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise BenchError(f"'{path}' cannot be written: {error.strerror}.") from error


def read_result(path: Path) -> BenchResult:
    """The result in ``path``, as ``compress bench --out`` wrote it.

    Raises:
        BenchError: it cannot be read, is of another schema, or holds what a result does not.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise BenchError(f"'{path}' cannot be read: {error.strerror}. Correct the path.") from error
    except (ValueError, RecursionError) as error:
        raise BenchError(f"'{path}' is damaged or no JSON: {error}. Measure again.") from error
    return checked(value, str(path))


def checked(value: Any, name: str) -> BenchResult:
    """``value``, which came out of JSON, if it is a whole result; ``name`` is for the error.

    Raises:
        BenchError: it is not.
    """
    from pydantic import ValidationError

    _check_schema(value, name)
    try:
        _adapter().validate_python(value, strict=True)
    except ValidationError as error:
        raise BenchError(
            f"'{name}' is damaged: {_listed(error)}. Measure again, or restore the file."
        ) from error
    result = cast(BenchResult, value)
    faults = _contradictions(result)
    if faults:
        raise BenchError(f"'{name}' is damaged: {'; '.join(faults)}. Measure again.")
    return result


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a result, of the types in ``bench.results.schema``."""
    schema = _adapter().json_schema()
    schema["properties"]["schema"]["const"] = SCHEMA
    return schema


def _adapter() -> TypeAdapter[BenchResult]:
    from pydantic import TypeAdapter

    return TypeAdapter(BenchResult)


def _check_schema(value: Any, name: str) -> None:
    """Say what to do with files of another version before any field of them is looked at."""
    schema = value.get("schema") if isinstance(value, Mapping) else None
    if type(schema) is not int or "rows" not in value:
        raise BenchError(
            f"'{name}' is no bench result. Name a file that `compress bench FILE ... --out` wrote."
        )
    if schema > SCHEMA:
        raise BenchError(
            f"'{name}' is of schema {schema}; this version reads {SCHEMA}. Update yolo-compress."
        )
    if schema < SCHEMA:
        raise BenchError(
            f"'{name}' is of schema {schema}, which lacks what is compared and shown today (this "
            f"version reads {SCHEMA}). Measure again: compress bench FILE ... --out {name}"
        )


def _listed(error: ValidationError) -> str:
    """``rows.0.latency_ms.p50: input should be a valid number`` and so on."""
    faults = [
        f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg'].lower()}"
        for fault in error.errors(include_url=False)
    ]
    rest = len(faults) - _MOST_FAULTS
    more = [f"and {rest} more"] if rest > 0 else []
    return "; ".join([*faults[:_MOST_FAULTS], *more])


def _contradictions(result: BenchResult) -> list[str]:
    """What types cannot say."""
    labels = [row["label"] for row in result["rows"]]
    faults = [] if labels else ["rows: there is none"]
    if len(set(labels)) < len(labels):
        faults.append("rows: two have the same label")
    for place, row in enumerate(result["rows"]):
        if not row["input"]:
            faults.append(f"rows.{place}.input: it is empty")
        if len(row["speedup_ci"]) != 2:
            faults.append(f"rows.{place}.speedup_ci: it is no pair")
        if row["latency_ms"]["p50"] <= 0:
            faults.append(f"rows.{place}.latency_ms.p50: it is not above 0")
        faults += _sample_faults(place, row, result["samples_ns"].get(row["label"], []))
    if len({len(result["samples_ns"].get(label, ())) for label in labels}) > 1:
        faults.append("samples_ns: the series are not of one length")
    for place, look in enumerate(result["device"]["trace"]):
        faults += [
            f"device.trace.{place}.{name}: it is not finite, or too large"
            for name, value in look.items()
            if isinstance(value, (int, float)) and not abs(value) < _MOST_SEEN
        ]
    return faults if len(faults) <= _MOST_FAULTS else [*faults[:_MOST_FAULTS], "and more"]


def _sample_faults(place: int, row: Row, samples: Sequence[int]) -> list[str]:
    name = f"samples_ns.{row['label']}"
    if not samples or min(samples) <= 0 or max(samples) > _MOST_NS:
        return [f"{name}: there are none, or some not above 0 or beyond 64 bits"]
    if not math.isclose(row["latency_ms"]["p50"] * 1e6, percentile(samples, 50)):
        return [f"rows.{place}.latency_ms.p50: it is not the median of {name}"]
    return []


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number in JSON")


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=1))
