"""Facts of the machine, devices that are not there, and what makes times vary."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from bench.devices.require import require_device

from bench.devices.machine import Machine, read_machine
from bench.errors import BenchError
from bench.noise import (
    CpuSeconds,
    Interference,
    interference_between,
    likely_cause,
    read_cpu_seconds,
)

QUIET = Interference(other_cores=0.0, stolen_cores=0.0)
MACHINE = Machine(
    cpu="a CPU",
    physical_cores=4,
    logical_cores=8,
    usable_cores=4,
    governor="performance",
    turbo=False,
    virtual=False,
    memory_bytes=1,
    system="Linux",
    python="3.11",
    onnxruntime="1.31",
)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_this_machine_can_be_read() -> None:
    machine = read_machine()
    assert machine.cpu
    assert 1 <= machine.usable_cores <= machine.logical_cores
    assert machine.memory_bytes > 2**20
    assert machine.onnxruntime
    json.dumps(asdict(machine))


def test_linux_files_are_read(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: Fast CPU @ 3 GHz\nflags\t\t: sse hypervisor\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
            "sys/devices/system/cpu/intel_pstate/no_turbo": "0\n",
        },
    )
    machine = read_machine(root)
    assert (machine.cpu, machine.governor) == ("Fast CPU @ 3 GHz", "powersave")
    assert machine.turbo is True
    assert machine.virtual is True


def test_an_arm_board_gives_its_name_and_its_boost_file(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd\n",
            "proc/device-tree/model": "Raspberry Pi 5\0",
            "sys/devices/system/cpu/cpufreq/boost": "0\n",
        },
    )
    machine = read_machine(root)
    assert (machine.cpu, machine.turbo, machine.virtual) == ("Raspberry Pi 5", False, False)
    assert machine.governor is None


def test_unknown_facts_are_none(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert (machine.governor, machine.turbo) == (None, None)
    assert machine.cpu


def test_devices_say_what_is_missing_and_what_works(tmp_path: Path) -> None:
    require_device("cpu", tmp_path)
    for device, missing in [("jetson", "is no Jetson"), ("cuda", "no NVIDIA driver")]:
        with pytest.raises(BenchError, match=f"not implemented yet and this .*{missing}.*'cpu'"):
            require_device(device, tmp_path)
    with pytest.raises(BenchError, match="Unknown device 'tpu'"):
        require_device("tpu", tmp_path)


def test_a_real_board_is_not_called_missing(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {"proc/device-tree/model": "NVIDIA Jetson Orin", "proc/driver/nvidia/version": "NVRM"},
    )
    for device in ("jetson", "cuda"):
        with pytest.raises(BenchError, match=r"not implemented yet\. .*trtexec"):
            require_device(device, root)


def test_interference_counts_only_others() -> None:
    before = CpuSeconds(wall=10.0, own=1.0, busy=100.0, stolen=5.0)
    after = CpuSeconds(wall=14.0, own=4.0, busy=105.0, stolen=5.4)
    assert interference_between(before, after) == Interference(other_cores=0.5, stolen_cores=0.1)


def test_busy_is_all_work_and_steal_is_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    linux = {"user": 3.0, "nice": 1.0, "system": 2.0, "irq": 0.5, "softirq": 0.25}
    times = SimpleNamespace(**linux, idle=99.0, iowait=50.0, steal=4.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda: times)
    now = read_cpu_seconds()
    assert (now.busy, now.stolen) == (6.75, 4.0)


def test_a_system_with_fewer_counters_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    times = SimpleNamespace(user=3.0, nice=1.0, system=2.0, idle=99.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda: times)
    now = read_cpu_seconds()
    assert (now.busy, now.stolen) == (6.0, 0.0)


def test_own_work_is_counted_as_own() -> None:
    before = read_cpu_seconds()
    while time.process_time() < before.own + 0.05:
        sum(range(1000))
    after = read_cpu_seconds()
    assert after.own - before.own >= 0.05
    assert after.wall > before.wall


STEADY = [100, 101] * 60
JUMPING = [100, 160] * 32
DRIFTING = list(range(100, 220))


@pytest.mark.parametrize(
    ("samples", "threads", "machine", "interference", "cause"),
    [
        (STEADY, 5, MACHINE, QUIET, "5 threads share 4 cores"),
        (STEADY, 1, MACHINE, Interference(1.3, 0.0), "other processes used 1.3 of 8 cores"),
        (STEADY, 1, MACHINE, Interference(0.0, 0.2), "the host took 0.20 cores"),
        (STEADY, 1, replace(MACHINE, governor="powersave"), QUIET, "^the CPU governor is 'powers"),
        (DRIFTING, 1, MACHINE, QUIET, "slower on the way; the CPU's clock follows temperature"),
        (DRIFTING[::-1], 1, MACHINE, QUIET, "faster on the way"),
        (STEADY, 1, replace(MACHINE, virtual=True), QUIET, "a virtual machine"),
        (JUMPING, 1, MACHINE, QUIET, "^single slow calls"),
    ],
    ids=["threads", "others", "steal", "governor", "slower", "faster", "virtual", "jumps"],
)
def test_likely_cause(
    samples: list[int], threads: int, machine: Machine, interference: Interference, cause: str
) -> None:
    assert re.search(cause, likely_cause(samples, threads, machine, interference))
