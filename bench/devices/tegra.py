"""What the kernel of a Jetson tells: clocks of GPU, memory and DLA, heat, over-current."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.devices.sysfs import first_int, read_int, read_text

# in /sys/class/devfreq: Thor; TX2; Xavier; Orin on L4T 35; Nano and Orin on L4T 36
_GPUS = ("gpu-gpc-0", "*.gp10b", "*.gv11b", "*.ga10b", "*.gpu")
_LOADS = ("sys/devices/gpu.0/load", "sys/devices/platform/gpu.0/load")
# Thor; Xavier and Orin; Nano. All but Thor's are for root
_MEMORY_CLOCKS = (
    "sys/class/devfreq/bwmgr/cur_freq",
    "sys/kernel/debug/bpmp/debug/clk/emc/rate",
    "sys/kernel/debug/clk/override.emc/clk_rate",
)
_DLA_CLOCKS = (
    "sys/kernel/debug/bpmp/debug/clk/dla{}_core/rate",
    "sys/kernel/debug/clk/dla{}_core/clk_rate",
)
_SWITCHED_OFF_C = -200.0


@dataclass(frozen=True)
class GpuClock:
    """In MHz. ``least`` and ``most`` are the bounds that are set."""

    now: float
    least: float | None
    most: float | None

    @property
    def locked(self) -> bool | None:
        """Whether there is no range left; None where the bounds are not told."""
        if self.least is None or self.most is None:
            return None
        return self.least == self.most


def find_gpu(root: Path) -> Path | None:
    """The folder that tells the GPU's clock."""
    devices = root / "sys/class/devfreq"
    found = (folder for pattern in _GPUS for folder in sorted(devices.glob(pattern)))
    return next(found, None)


def gpu_clock(folder: Path | None) -> GpuClock | None:
    """What the folder of ``find_gpu`` tells; None where it tells nothing."""
    if folder is None:
        return None
    now, least, most = (mhz(read_int(folder / f"{kind}_freq")) for kind in ("cur", "min", "max"))
    return None if now is None else GpuClock(now, least, most)


def gpu_percent(root: Path) -> float | None:
    """How busy the GPU is."""
    load = first_int(*(root / path for path in _LOADS))
    if load is None:
        load = first_int(*sorted(root.glob("sys/class/devfreq/*.g*/device/load")))
    return None if load is None else load / 10


def memory_mhz(root: Path) -> float | None:
    """The clock of the memory controller (EMC)."""
    return mhz(first_int(*(root / path for path in _MEMORY_CLOCKS)))


def dla_mhz(root: Path) -> list[float]:
    """The clocks of the DLA cores; empty where there is none, or only root may read them."""
    clocks = (
        mhz(first_int(*(root / path.format(core) for path in _DLA_CLOCKS))) for core in (0, 1)
    )
    return [clock for clock in clocks if clock is not None]


def find_zones(root: Path) -> dict[str, Path]:
    """The file of each temperature: ``gpu`` and ``cpu``, ``tj`` for the hottest junction."""
    zones = {
        read_text(zone / "type") or "": zone / "temp"
        for zone in sorted(root.glob("sys/class/thermal/thermal_zone*"))
    }
    return {re.sub(r"[-_]therm(al)?$", "", name).lower(): file for name, file in zones.items()}


def celsius(file: Path | None) -> float | None:
    """Degrees of one of ``find_zones``; None where it is switched off."""
    millidegrees = None if file is None else read_int(file)
    degrees = None if millidegrees is None else millidegrees / 1000
    return None if degrees is None or degrees < _SWITCHED_OFF_C else degrees


def find_alarms(root: Path) -> dict[str, Path]:
    """The file of each alarm that the kernel raises when it slows something down for heat."""
    return {
        name: cooler / "cur_state"
        for cooler in sorted(root.glob("sys/class/thermal/cooling_device*"))
        if (name := read_text(cooler / "type") or "").endswith("throttle-alert")
    }


def raised(alarms: Mapping[str, Path]) -> list[str]:
    """Those of ``find_alarms`` that are on, such as ``gpu-throttle-alert``."""
    return [name for name, file in alarms.items() if (read_int(file) or 0) > 0]


def too_hot(root: Path) -> list[str]:
    """Zones at or beyond the temperature from which on the kernel slows them down."""
    zones = sorted(root.glob("sys/class/thermal/thermal_zone*"))
    return [str(read_text(zone / "type")) for zone in zones if _beyond_its_trip(zone)]


def over_current_events(root: Path) -> int | None:
    """How often the hardware cut clocks since boot, for too little voltage or too much current."""
    counters = [read_int(path) for path in root.glob("sys/class/hwmon/hwmon*/oc*_event_cnt")]
    known = [count for count in counters if count is not None]
    return sum(known) if known else None


def mhz(hertz: int | None) -> float | None:
    """Of a clock in Hz."""
    return None if hertz is None else hertz / 1e6


def _beyond_its_trip(zone: Path) -> bool:
    now = celsius(zone / "temp")
    trips = [
        trip
        for kind in zone.glob("trip_point_*_type")
        if read_text(kind) == "passive"
        and (trip := celsius(kind.with_name(kind.name.replace("_type", "_temp")))) is not None
    ]
    return now is not None and bool(trips) and now >= min(trips)
