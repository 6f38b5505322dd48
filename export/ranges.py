"""The readable file that carries a model's quantization: one scale and zero point a group."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from export.errors import ExportError

SCHEMA = 2
QMIN, QMAX = 0, 255  # unsigned activations
SYMMETRIC_ZERO = 128  # the u8 zero point of what is s8 around 0
SIGNED_MAX = 127
_LEAST_SCALE, _LARGEST_SCALE = 1e-30, 1e30  # float32, in products with others
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)


@dataclass(frozen=True)
class GroupRange:
    """Value of an integer q is ``(q - zero_point) * scale``, q in 0..255.

    ``clipped`` is the share of calibration values outside the range.
    """

    scale: float
    zero_point: int
    clipped: float
    tensors: tuple[str, ...]

    @property
    def low(self) -> float:
        """Smallest value that can be represented."""
        return (QMIN - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        """Largest value that can be represented."""
        return (QMAX - self.zero_point) * self.scale

    def around_zero(self) -> GroupRange:
        """The same range around 0, as runtimes read it that know no zero point.

        The larger end decides; a range that is symmetric already stays as it is.
        """
        if self.zero_point == SYMMETRIC_ZERO:
            return self
        scale = max(-self.low, self.high) / SIGNED_MAX
        return replace(self, scale=scale, zero_point=SYMMETRIC_ZERO)

    def from_zero(self) -> GroupRange:
        """The upper half of a range around 0, on the same grid, twice as far."""
        return replace(self, zero_point=0) if self.zero_point == SYMMETRIC_ZERO else self


@dataclass(frozen=True)
class Ranges:
    """Ranges of all groups, the convolutions that are INT8, and what they were made for.

    ``weight_scales``: convolution -> a scale for each output channel, where they were trained;
    otherwise a channel's largest magnitude decides. ``weight_bits``: 2 to 8.
    """

    targets: tuple[str, ...]
    groups: tuple[GroupRange, ...]
    convs: tuple[str, ...]
    weight_bits: int = 8
    weight_scales: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def weight_max(self) -> int:
        """Largest integer of a weight; the smallest is its negative."""
        return int(2 ** (self.weight_bits - 1)) - 1

    def by_tensor(self) -> dict[str, GroupRange]:
        """Tensor name -> its group's range."""
        return {tensor: group for group in self.groups for tensor in group.tensors}

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")


def load_ranges(path: Path) -> Ranges:
    """Read what ``Ranges.save`` wrote.

    Raises:
        ExportError: if the file is no ranges file, or a scale is not a positive number.
    """
    try:
        ranges = _parsed(json.loads(path.read_text()))
    except _UNREADABLE as error:
        raise ExportError(f"{path}: not a readable ranges file ({error}).") from error
    for group in ranges.groups:
        if not (_is_scale(group.scale) and QMIN <= group.zero_point <= QMAX):
            raise ExportError(
                f"{path}: the range of '{group.tensors[0]}' is broken (scale {group.scale}, zero "
                f"point {group.zero_point}). Run the ptq or qat stage again."
            )
    strange = sorted(ranges.weight_scales.keys() - set(ranges.convs))
    if strange:
        raise ExportError(
            f"{path}: weight scales of '{strange[0]}', which is not INT8 in this file."
        )
    for conv, scales in ranges.weight_scales.items():
        if not all(map(_is_scale, scales)):
            raise ExportError(
                f"{path}: a weight scale of '{conv}' is no number above 0. Run the qat stage again."
            )
    return ranges


def _parsed(content: Any) -> Ranges:
    if content["schema"] != SCHEMA:
        raise ValueError(f"schema {content['schema']} where {SCHEMA} is known")
    groups = tuple(
        GroupRange(
            float(group["scale"]),
            int(group["zero_point"]),
            float(group["clipped"]),
            _names(group["tensors"]),
        )
        for group in content["groups"]
    )
    if not all(group.tensors for group in groups):
        raise ValueError("a group without tensors")
    bits = int(content["weight_bits"])
    if not 2 <= bits <= 8:
        raise ValueError(f"weights of {bits} bits")
    scales = {
        str(conv): tuple(float(value) for value in values)
        for conv, values in content["weight_scales"].items()
    }
    return Ranges(_names(content["targets"]), groups, _names(content["convs"]), bits, scales)


def _names(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError("a list of names is expected")
    return tuple(str(value) for value in values)


def _is_scale(value: float) -> bool:
    return math.isfinite(value) and _LEAST_SCALE <= value <= _LARGEST_SCALE
