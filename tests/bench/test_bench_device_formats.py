"""What the vendor's commands and files print, release by release.

Lines of tegrastats, jetson_clocks and nvpmodel are as owners of the boards published them in logs
(Nano on L4T 32.7, AGX Xavier on 32, Xavier NX and AGX Orin on 35, Orin Nano and Thor on 39); the
release file and the device tree follow NVIDIA's developer guides and the sources of its kernels.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from board_trees import write_files

from bench.devices import jetson_clocks
from bench.devices.jetson_clocks import Clock
from bench.devices.l4t import module_of, parse_release, read_board
from bench.devices.libraries import cuda_version, tensorrt_version
from bench.devices.nvpmodel import (
    PowerMode,
    fastest,
    parse_modes,
    parse_query,
    parse_status,
    read_mode,
)
from bench.devices.rails import find_rails, total_of, total_watts
from bench.devices.tegrastats import parse_line

NANO = (
    "RAM 1923/3964MB (lfb 2x2MB) SWAP 191/1982MB (cached 6MB) IRAM 0/252kB(lfb 252kB) CPU "
    "[5%@1224,4%@1224,off,6%@1224] EMC_FREQ 0%@1600 GR3D_FREQ 0%@76 APE 25 PLL@37C CPU@40C "
    "PMIC@50C GPU@40C AO@45C thermal@40C POM_5V_IN 1750/1628 POM_5V_GPU 0/0 POM_5V_CPU 366/406"
)
XAVIER_NX = (
    "05-12-2023 10:11:12 RAM 1500/6854MB (lfb 2x2MB) SWAP 0/3427MB (cached 0MB) CPU "
    "[1%@1190,off,off] EMC_FREQ 0%@1600 GR3D_FREQ 0%@[114] AUX@45C CPU@46.5C "
    "thermal@45.9C VDD_IN 2763mW/2846mW VDD_CPU_GPU_CV 650mW/670mW VDD_SOC 650mW/711mW"
)
AGX_XAVIER = (
    "RAM 998/15692MB (lfb 3445x4MB) CPU [0%@1190,0%@1190] EMC_FREQ 0%@1331 GR3D_FREQ 0%@318 "
    "APE 150 MTS fg 0% bg 0% AO@35C GPU@34.5C GPU 0/0 CPU 311/311 SOC 932/932 CV 0/0 VDDRQ 621/621 "
    "SYS5V 1482/1482"
)
AGX_ORIN = (
    "RAM 2811/30592MB (lfb 6454x4MB) SWAP 0/15296MB (cached 0MB) CPU [0%@729,0%@729] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 0%@0 GR3D2_FREQ 0%@0 APE 174 CV0@-256C CPU@47.5C Tboard@36C "
    "SOC2@43.6C Tdiode@36.25C SOC0@44C CV1@-256C GPU@-256C tj@47.5C SOC1@43.3C CV2@-256C "
    "VDD_GPU_SOC 2399mW/2399mW VDD_CPU_CV 400mW/400mW VIN_SYS_5V0 4032mW/4032mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
ORIN_NANO = (
    "07-01-2026 08:00:01 RAM 1021/7620MB (lfb 4x4MB) SWAP 0/3810MB (cached 0MB) CPU "
    "[0%@729,3%@729] EMC_FREQ 0%@2133 GR3D_FREQ 0%@[305] NVDEC0 off NVJPG0 off VIC off OFA off "
    "APE 200 cpu@45.375C/45.812C gpu@44C/44.5C tj@45.5C/46C VDD_IN 3462mW/3522mW/3582mW "
    "VDD_CPU_GPU_CV 480mW/490mW/520mW VDD_SOC 1120mW/1130mW/1160mW"
)
THOR = (
    "RAM 9000/125772MB (lfb 2x4MB) CPU [1%@2601,2%@2601] EMC_FREQ 1%@4266 "
    "GR3D_FREQ @[1574,1573,1574] cpu@60.1C/61C tj@64.5C/65C VDD_GPU 37939mW/8660mW/37939mW "
    "VDD_CPU_SOC_MSS 10800mW/10000mW/11000mW VIN_SYS_5V0 7500mW/7400mW/7600mW "
    "VIN 124486mW/60000mW/125000mW"
)


@pytest.mark.parametrize(
    ("line", "gpu", "swap", "celsius", "milliwatts", "watts"),
    [
        (NANO, (0.0, 76.0), 191, {"GPU": 40.0, "AO": 45.0}, {"POM_5V_IN": 1750}, 1.75),
        (XAVIER_NX, (0.0, 114.0), 0, {"CPU": 46.5}, {"VDD_IN": 2763, "VDD_SOC": 650}, 2.763),
        (AGX_XAVIER, (0.0, 318.0), None, {"GPU": 34.5}, {"GPU": 0, "SYS5V": 1482}, 3.346),
        (AGX_ORIN, (0.0, 0.0), 0, {"CPU": 47.5}, {"VDDQ_VDD2_1V8AO": 301}, 6.831),
        (ORIN_NANO, (0.0, 305.0), 0, {"cpu": 45.375, "gpu": 44.0}, {"VDD_IN": 3462}, 3.462),
        (THOR, (None, 1574.0), None, {"tj": 64.5}, {"VDD_GPU": 37939, "VIN": 124486}, 124.486),
    ],
    ids=["nano", "xavier-nx", "agx-xavier", "agx-orin", "orin-nano", "thor"],
)
def test_lines_of_tegrastats(
    line: str,
    gpu: tuple[float | None, float],
    swap: int | None,
    celsius: dict[str, float],
    milliwatts: dict[str, int],
    watts: float,
) -> None:
    stats = parse_line(line)
    assert (stats.gpu_percent, stats.gpu_mhz) == gpu
    assert stats.swap_mb == swap
    assert celsius.items() <= stats.celsius.items()
    assert milliwatts.items() <= stats.milliwatts.items()
    assert total_watts(stats.milliwatts) == watts


def test_traps_of_tegrastats() -> None:
    nano, orin = parse_line(NANO), parse_line(AGX_ORIN)
    assert nano.cores_mhz == (1224, 1224, None, 1224)
    assert nano.milliwatts.keys() == {"POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"}
    assert nano.emc_mhz == 1600.0
    assert orin.celsius.keys() == {"CPU", "Tboard", "SOC2", "Tdiode", "SOC0", "tj", "SOC1"}
    assert "NC" not in orin.milliwatts
    assert parse_line("GR3D_FREQ 87%@[1574,1574,1574] ").gpu_percent == 87.0
    assert (
        parse_line("GR3D_FREQ 12% APE 25").gpu_percent,
        parse_line("GR3D_FREQ 12%").gpu_mhz,
    ) == (
        12.0,
        None,
    )
    empty = parse_line("tegrastats: permission denied")
    assert (empty.gpu_mhz, empty.swap_mb, empty.cores_mhz) == (None, None, ())
    assert not empty.celsius
    assert not empty.milliwatts


def test_totals_never_add_a_rail_to_what_it_feeds() -> None:
    assert total_of(parse_line(AGX_ORIN).milliwatts) == (
        ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0: the module",
    )
    assert total_of({"VIN": 1, "VIN_SYS_5V0": 1, "VDD_GPU": 1}) == (
        ("VIN",),
        "VIN: module and carrier board",
    )
    assert total_of({"VDD_GPU": 1}) is None
    assert total_watts({"VDD_GPU": 1.0}) is None
    assert total_watts({"VDD_IN": None}) is None
    assert total_watts({"VDD_GPU_SOC": 1.0, "VDD_CPU_CV": None, "VIN_SYS_5V0": 1.0}) is None


@pytest.mark.parametrize(
    ("line", "l4t"),
    [
        ("# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64", "32.7.1"),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref", "35.4.1"),
        ("# R36 (release), REVISION: 4.7, GCID: 42132812\n# KERNEL_VARIANT: oot", "36.4.7"),
        ("# R39 (release), REVISION: 2.1, GCID: 1, BOARD: generic", "39.2.1"),
        ("Ubuntu", None),
        ("", None),
    ],
)
def test_the_release_file(line: str, l4t: str | None) -> None:
    assert parse_release(line) == l4t


@pytest.mark.parametrize(
    ("compatible", "module"),
    [
        (
            "nvidia,p3449-0000-b00+p3448-0000-b00\0nvidia,jetson-nano\0nvidia,tegra210",
            "Jetson Nano",
        ),
        ("nvidia,p3509-0000+p3668-0001\0nvidia,tegra194", "Jetson Xavier NX"),
        ("nvidia,p2972-0000\0nvidia,tegra194", "Jetson Xavier"),
        # the carrier of an Orin Nano, and an Orin NX on it
        ("nvidia,p3768-0000+p3767-0000\0nvidia,p3767-0000\0nvidia,tegra234", "Jetson Orin NX 16GB"),
        ("nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234", "Jetson Orin Nano 8GB"),
        ("nvidia,p3737-0000+p3701-0005\0nvidia,tegra234", "Jetson AGX Orin 64GB"),
        ("nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264", "Jetson AGX Thor"),
        ("acme,box\0nvidia,tegra234", "Jetson Orin"),
        ("raspberrypi,5-model-b\0brcm,bcm2712", None),
    ],
)
def test_the_module_is_that_of_the_device_tree(compatible: str, module: str | None) -> None:
    assert module_of(compatible) == module


def test_a_container_without_the_release_file_is_a_jetson(tmp_path: Path) -> None:
    write_files(tmp_path, {"proc/device-tree/compatible": "nvidia,p3701-0004\0nvidia,tegra234\0"})
    board = read_board(tmp_path)
    assert board is not None
    assert (board.module, board.l4t, board.jetpack) == ("Jetson AGX Orin 32GB", None, None)


def test_a_release_that_is_not_listed_has_no_jetpack(tmp_path: Path) -> None:
    write_files(tmp_path, {"etc/nv_tegra_release": "# R41 (release), REVISION: 1.0, GCID: 1"})
    board = read_board(tmp_path)
    assert board is not None
    assert (board.l4t, board.jetpack, board.soc) == ("41.1.0", None, None)


ORIN_CLOCKS = """SOC family:tegra234  Machine:Jetson AGX Orin
Online CPUs: 0-11
cpu0: Online=1 Governor=schedutil MinFreq=729600 MaxFreq=2201600 CurrentFreq=2201600 \
IdleStates: WFI=1 c7=1
GPU MinFreq=306000000 MaxFreq=1300500000 CurrentFreq=306000000
Active GPU TPCs: 8
EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=2133000000 FreqOverride=0
DLA0_CORE:   Online=1 MinFreq=0 MaxFreq=1600000000 CurrentFreq=1600000000
DLA0_FALCON: Online=1 MinFreq=0 MaxFreq=844800000 CurrentFreq=844800000
FAN Dynamic Speed Control=nvfancontrol hwmon1_pwm1=60
NV Power Mode: MAXN
"""
THOR_CLOCKS = """cpu0: Governor=schedutil MinFreq=2601000 MaxFreq=2601000 CurrentFreq=2601000 \
IdleStates: WFI=0 c7=0
GPU MinFreq=1575000000 MaxFreq=1575000000 CurrentFreq=1575000000
EMC MinFreq=4266000000 MaxFreq=4266000000 CurrentFreq=4266000000
"""


def test_clocks_as_jetson_clocks_shows_them() -> None:
    clocks = jetson_clocks.parse_show(ORIN_CLOCKS)
    assert clocks["cpu0"] == Clock(729_600, 2_201_600, 2_201_600)
    assert clocks["GPU"] == Clock(306_000_000, 1_300_500_000, 306_000_000)
    assert clocks["EMC"].now == 2_133_000_000
    assert clocks["DLA0_CORE"].most == 1_600_000_000
    assert jetson_clocks.locked(clocks) is False
    assert jetson_clocks.locked(jetson_clocks.parse_show(THOR_CLOCKS)) is True
    assert jetson_clocks.locked(jetson_clocks.parse_show("Please run as root")) is None


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN\n0\n", PowerMode(0, "MAXN")),
        (
            "NV Fan Mode:quiet\nNV Power Mode: MODE_15W_6CORE\n2\n",
            PowerMode(2, "MODE_15W_6CORE"),
        ),
        (
            "NVPM ERROR: Error opening /sys/kernel/nvpmodel_emc_cap/emc_iso_cap: 13\n"
            "NVPM ERROR: failed to read PARAM EMC\nNV Power Mode: 15W\n0\n",
            PowerMode(0, "15W"),
        ),
        ("NVPM ERROR: failed to open\n", None),
        ("", None),
    ],
)
def test_the_mode_as_nvpmodel_tells_it(text: str, mode: PowerMode | None) -> None:
    assert parse_query(text) == mode


@pytest.mark.parametrize(
    ("text", "number"), [("pmode:0002 fmode:quiet", 2), ("pmode:0000", 0), ("", None)]
)
def test_the_mode_that_was_last_set(text: str, number: int | None) -> None:
    assert parse_status(text) == number


SUPER = """# comment: < POWER_MODEL ID=9 NAME=OLD >
< PARAM TYPE=CLOCK NAME=GPU >
MAX_FREQ /sys/devices/gpu/max_freq
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
CPU_ONLINE CORE_1 0
GPU MIN_FREQ 0
GPU MAX_FREQ 612000000
< POWER_MODEL ID=1 NAME=25W >
GPU MAX_FREQ 918000000
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
GPU MAX_FREQ -1
< POWER_MODEL ID=3 NAME=7W >
GPU MAX_FREQ 408000000
< PM_CONFIG DEFAULT=1 >
"""


def test_the_fastest_mode_is_neither_the_first_nor_the_last() -> None:
    modes = parse_modes(SUPER)
    assert [mode.id for mode in modes] == [0, 1, 2, 3]
    assert modes[0] == PowerMode(0, "15W", 612_000_000, cores=1)
    assert fastest(modes) == PowerMode(2, "MAXN_SUPER")
    assert [mode.slower_than(modes[2]) for mode in modes] == [True, True, False, True]
    assert fastest([]) is None


def test_watts_rank_where_there_is_no_maxn_and_cores_break_ties() -> None:
    names = ("MODE_15W_6CORE", "MODE_20W_2CORE", "MODE_20W_6CORE", "MODE_10W_4CORE")
    modes = [
        PowerMode(number, name, 1.1e9, cores=int(name[-5])) for number, name in enumerate(names)
    ]
    best = fastest(modes)
    assert best == modes[2]
    assert not modes[1].slower_than(modes[2])  # fewer cores are no slower GPU
    assert modes[0].slower_than(modes[2])


def test_what_the_command_says_counts_more_than_the_file(tmp_path: Path) -> None:
    files = {"etc/nvpmodel.conf": SUPER, "var/lib/nvpmodel/status": "pmode:0001"}
    write_files(tmp_path, files)
    assert read_mode(tmp_path, lambda command: None) == PowerMode(1, "25W", 918_000_000)
    told = "NV Power Mode: 7W\n3\n"
    assert read_mode(tmp_path, lambda command: told) == PowerMode(3, "7W", 408_000_000)
    custom = "NV Power Mode: CUSTOM\n7\n"
    assert read_mode(tmp_path, lambda command: custom) == PowerMode(7, "CUSTOM")
    assert read_mode(tmp_path / "nothing", lambda command: None) is None


def test_rails_without_a_label_or_connection_are_left_out(tmp_path: Path) -> None:
    chip = "sys/class/hwmon/hwmon7"
    files = {
        f"{chip}/name": "ina3221",
        f"{chip}/in1_label": "VDD_IN",
        f"{chip}/in1_input": "5000",
        f"{chip}/curr1_input": "1000",
        f"{chip}/in2_label": "NC",
        f"{chip}/in3_label": "VDD_SOC",
        f"{chip}/in3_input": "5000",
        f"{chip}/in7_label": "sum of shunt voltages",
        "sys/class/hwmon/hwmon8/name": "nvme",
        "sys/class/hwmon/hwmon8/in1_label": "VDD_NVME",
    }
    rails = find_rails(write_files(tmp_path, files))
    assert {name: read() for name, read in rails.items()} == {"VDD_IN": 5000.0, "VDD_SOC": None}


def test_versions_come_from_files_of_every_jetpack(tmp_path: Path) -> None:
    ten = write_files(tmp_path / "10", {"usr/local/cuda/version.txt": "CUDA Version 10.2.300\n"})
    assert cuda_version(ten) == "10.2.300"
    for text in ("{", "[]", '{"cuda": 1}'):
        assert (
            cuda_version(write_files(tmp_path / "bad", {"usr/local/cuda/version.json": text}))
            is None
        )
    assert cuda_version(tmp_path / "nothing") is None
    header = "".join(
        f"#define TRT_{part}_ENTERPRISE {number}\n"
        f"#define NV_TENSORRT_{part} TRT_{part}_ENTERPRISE\n"
        for part, number in (("MAJOR", 10), ("MINOR", 13), ("PATCH", 3), ("BUILD", 9))
    )
    thor = write_files(tmp_path / "thor", {"usr/include/NvInferVersion.h": header})
    assert tensorrt_version(thor) == "10.13.3"
