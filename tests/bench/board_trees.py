"""File trees as Jetsons show them, for whoever needs a board that is not there.

Names and formats are those of the boards: of NVIDIA's developer guides for L4T 32, 35, 36 and 38
(nvpmodel, INA3221, thermal zones, over-current counters), of the sources of jetson-stats (devfreq,
iio), of the kernel's hwmon documentation, and of logs that owners published.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

Files = Mapping[str, str]
UNREADABLE = "a folder, so that reading it fails"

_SENTENCE = "EABI: aarch64, DATE: Sat Feb 19 17:05:08 UTC 2022"


def _release(release: int, revision: str, board: str, more: str = "") -> Files:
    line = f"# R{release} (release), REVISION: {revision}, GCID: 1, BOARD: {board}, {_SENTENCE}\n"
    return {"etc/nv_tegra_release": line + more}


def _tree(model: str, *compatible: str) -> Files:
    return {
        "proc/device-tree/model": f"{model}\0",
        "proc/device-tree/compatible": "".join(f"{name}\0" for name in compatible),
    }


def _gpu(name: str, now: int, least: int, most: int) -> Files:
    folder = f"sys/class/devfreq/{name}"
    return {
        f"{folder}/cur_freq": f"{now}\n",
        f"{folder}/min_freq": f"{least}\n",
        f"{folder}/max_freq": f"{most}\n",
    }


def _modes(now: int, *modes: tuple[str, int, int]) -> Files:
    """``modes``: name, cap of the GPU's clock, CPU cores; their ids count from 0."""
    lines = ["< PARAM TYPE=FILE NAME=CPU_ONLINE >", "CORE_0 /sys/devices/system/cpu/cpu0/online"]
    for number, (name, hertz, cores) in enumerate(modes):
        lines += [f"# mode {name}", f"< POWER_MODEL ID={number} NAME={name} >"]
        lines += [f"CPU_ONLINE CORE_{core} {int(core < cores)}" for core in range(8)]
        lines += ["GPU MIN_FREQ 0", f"GPU MAX_FREQ {hertz}", "EMC MAX_FREQ 0"]
    lines.append("< PM_CONFIG DEFAULT=0 >")
    return {
        "etc/nvpmodel.conf": "\n".join(lines) + "\n",
        "var/lib/nvpmodel/status": f"pmode:{now:04} fmode:quiet",
    }


def _zones(**celsius: float | None) -> Files:
    files = {}
    for number, (name, value) in enumerate(celsius.items()):
        zone = f"sys/class/thermal/thermal_zone{number}"
        files[f"{zone}/type"] = f"{name.replace('_', '-')}\n"
        files[f"{zone}/temp"] = UNREADABLE if value is None else f"{value * 1000:.0f}\n"
        files[f"{zone}/trip_point_0_type"] = "critical\n"
        files[f"{zone}/trip_point_0_temp"] = "104500\n"
        files[f"{zone}/trip_point_1_type"] = "passive\n"
        files[f"{zone}/trip_point_1_temp"] = "99000\n"
        files[f"{zone}/trip_point_2_type"] = "active\n"  # the fan's
        files[f"{zone}/trip_point_2_temp"] = "20000\n"
    return files


def _coolers(**states: int) -> Files:
    files = {}
    for number, (name, state) in enumerate(states.items()):
        cooler = f"sys/class/thermal/cooling_device{number}"
        files[f"{cooler}/type"] = f"{name.replace('_', '-')}\n"
        files[f"{cooler}/cur_state"] = f"{state}\n"
    return files


def _ina3221(hwmon: int, *rails: tuple[str, int, int]) -> Files:
    """``rails``: label, mV, mA."""
    chip = f"sys/class/hwmon/hwmon{hwmon}"
    files = {f"{chip}/name": "ina3221\n", f"{chip}/in7_label": "sum of shunt voltages\n"}
    files |= {f"{chip}/in7_input": "88\n"}
    for number, (label, millivolts, milliamperes) in enumerate(rails, 1):
        files[f"{chip}/in{number}_label"] = f"{label}\n"
        files[f"{chip}/in{number}_input"] = f"{millivolts}\n"
        files[f"{chip}/curr{number}_input"] = f"{milliamperes}\n"
    return files


