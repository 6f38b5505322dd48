"""Parameters that only `make test-all` takes; a quick one stands beside them."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any) -> list[Any]:
    """These values of a single parameter, marked."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def slow_if(names: set[str], values: Any) -> list[Any]:
    """All values, those in ``names`` marked."""
    return [slow(value)[0] if value in names else value for value in values]
