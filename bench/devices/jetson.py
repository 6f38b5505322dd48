"""A Jetson, whose GPU shares memory and power with its CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.devices import jetson_clocks, nvpmodel, tegra
from bench.devices.commands import find_command, run_command
from bench.devices.jetson_power import jetson_meter, kernel_rails
from bench.devices.jtop import has_jtop, jtop_looks
from bench.devices.kernel import growth, load_average, swap_doubts, swapped_pages
from bench.devices.l4t import read_board
from bench.devices.libraries import cuda_version, tensorrt_version
from bench.devices.machine import read_machine
from bench.devices.rails import total_watts
from bench.devices.sysfs import read_int, read_text
from bench.devices.tegrastats import Stats, tegrastats
from bench.devices.watch import watch
from bench.errors import BenchError
from bench.power import PowerMeter

if TYPE_CHECKING:
    from bench.devices.base import Look
    from bench.devices.commands import Find, Run
    from bench.devices.nvpmodel import PowerMode

_INTERVAL = 1.0


class JetsonDevice:
    """This board: what its kernel, nvpmodel and jetson_clocks tell.

    Args:
        root: where ``proc``, ``sys``, ``etc``, ``usr`` and ``var`` lie.
        run: gives the output of a command, None where it fails.
        find: tells where a command lies, None where there is none.

    Raises:
        BenchError: it is no Jetson.
    """

    name = "jetson"

    def __init__(
        self, root: Path = Path("/"), run: Run = run_command, find: Find = find_command
    ) -> None:
        self._root, self._find = root, find
        board = read_board(root)
        if board is None:
            raise BenchError(
                f"This machine ({read_machine(root).cpu}) is no Jetson: it has neither "
                "/etc/nv_tegra_release nor a Tegra in /proc/device-tree/compatible. Run the same "
                "command on the board, or reach it from here: --host user@jetson."
            )
        self._gpu, self._read_rails = tegra.find_gpu(root), kernel_rails(root)
        self._zones, self._alarms = tegra.find_zones(root), tegra.find_alarms(root)
        self._mode = nvpmodel.read_mode(root, run)
        self._fastest = nvpmodel.fastest(nvpmodel.read_modes(root))
        self._facts = {**asdict(board), **_settings(self._gpu, run, self._mode), **_software(root)}

    def facts(self) -> dict[str, Any]:
        """As it was when this object was made: module, JetPack, power mode, bounds of clocks."""
        return dict(self._facts)

    def state(self) -> dict[str, Any]:
        """Clocks, load, temperatures, power, and what should not rise or be slowed down."""
        memory, dla = tegra.memory_mhz(self._root), tegra.dla_mhz(self._root)
        if memory is None and has_jtop():
            with jtop_looks() as latest:
                look = latest()
            if look is not None:
                memory, dla = look.memory_mhz, dla or list(look.dla_mhz)
        return {
            **self._look(),
            "gpu_percent": tegra.gpu_percent(self._root),
            "memory_mhz": memory,
            "dla_mhz": dla,
            "celsius": {
                name: degrees
                for name, file in self._zones.items()
                if (degrees := tegra.celsius(file)) is not None
            },
            "slowed_down": [*tegra.raised(self._alarms), *tegra.too_hot(self._root)],
            "over_current_events": tegra.over_current_events(self._root),
            "swapped_pages": swapped_pages(self._root),
            "load": load_average(self._root),
        }

    def watched(self) -> AbstractContextManager[Sequence[Look]]:
        """``gpu_mhz``, ``gpu_c``, ``cpu_c``, ``watts``, and how many things are ``slowed_down``.

        Power and clock are those of tegrastats where the kernel shows no rails.
        """
        command = self._find("tegrastats")
        if self._watts() is not None or command is None:
            return watch(self._slowed_look, _INTERVAL)
        return self._watched_with(command)

    def doubts(
        self, before: Mapping[str, Any], after: Mapping[str, Any], trace: Sequence[Look]
    ) -> list[str]:
        """Clocks that are not locked, a slow power mode, heat, over-current, swapping."""
        return [
            *self._clock_doubts(),
            *self._mode_doubts(),
            *_heat_doubts(before, after, trace),
            *_current_doubts(before, after),
            *swap_doubts(before, after),
            *self._power_doubts(),
        ]

    def power_meter(self) -> PowerMeter | None:
        """Of the whole module where its rails are told; see ``bench.devices.rails``."""
        return self._meter

    @cached_property
    def _meter(self) -> PowerMeter | None:
        return jetson_meter(self._root, self._find)

    @contextmanager
    def _watched_with(self, command: str) -> Iterator[Sequence[Look]]:
        with tegrastats(command) as latest:
            look_on = watch(lambda: {**self._slowed_look(), **_told(latest())}, _INTERVAL)
            with look_on as looks:
                yield looks

    def _look(self) -> dict[str, float | None]:
        return {
            "gpu_mhz": None if self._gpu is None else tegra.mhz(read_int(self._gpu / "cur_freq")),
            "gpu_c": tegra.celsius(self._zones.get("gpu")),
            "cpu_c": tegra.celsius(self._zones.get("cpu")),
            "watts": self._watts(),
        }

    def _watts(self) -> float | None:
        return total_watts(self._read_rails())

    def _slowed_look(self) -> dict[str, float | None]:
        return {**self._look(), "slowed_down": len(tegra.raised(self._alarms))}

    def _clock_doubts(self) -> list[str]:
        if self._facts["clocks_locked"]:
            return []
        if self._facts["clocks_locked"] is None:
            return ["whether clocks are locked is not told: sudo jetson_clocks locks them."]
        return ["the clocks are not locked, so times depend on load: sudo jetson_clocks."]

    def _mode_doubts(self) -> list[str]:
        mode, best = self._mode, self._fastest
        if mode is None:
            return ["the power mode is not told: sudo nvpmodel -q shows it."]
        if best is None or not mode.slower_than(best):
            return []
        return [
            f"the power mode is {mode.name}; {best.name} is faster: sudo nvpmodel -m {best.id}, "
            "then sudo jetson_clocks."
        ]

    def _power_doubts(self) -> list[str]:
        if self._watts() is not None or has_jtop() or self._find("tegrastats"):
            return []
        return [
            "no power rail can be read, so energy is not measured: in a container, mount the "
            "board's /sys, or install jetson-stats on both sides."
        ]


def _settings(gpu_folder: Path | None, run: Run, mode: PowerMode | None) -> dict[str, Any]:
    shown = jetson_clocks.parse_show(run(["jetson_clocks", "--show"]) or "")
    locked, gpu = jetson_clocks.locked(shown), tegra.gpu_clock(gpu_folder)
    return {
        "power_mode": mode and {"id": mode.id, "name": mode.name},
        "clocks_locked": locked if locked is not None else gpu and gpu.locked,
        "gpu_min_mhz": gpu and gpu.least,
        "gpu_max_mhz": gpu and gpu.most,
        "dla_max_mhz": [
            clock.most / 1e6
            for name, clock in sorted(shown.items())
            if name.startswith("DLA") and name.endswith("_CORE")
        ],
    }


def _software(root: Path) -> dict[str, Any]:
    """Versions, and where swap lies, such as /dev/zram0."""
    swaps = (read_text(root / "proc/swaps") or "").splitlines()[1:]
    return {
        "cuda": cuda_version(root),
        "tensorrt": tensorrt_version(root),
        "swaps": [line.split()[0] for line in swaps if line.split()],
    }


def _told(stats: Stats | None) -> dict[str, float | None]:
    """What a line of tegrastats tells in place of the kernel."""
    if stats is None:
        return {}
    told = {"watts": total_watts(stats.milliwatts), "gpu_mhz": stats.gpu_mhz}
    return {name: value for name, value in told.items() if value is not None}


def _heat_doubts(
    before: Mapping[str, Any], after: Mapping[str, Any], trace: Sequence[Look]
) -> list[str]:
    slowed = dict.fromkeys([*before.get("slowed_down", []), *after.get("slowed_down", [])])
    if not slowed and not any(look.get("slowed_down") for look in trace):
        return []
    hottest = max([*after.get("celsius", {}).values(), *_seen(trace, "gpu_c")], default=None)
    where = f" ({', '.join(slowed)})" if slowed else ""
    at = "" if hottest is None else f" at {hottest:.0f} °C"
    return [f"the board slowed itself down for heat{where}{at}: cool it, or run its fan faster."]


def _current_doubts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    events = growth(before, after, "over_current_events")
    if events <= 0:
        return []
    return [
        f"the board cut its clocks {events} times for over-current or low voltage: use a stronger "
        "supply, or a lower power mode."
    ]


def _seen(trace: Sequence[Look], name: str) -> list[float]:
    return [float(look[name]) for look in trace if name in look]
