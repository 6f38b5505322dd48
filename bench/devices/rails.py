"""Power rails of a Jetson, measured by INA3221 (and on Thor INA238) chips that sysfs shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.devices.sysfs import read_int, read_text

if TYPE_CHECKING:
    ReadMilliwatts = Callable[[], float | None]

# the rails that together are all of it, never a rail and what it feeds: AGX Orin's
# VDDQ_VDD2_1V8AO, for one, hangs on VIN_SYS_5V0
_TOTALS = (
    (("VIN",), "module and carrier board"),
    (("VDD_IN",), "the module"),
    (("POM_5V_IN",), "the module"),
    (("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), "the module"),
    (("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"), "the module"),
)
_SHUNT_SUM = "7"


def find_rails(root: Path) -> dict[str, ReadMilliwatts]:
    """What reads the milliwatts of each rail, by its name."""
    return {**_iio_rails(root), **_hwmon_rails(root)}


def total_of(names: Mapping[str, object]) -> tuple[tuple[str, ...], str] | None:
    """Which of the rails add up to the whole, and what that is; None if they do not."""
    for parts, scope in _TOTALS:
        if all(part in names for part in parts):
            return parts, f"{' + '.join(parts)}: {scope}"
    return None


def total_watts(milliwatts: Mapping[str, float | None]) -> float | None:
    """The sum over ``total_of``; None where one of them is missing or not read."""
    total = total_of(milliwatts)
    values = [milliwatts[part] for part in total[0]] if total else [None]
    known = [value for value in values if value is not None]
    return sum(known) / 1000 if len(known) == len(values) else None


def _iio_rails(root: Path) -> dict[str, ReadMilliwatts]:
    """As L4T 32 shows them."""
    rails: dict[str, ReadMilliwatts] = {}
    for label in sorted(root.glob("sys/bus/i2c/drivers/ina3221x/*/iio*device*/rail_name_*")):
        power = label.with_name(f"in_power{label.name[len('rail_name_') :]}_input")
        rails[read_text(label) or ""] = partial(read_int, power)
    return _named(rails)


def _hwmon_rails(root: Path) -> dict[str, ReadMilliwatts]:
    """As L4T 35 and later show them."""
    rails: dict[str, ReadMilliwatts] = {}
    for chip in sorted(root.glob("sys/class/hwmon/hwmon*")):
        kind = read_text(chip / "name")
        if kind == "ina3221":
            for label in sorted(chip.glob("in*_label")):
                number = re.sub(r"\D", "", label.name)
                if number != _SHUNT_SUM:
                    rails[read_text(label) or ""] = _volts_times_amperes(chip, number)
        elif kind == "ina238":
            label_text = read_text(chip / "in1_label") or read_text(chip / "in0_label") or "VIN"
            rails[label_text] = _microwatts(chip / "power1_input")
    return _named(rails)


def _named(rails: dict[str, ReadMilliwatts]) -> dict[str, ReadMilliwatts]:
    return {name: read for name, read in rails.items() if name not in ("", "NC")}


def _volts_times_amperes(chip: Path, number: str) -> ReadMilliwatts:
    def read() -> float | None:
        millivolts = read_int(chip / f"in{number}_input")
        milliamperes = read_int(chip / f"curr{number}_input")
        if millivolts is None or milliamperes is None:
            return None
        return millivolts * milliamperes / 1000

    return read


def _microwatts(path: Path) -> ReadMilliwatts:
    def read() -> float | None:
        microwatts = read_int(path)
        return None if microwatts is None else microwatts / 1000

    return read
