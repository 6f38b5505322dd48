"""An engine's inputs and outputs: types, shapes, and what the bench cannot feed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError
from bench.runtimes.inputs import fixed_shape, input_count_error, input_type_error

_INPUT_TYPES = {"FLOAT": np.float32, "HALF": np.float16}
_OUTPUT_TYPES = {
    **_INPUT_TYPES,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


def names_of(trt: Any, engine: Any, mode: str) -> list[str]:
    """Names of the tensors of a mode, ``INPUT`` or ``OUTPUT``, in the file's order."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    wanted = getattr(trt.TensorIOMode, mode)
    return [name for name in names if engine.get_tensor_mode(name) == wanted]


def input_of(
    trt: Any, engine: Any, wanted: Sequence[int] | None, path: Path
) -> tuple[str, tuple[int, ...], Any]:
    """Name, shape and numpy type of the one input.

    Raises:
        BenchError: it is no single image of floats, or its shape is open and ``wanted`` does not
            say it, or says one that the engine was not built for.
    """
    names = names_of(trt, engine, "INPUT")
    if len(names) != 1:
        raise input_count_error(names, path)
    [name] = names
    _check_plain(trt, engine, name, path)
    kind = engine.get_tensor_dtype(name).name
    if kind not in _INPUT_TYPES:
        raise input_type_error(name, kind, list(_INPUT_TYPES), path)
    declared = [int(size) for size in engine.get_tensor_shape(name)]
    if min(declared) >= 0:
        return name, fixed_shape(name, declared, wanted, path), _INPUT_TYPES[kind]
    least, best, most = (
        [int(size) for size in shape] for shape in engine.get_tensor_profile_shape(name, 0)
    )
    built_for = f"The engine was built for {least} to {most}, at its best with {best}."
    if wanted is None:
        raise BenchError(
            f"'{path}' leaves dimensions of its input '{name}' open. {built_for} Give the shape to "
            f"measure: --shape {','.join(str(size) for size in best)}"
        )
    shape = fixed_shape(name, [size if size >= 0 else "?" for size in declared], wanted, path)
    if not all(low <= size <= high for low, size, high in zip(least, shape, most)):
        raise BenchError(f"'{path}' cannot run on an input of shape {list(shape)}. {built_for}")
    return name, shape, _INPUT_TYPES[kind]


def output_of(
    trt: Any, engine: Any, context: Any, name: str, path: Path
) -> tuple[tuple[int, ...], Any]:
    """Shape and numpy type of an output, once the input's shape is set.

    Raises:
        BenchError: its size is known only when it was computed, or its type has none in numpy.
    """
    _check_plain(trt, engine, name, path)
    kind = engine.get_tensor_dtype(name).name
    if kind not in _OUTPUT_TYPES:
        raise BenchError(
            f"'{path}' gives '{name}' as {kind}, which numpy does not know; the bench reads "
            f"{', '.join(_OUTPUT_TYPES)}."
        )
    shape = tuple(int(size) for size in context.get_tensor_shape(name))
    if any(size < 0 for size in shape):
        raise BenchError(
            f"'{path}' gives '{name}' of shape {list(shape)}: its size depends on the image. "
            "Export outputs of fixed size (export.head: decoded or raw)."
        )
    return shape, _OUTPUT_TYPES[kind]


def _check_plain(trt: Any, engine: Any, name: str, path: Path) -> None:
    """Refuse what does not lie on the GPU as a plain array: its bytes would be misread."""
    if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        raise BenchError(f"'{path}' takes '{name}' in host memory: it is a shape and no image.")
    layout = engine.get_tensor_format(name)
    if layout != trt.TensorFormat.LINEAR:
        raise BenchError(
            f"'{path}' was built with '{name}' in the layout {layout.name}; build it with plain "
            "(linear) inputs and outputs."
        )
