"""The CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bench.devices.base import Look
from bench.power import PowerMeter


class CpuDevice:
    """This machine's CPU; its facts are those of ``bench.devices.machine``."""

    name = "cpu"

    def facts(self) -> dict[str, Any]:
        """Nothing beyond the machine's own facts."""
        return {}

    def state(self) -> dict[str, Any]:
        """Nothing that changes."""
        return {}

    @contextmanager
    def watched(self) -> Iterator[Sequence[Look]]:
        """No looks."""
        yield []

    def doubts(
        self, before: Mapping[str, Any], after: Mapping[str, Any], trace: Sequence[Look]
    ) -> list[str]:
        """None."""
        return []

    def power_meter(self) -> PowerMeter | None:
        """None."""
        return None
