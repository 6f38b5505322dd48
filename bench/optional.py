"""Libraries that the base install may lack, imported only when they are used."""

from __future__ import annotations

import importlib
from typing import Any

from bench.errors import BenchError


def require(name: str, extra: str = "train") -> Any:
    """Import the module ``name``, which the extra ``extra`` brings.

    Raises:
        BenchError: it is missing or broken; the message holds the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BenchError(
            f"'{name}' is needed to measure these files and cannot be imported ({error}). "
            f"Install it: pip install 'yolo-compress[{extra}]'"
        ) from error
