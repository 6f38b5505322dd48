"""The readable file that carries a model's quantization: one scale and zero point a group."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from export.errors import ExportError

SCHEMA = 1
QMIN, QMAX = 0, 255  # unsigned activations


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


@dataclass(frozen=True)
class Ranges:
    """Ranges of all groups, the convolutions that are INT8, and what they were trained for."""

    target: str
    groups: tuple[GroupRange, ...]
    convs: tuple[str, ...]

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
        content = json.loads(path.read_text())
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']} where {SCHEMA} is known")
        groups = tuple(
            GroupRange(
                float(group["scale"]),
                int(group["zero_point"]),
                float(group["clipped"]),
                tuple(group["tensors"]),
            )
            for group in content["groups"]
        )
        ranges = Ranges(str(content["target"]), groups, tuple(content["convs"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ExportError(f"{path}: not a readable ranges file ({error}).") from error
    for group in ranges.groups:
        if not (
            math.isfinite(group.scale) and group.scale > 0 and QMIN <= group.zero_point <= QMAX
        ):
            raise ExportError(
                f"{path}: the range of '{group.tensors[0]}' is broken (scale {group.scale}, zero "
                f"point {group.zero_point}). Run the ptq or qat stage again."
            )
    return ranges
