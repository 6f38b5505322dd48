"""Which Jetson this is: module by the device tree, JetPack by the release of its Linux (L4T)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bench.devices.sysfs import read_text

# vendor's JetPack archive; L4T's third number counts from 0
_JETPACKS = {
    "32.6.1": "4.6",
    "32.7.1": "4.6.1",
    "32.7.2": "4.6.2",
    "32.7.3": "4.6.3",
    "32.7.4": "4.6.4",
    "32.7.5": "4.6.5",
    "32.7.6": "4.6.6",
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "35.6.2": "5.1.5",
    "35.6.3": "5.1.5",
    "35.6.4": "5.1.6",
    "35.6.5": "5.1.7",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}
# board number of the module, of which a part number is the longer one
_MODULES = {
    "p3448": "Jetson Nano",
    "p3310": "Jetson TX2",
    "p3489": "Jetson TX2",
    "p3636": "Jetson TX2 NX",
    "p2888": "Jetson AGX Xavier",
    "p3668": "Jetson Xavier NX",
    "p3767-0000": "Jetson Orin NX 16GB",
    "p3767-0001": "Jetson Orin NX 8GB",
    "p3767-0003": "Jetson Orin Nano 8GB",
    "p3767-0004": "Jetson Orin Nano 4GB",
    "p3767-0005": "Jetson Orin Nano 8GB",
    "p3701-0000": "Jetson AGX Orin",
    "p3701-0004": "Jetson AGX Orin 32GB",
    "p3701-0005": "Jetson AGX Orin 64GB",
    "p3701-0008": "Jetson AGX Orin Industrial",
    "p3834": "Jetson AGX Thor",
}
_SOCS = {
    "tegra210": "Jetson Nano or TX1",
    "tegra186": "Jetson TX2",
    "tegra194": "Jetson Xavier",
    "tegra234": "Jetson Orin",
    "tegra264": "Jetson Thor",
}


@dataclass(frozen=True)
class Board:
    """None where the board does not tell. ``model`` may name the carrier, ``module`` does not."""

    model: str | None
    module: str | None
    soc: str | None
    l4t: str | None
    jetpack: str | None


def read_board(root: Path) -> Board | None:
    """The Jetson whose ``proc`` and ``etc`` lie in ``root``; None where it is none."""
    tree = root / "proc/device-tree"
    compatible = read_text(tree / "compatible") or ""
    l4t = parse_release(read_text(root / "etc/nv_tegra_release") or "")
    soc = re.search(r"nvidia,(tegra\d{3})\b", compatible)
    if soc is None and l4t is None:
        return None
    return Board(
        model=read_text(tree / "model"),
        module=module_of(compatible),
        soc=soc[1] if soc else None,
        l4t=l4t,
        jetpack=_JETPACKS.get(l4t or ""),
    )


def parse_release(text: str) -> str | None:
    """``36.4.7`` of the first line of ``/etc/nv_tegra_release``."""
    found = re.search(r"^# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", text, re.MULTILINE)
    return f"{found[1]}.{found[2]}" if found else None


def module_of(compatible: str) -> str | None:
    """The module's name, by the NUL-separated ``compatible`` of the device tree."""
    for part in re.findall(r"p\d{4}-\d{4}", compatible):
        name = _MODULES.get(part) or _MODULES.get(part[:5])
        if name:
            return name
    soc = re.search(r"nvidia,(tegra\d{3})\b", compatible)
    return _SOCS.get(soc[1]) if soc else None