def _over_current(hwmon: int, *counts: int) -> Files:
    chip = f"sys/class/hwmon/hwmon{hwmon}"
    return {f"{chip}/name": "soctherm_oc\n"} | {
        f"{chip}/oc{number}_event_cnt": f"{count}\n" for number, count in enumerate(counts, 1)
    }


def _libraries(cuda: str, tensorrt: str, prefix: str = "NV_TENSORRT_{}") -> Files:
    numbers = zip(("MAJOR", "MINOR", "PATCH"), tensorrt.split("."), strict=True)
    header = "".join(f"#define {prefix.format(part)} {value}\n" for part, value in numbers)
    return {
        "usr/local/cuda/version.json": f'{{"cuda": {{"name": "CUDA SDK", "version": "{cuda}"}}}}',
        "usr/include/aarch64-linux-gnu/NvInferVersion.h": header,
    }


_COMMON = {
    "proc/vmstat": "nr_free_pages 1\npswpin 100\npswpout 200\n",
    "proc/loadavg": "0.52 0.58 0.59 1/467 12345\n",
    "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition 991128 0 5\n",
    "proc/stat": "cpu  100 0 50 1000 0 0 0 0 0 0\n",
}
_NANO = {
    **_release(32, "7.1", "t210ref"),
    **_tree(
        "NVIDIA Jetson Nano Developer Kit",
        "nvidia,p3449-0000-b00+p3448-0000-b00",
        "nvidia,jetson-nano",
        "nvidia,tegra210",
    ),
    **_gpu("57000000.gpu", 921_600_000, 921_600_000, 921_600_000),
    **_modes(0, ("MAXN", -1, 4), ("5W", 640_000_000, 2)),
    **_zones(AO_therm=45, CPU_therm=40, GPU_therm=39.5, PLL_therm=37, PMIC_Die=50),
    "sys/devices/gpu.0/load": "125\n",
    "usr/local/cuda/version.txt": "CUDA Version 10.2.300\n",
    "usr/include/aarch64-linux-gnu/NvInferVersion.h": (
        "#define NV_TENSORRT_MAJOR 8 //!< TensorRT major version.\n"
        "#define NV_TENSORRT_MINOR 2\n#define NV_TENSORRT_PATCH 1\n#define NV_TENSORRT_BUILD 8\n"
    ),
    **{
        f"sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/{file}": f"{value}\n"
        for number, (label, milliwatts) in enumerate(
            [("POM_5V_IN", 1750), ("POM_5V_GPU", 40), ("POM_5V_CPU", 366)]
        )
        for file, value in [
            (f"rail_name_{number}", label),
            (f"in_power{number}_input", milliwatts),
        ]
    },
}
_XAVIER_NX = {
    **_release(35, "4.1", "t186ref"),
    **_tree(
        "NVIDIA Jetson Xavier NX Developer Kit", "nvidia,p3509-0000+p3668-0000", "nvidia,tegra194"
    ),
    **_gpu("17000000.gv11b", 1_109_250_000, 1_109_250_000, 1_109_250_000),
    **_modes(
        2,
        ("MODE_15W_2CORE", 1_109_250_000, 2),
        ("MODE_20W_2CORE", 1_109_250_000, 2),
        ("MODE_20W_6CORE", 1_109_250_000, 6),
        ("MODE_10W_4CORE", 803_250_000, 4),
    ),
    **_zones(CPU_therm=46.5, GPU_therm=45, AUX_therm=45),
    **_ina3221(2, ("VDD_IN", 5000, 552), ("VDD_CPU_GPU_CV", 5000, 130), ("VDD_SOC", 5000, 130)),
    **_libraries("11.4.19", "8.5.2"),
}
_AGX_ORIN = {
    **_release(35, "4.1", "t186ref"),
    **_tree(
        "NVIDIA Jetson AGX Orin Developer Kit",
        "nvidia,p3737-0000+p3701-0005",
        "nvidia,p3701-0005",
        "nvidia,tegra23x",
        "nvidia,tegra234",
    ),
    **_gpu("17000000.ga10b", 306_000_000, 306_000_000, 816_000_000),
    **_modes(
        3,
        ("MAXN", -1, 8),
        ("MODE_15W", 420_750_000, 4),
        ("MODE_30W", 612_000_000, 8),
        ("MODE_50W", 828_750_000, 8),
    ),
    **_zones(CPU_therm=47.5, GPU_therm=-256, CV0_therm=None, tj_therm=48),
    **_coolers(pwm_fan=3, gpu_throttle_alert=0, hot_surface_alert=0),
    **_ina3221(
        3, ("VDD_GPU_SOC", 20000, 120), ("VDD_CPU_CV", 20000, 20), ("VIN_SYS_5V0", 5000, 806)
    ),
    **_ina3221(4, ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 60), ("NC", 0, 0)),
    **_over_current(5, 0, 15, 37),
    "sys/kernel/debug/bpmp/debug/clk/emc/rate": "2133000000\n",
    "sys/kernel/debug/bpmp/debug/clk/dla0_core/rate": "1600000000\n",
    "sys/kernel/debug/bpmp/debug/clk/dla1_core/rate": "1369600000\n",
    **_libraries("11.4.315", "8.5.2"),
}
_ORIN_NANO = {
    **_release(36, "4.7", "generic", "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"),
    **_tree(
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "nvidia,p3768-0000+p3767-0005-super",
        "nvidia,p3767-0005",
        "nvidia,tegra234",
    ),
    **_gpu("17000000.gpu", 306_000_000, 306_000_000, 624_750_000),
    **_modes(
        0,
        ("15W", 624_750_000, 6),
        ("25W", 918_000_000, 6),
        ("MAXN_SUPER", -1, 6),
        ("7W", 408_000_000, 4),
    ),
    **_zones(cpu_thermal=45.375, gpu_thermal=44, cv0_thermal=None, tj_thermal=45.5),
    **_coolers(pwm_fan=2, cpu_throttle_alert=0, gpu_throttle_alert=0),
    **_ina3221(1, ("VDD_IN", 4984, 1856), ("VDD_CPU_GPU_CV", 4984, 400), ("VDD_SOC", 4984, 300)),
    **_over_current(3, 0, 0, 2),
    "sys/class/devfreq/17000000.gpu/device/load": "870\n",
    **_libraries("12.6.68", "10.3.0"),
}
_THOR = {
    **_release(38, "2.0", "generic"),
    **_tree(
        "NVIDIA Jetson AGX Thor Developer Kit",
        "nvidia,p4071-0000+p3834-0008",
        "nvidia,p3834-0008",
        "nvidia,tegra264",
    ),
    **_gpu("gpu-gpc-0", 1_575_000_000, 1_575_000_000, 1_575_000_000),
    "sys/class/devfreq/gpu-nvd-0/cur_freq": "1692000000\n",
    "sys/class/devfreq/bwmgr/cur_freq": "4266000000\n",
    **_modes(0, ("MAXN", -1, 8), ("120W", 1_386_000_000, 8)),
    **_zones(cpu_thermal=55, gpu_thermal=None, tj_thermal=64.5),
    **_coolers(pwm_fan=3, gpu_throttle_alert=1, devfreq_gpu_gpc_0=18),
    **_ina3221(
        1, ("VDD_GPU", 12000, 3161), ("VDD_CPU_SOC_MSS", 12000, 900), ("VIN_SYS_5V0", 5000, 1500)
    ),
    "sys/class/hwmon/hwmon2/name": "ina238\n",
    "sys/class/hwmon/hwmon2/in1_label": "VIN\n",
    "sys/class/hwmon/hwmon2/power1_input": "124486000\n",
    **_over_current(5, 0, 8, 813),
    **_libraries("13.0.48", "10.13.3", "TRT_{}_ENTERPRISE"),
}
BOARDS: Mapping[str, Files] = {
    "nano": _NANO,
    "xavier-nx": _XAVIER_NX,
    "agx-orin": _AGX_ORIN,
    "orin-nano": _ORIN_NANO,
    "thor": _THOR,
}


def write_files(root: Path, files: Files) -> Path:
    """Put ``files`` into ``root``, which is given back; ``UNREADABLE`` becomes a folder."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text == UNREADABLE:
            path.mkdir()
        else:
            path.write_text(text)
    return root


def make_board(root: Path, name: str) -> Path:
    """The tree of one of ``BOARDS`` in ``root``, which is given back."""
    return write_files(root, {**_COMMON, **BOARDS[name]})
