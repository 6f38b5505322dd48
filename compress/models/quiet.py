"""ultralytics prints to a logger of its own and draws its own bars; ours take their place."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ultralytics.utils import LOGGER


@contextmanager
def quiet_ultralytics() -> Iterator[None]:
    """Only errors of ultralytics come through inside the block."""
    level = LOGGER.level
    LOGGER.setLevel(logging.ERROR)
    try:
        yield
    finally:
        LOGGER.setLevel(level)
