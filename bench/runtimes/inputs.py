"""The one input that a runtime is timed on: its shape, and its values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fixed_shape(
    name: str, declared: Sequence[object], wanted: Sequence[int] | None, path: Path
) -> tuple[int, ...]:
    """The shape to run with.

    Args:
        name: of the input.
        declared: sizes that the file says; what is no number is open.
        wanted: sizes asked for; None for those of the file.
        path: the file.

    Raises:
        BenchError: a size stays open, or what is wanted does not fit the file.
    """
    if wanted is None:
        if not all(isinstance(size, int) for size in declared):
            raise BenchError(
                f"'{path}' leaves dimensions of its input '{name}' open: {list(declared)}. Give a "
                "shape such as 1,3,640,640, or export with fixed sizes."
            )
        wanted = [int(str(size)) for size in declared]
    fits = len(wanted) == len(declared) and all(
        size >= 1 and (not isinstance(fixed, int) or size == fixed)
        for size, fixed in zip(wanted, declared)
    )
    if not fits:
        raise BenchError(
            f"'{path}' takes an input of shape {list(declared)}, which {list(wanted)} does not fit."
        )
    return tuple(wanted)


def random_input(shape: Sequence[int], kind: Any, seed: int) -> NDArray[np.floating[Any]]:
    """Values in [0, 1) of the float type ``kind``, the same for every runtime."""
    values = np.random.default_rng(seed).random(tuple(shape), dtype=np.float32)
    return values.astype(kind)


def fill(target: NDArray[Any], values: NDArray[Any]) -> None:
    """Overwrite an input with ``values`` of the same shape, cast to its float type."""
    if values.shape != target.shape:
        raise ValueError(f"values of shape {values.shape} for an input of shape {target.shape}")
    np.copyto(target, values, casting="same_kind")


def input_count_error(names: Sequence[str], path: Path) -> BenchError:
    """What to say of a file that takes no input, or several."""
    listed = ", ".join(f"'{name}'" for name in names) or "none"
    return BenchError(f"'{path}' has {len(names)} inputs ({listed}); the bench feeds one image.")


def input_type_error(name: str, kind: str, known: Sequence[str], path: Path) -> BenchError:
    """What to say of an input that is no image of floats."""
    return BenchError(
        f"'{path}' takes '{name}' as {kind}; the bench feeds float images in [0, 1)"
        f" ({', '.join(known)})."
    )
