"""What the bench asks of a device: what it is, how it fares, and what it draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from bench.power import PowerMeter

if TYPE_CHECKING:
    Look = Mapping[str, Any]


class Device(Protocol):
    """A machine with what computes in it. Making one raises BenchError where it is not there."""

    @property
    def name(self) -> str:
        """``cpu``, ``cuda`` or ``jetson``."""

    def facts(self) -> dict[str, Any]:
        """What it is, such as model, driver, power mode: JSON values."""

    def state(self) -> dict[str, Any]:
        """How it is at this moment, such as clocks, temperatures, throttling, swap: JSON values."""

    def watched(self) -> AbstractContextManager[Sequence[Look]]:
        """Look at it now and then, inside the block, from a thread of its own.

        The block's value grows: ``seconds`` since its begin and named numbers, one entry a look.
        """

    def doubts(
        self, before: Mapping[str, Any], after: Mapping[str, Any], trace: Sequence[Look]
    ) -> list[str]:
        """Why times of this run are to be doubted, and what to do: one sentence each."""

    def power_meter(self) -> PowerMeter | None:
        """What tells the power it draws; None where nothing does."""
