"""The CPU as Linux tells of it: facts, state, looks, doubts, energy."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from board_trees import write_files

from bench.devices.cgroup import quota_cores, quota_waits
from bench.devices.choose import device_of
from bench.devices.cpu import CpuDevice
from bench.devices.watch import seen_under_load, watch

CPUS = "sys/devices/system/cpu"


def frequency(core: int, governor: str, khz: int) -> dict[str, str]:
    folder = f"{CPUS}/cpu{core}/cpufreq"
    return {
        f"{folder}/scaling_governor": f"{governor}\n",
        f"{folder}/scaling_cur_freq": f"{khz}\n",
        f"{folder}/cpuinfo_min_freq": "800000\n",
        f"{folder}/cpuinfo_max_freq": "4700000\n",
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    throttle = f"{CPUS}/cpu{{}}/thermal_throttle/{{}}_throttle_count"
    files = {
        **frequency(0, "powersave", 800_000),
        **frequency(1, "powersave", 3_600_000),
        **frequency(2, "performance", 4_700_000),
        throttle.format(0, "core"): "2\n",
        throttle.format(0, "package"): "5\n",
        throttle.format(1, "core"): "1\n",
        throttle.format(1, "package"): "5\n",
        f"{CPUS}/smt/active": "1\n",
        f"{CPUS}/intel_pstate/no_turbo": "1\n",
        "proc/loadavg": "1.25 0.58 0.59 1/467 12345\n",
        "proc/vmstat": "pgfault 7\npswpin 10\npswpout 30\n",
        "sys/class/hwmon/hwmon0/name": "nvme\n",
        "sys/class/hwmon/hwmon0/temp1_input": "30000\n",
        "sys/class/hwmon/hwmon1/name": "coretemp\n",
        "sys/class/hwmon/hwmon1/temp1_input": "61500\n",
    }
    return write_files(tmp_path, files)


def test_facts_are_of_the_cores_that_may_be_used(root: Path) -> None:
    facts = CpuDevice(root, cores=[0, 1]).facts()
    assert facts["cores"] == [0, 1]
    assert facts["governors"] == ["powersave"]
    assert (facts["smt"], facts["turbo"]) == (True, False)
    assert (facts["min_mhz"], facts["max_mhz"]) == (800.0, 4700.0)
    assert facts["quota_cores"] is None
    assert CpuDevice(root, cores=[1, 2]).facts()["governors"] == ["performance", "powersave"]
    assert CpuDevice(root, cores=[]).facts()["pinned"]


def test_the_state_is_that_of_the_busiest_core(root: Path) -> None:
    assert CpuDevice(root, cores=[0, 1]).state() == {
        "mhz": 3600.0,
        "package_c": 61.5,
        "load": 1.25,
        "throttled": 8,  # 2 + 1 of the cores, 5 of the package that both repeat
        "swapped_pages": 40,
        "quota_waits": None,
    }


def test_a_virtual_machine_tells_its_clock_in_cpuinfo(tmp_path: Path) -> None:
    cpuinfo = "processor : 0\ncpu MHz\t\t: 2499.998\n\nprocessor : 1\ncpu MHz\t\t: 2100.5\n"
    device = CpuDevice(write_files(tmp_path, {"proc/cpuinfo": cpuinfo}), cores=[1, 9])
    assert device.state()["mhz"] == 2100.5


def test_another_system_tells_nothing_and_is_not_doubted(tmp_path: Path) -> None:
    device = CpuDevice(tmp_path, cores=[0])
    state = device.state()
    assert not any(value is not None for value in state.values())
    assert device.doubts(state, state, [{"seconds": 2.0}]) == []
    assert device.power_meter() is None


def test_this_machine_is_read() -> None:
    device = device_of("cpu")
    with device.watched() as trace:
        state = device.state()
    assert json.loads(json.dumps([device.facts(), state, list(trace)]))
    assert device.doubts(state, state, list(trace)) == []


def looks(*clocks: float) -> list[dict[str, float]]:
    """One every half second, the first of them before the load."""
    return [{"seconds": step / 2, "mhz": mhz} for step, mhz in enumerate((800.0, 900.0, *clocks))]


@pytest.mark.parametrize(
    ("cores", "clocks", "doubt"),
    [
        ([2], (3600, 3590, 3610), None),
        ([2], (3600, 3000), "moved between 3000 and 3600 MHz meanwhile: cool it."),
        ([0, 1], (3600, 3000), "MHz meanwhile: sudo cpupower frequency-set -g performance."),
        ([2], (), None),
    ],
    ids=["steady", "fell", "governor", "too short"],
)
def test_a_clock_that_moves_under_load_is_doubted(
    root: Path, cores: list[int], clocks: tuple[float, ...], doubt: str | None
) -> None:
    device = CpuDevice(root, cores)
    doubts = device.doubts({}, {}, looks(*clocks))
    assert len(doubts) == (doubt is not None)
    assert all(str(doubt) in told for told in doubts)


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({"throttled": 3}, "the CPU throttled 3 times meanwhile: cool it"),
        ({"swapped_pages": 300}, "swapped meanwhile"),
        ({"swapped_pages": 3}, None),
        ({"quota_waits": 7}, r"quota \(None cores\) held this process back 7 times"),
    ],
    ids=["throttled", "swapped", "a few pages", "quota"],
)
def test_counters_that_rise_are_doubted(
    root: Path, changes: dict[str, int], doubt: str | None
) -> None:
    device = CpuDevice(root, [2])
    before: dict[str, Any] = {"throttled": 1, "swapped_pages": 40, "quota_waits": 2}
    after = {name: value + changes.get(name, 0) for name, value in before.items()}
    # throttling is why the clock fell: it is told once
    doubts = device.doubts(before, after, looks(3600, 2000) if "throttled" in changes else [])
    if doubt is None:
        assert doubts == []
    else:
        assert len(doubts) == 1
        assert re.search(doubt, doubts[0])


@pytest.mark.parametrize(
    ("files", "cores", "waits"),
    [
        (
            {
                "proc/self/cgroup": "0::/box/inner\n",
                "sys/fs/cgroup/cpu.max": "max 100000\n",
                "sys/fs/cgroup/box/inner/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/box/inner/cpu.stat": "usage_usec 1\nnr_throttled 4\n",
                "sys/fs/cgroup/box/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/box/cpu.stat": "nr_throttled 9\n",
            },
            1.5,
            9,
        ),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/cpu.max": "50000 100000\n",
            },
            0.5,
            None,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.stat": "nr_throttled 3\n",
            },
            2.0,
            3,
        ),
        (
            {
                "proc/self/cgroup": "2:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
            None,
        ),
        ({}, None, None),
    ],
    ids=["v2, group above", "v2 in a namespace", "v1 in a container", "v1 without", "no Linux"],
)
def test_a_containers_quota_is_found(
    tmp_path: Path, files: dict[str, str], cores: float | None, waits: int | None
) -> None:
    write_files(tmp_path, files)
    assert (quota_cores(tmp_path), quota_waits(tmp_path)) == (cores, waits)


def zone(number: int, name: str, microjoules: int) -> dict[str, str]:
    folder = f"sys/class/powercap/intel-rapl:{number}"
    return {
        f"{folder}/name": f"{name}\n",
        f"{folder}/energy_uj": f"{microjoules}\n",
        f"{folder}/max_energy_range_uj": "262143328850\n",
    }


def test_energy_is_that_of_all_packages_and_may_wrap(tmp_path: Path) -> None:
    write_files(tmp_path, zone(0, "package-0", 262_143_000_000) | zone(1, "package-1", 1_000_000))
    write_files(tmp_path, zone(2, "psys", 5_000_000))
    meter = CpuDevice(tmp_path, [0]).power_meter()
    assert meter is not None
    assert "CPU package" in meter.scope
    with meter.measured() as drawn:
        write_files(tmp_path, zone(0, "package-0", 671_150) | zone(1, "package-1", 3_000_000))
        write_files(tmp_path, zone(2, "psys", 9_000_000))
    assert drawn.joules == pytest.approx(1.0 + 2.0)


def test_a_counter_for_root_alone_is_no_meter(tmp_path: Path) -> None:
    write_files(tmp_path, zone(0, "package-0", 1))
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    assert CpuDevice(tmp_path, [0]).power_meter() is None


def test_looks_go_on_inside_the_block_and_end_with_it() -> None:
    count, third = 0, threading.Event()

    def look() -> dict[str, float | None]:
        nonlocal count
        count += 1
        if count == 3:
            third.set()
        return {"mhz": float(count), "package_c": None}

    before = threading.active_count()
    with watch(look, interval=0.0) as trace:
        assert third.wait(10)
    assert threading.active_count() == before
    assert [entry["mhz"] for entry in trace][:2] == [1.0, 2.0]
    assert all(entry.keys() == {"seconds", "mhz"} for entry in trace)


def test_a_look_that_hangs_does_not_hold_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.devices.watch._PATIENCE", 0.01)
    begun, free = threading.Event(), threading.Event()

    def look() -> dict[str, float]:
        begun.set()
        free.wait(30)
        return {"mhz": 1.0}

    others = set(threading.enumerate())
    with watch(look) as trace:
        assert begun.wait(10)
    free.set()
    for thread in set(threading.enumerate()) - others:
        thread.join(10)
    assert list(trace) == []  # what came too late is left out


def test_the_first_second_does_not_count() -> None:
    trace = [{"seconds": 0.2, "mhz": 1}, {"seconds": 1.2, "mhz": 2}, {"seconds": 1.7}]
    assert seen_under_load(trace, "mhz") == [2.0]
