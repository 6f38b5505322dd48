"""Layers of the user's own: a Python file whose classes a model yaml or a checkpoint may name.

ultralytics looks the names in a model yaml up among the attributes of ``ultralytics.nn.tasks``, so
the classes are put there, and taken away again. It gives a layer that it does not know the
arguments as they stand in the yaml (no input channels, no scaling by width, ``n`` repeats as a
sequence) and takes its output to have as many channels as its input. A layer gets one input.

The module keeps the file's name. A checkpoint thus names ``my_modules.MyBlock``, and stock
ultralytics loads it wherever ``my_modules`` can be imported.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import nn
from ultralytics.nn import tasks

from compress.errors import CompressError


@contextmanager
def custom_modules(file: Path | None) -> Iterator[None]:
    """RUN the Python file ``file``; inside the block its layers are known, also to checkpoints.

    Nothing happens without a file, or inside another block of the same file. What the file did
    beside defining layers is not undone.

    Raises:
        CompressError: the file cannot be run, defines no layer, or takes a name that is in use.
    """
    if file is None or _is_known(file):
        yield
        return
    module = _run(file)
    try:
        classes = _classes(module)
        layers = _layers(file, classes)
        with torch.serialization.safe_globals(list(classes)):
            for name, layer in layers.items():
                setattr(tasks, name, layer)
            try:
                yield
            finally:
                for name in layers:
                    delattr(tasks, name)
    finally:
        sys.modules.pop(module.__name__, None)


def _is_known(file: Path) -> bool:
    """Whether an outer block has put the file's layers where ultralytics looks."""
    module = sys.modules.get(file.stem)
    if module is None or getattr(module, "__file__", None) != str(file.absolute()):
        return False
    return any(getattr(tasks, layer.__name__, None) is layer for layer in _classes(module))


def _run(file: Path) -> ModuleType:
    """The file as a module of its own name; no compiled copy is left beside it."""
    file = file.absolute()
    _check_name(file)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None:
        raise CompressError(f"{file}: not a Python file. Give one with layers, such as blocks.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # it is the user's code
        del sys.modules[file.stem]
        line = _line(error, file)
        raise CompressError(
            f"{file}{line}: cannot be imported ({type(error).__name__}: {error}). "
            f"Try `python {file.name}` where it lies."
        ) from error
    return module


def _check_name(file: Path) -> None:
    name = file.stem
    if not name.isidentifier():
        raise CompressError(
            f"{file}: '{name}' is no name of a Python module, and checkpoints name the layers by "
            "it. Rename the file: letters, digits and '_'."
        )
    if name in sys.modules or _elsewhere(name, file):
        raise CompressError(
            f"{file}: another Python module is named '{name}', so a checkpoint could not tell "
            "them apart. Rename the file."
        )


def _elsewhere(name: str, file: Path) -> bool:
    """Whether Python finds another module of this name; a top-level one is not run for that."""
    found = importlib.util.find_spec(name)
    if found is None:
        return False
    origin = Path(found.origin or "")
    return not (origin.is_file() and origin.samefile(file))


def _line(error: BaseException, file: Path) -> str:
    """``:7``, the last line of ``file`` that led to the error; empty where none did."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f":{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    return f":{lines[-1]}" if lines else ""


def _classes(module: ModuleType) -> list[type]:
    """The classes that were defined in the file itself."""
    return [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        # a pickle names a class by this, and finds it by it
        and value.__qualname__ == name
    ]


def _layers(file: Path, classes: list[type]) -> dict[str, type]:
    layers = {value.__name__: value for value in classes if issubclass(value, nn.Module)}
    if not layers:
        raise CompressError(f"{file}: defines no layer, that is no class of torch.nn.Module.")
    taken = sorted(name for name in layers if hasattr(tasks, name))
    if taken:
        raise CompressError(
            f"{file}: ultralytics has a '{taken[0]}' of its own, and a model yaml could not tell "
            "them apart. Rename the class."
        )
    return layers
