"""Facts of the machine, and what makes times vary."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from board_trees import write_files

from bench.devices import machine as machine_module
from bench.devices.choose import device_of
from bench.devices.machine import Machine, read_machine, usable_cores
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


def test_this_machine_can_be_read() -> None:
    machine = read_machine()
    assert machine.cpu
    assert 1 <= machine.usable_cores <= machine.logical_cores
    assert machine.memory_bytes > 2**20
    assert machine.onnxruntime
    json.dumps(asdict(machine))


def test_linux_files_are_read(tmp_path: Path) -> None:
    root = write_files(
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
    root = write_files(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: ARMv8 Processor rev 1 (v8l)\nFeatures\t: fp asimd\n",
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


def test_threads_of_one_core_count_once(tmp_path: Path) -> None:
    cpus = "sys/devices/system/cpu"
    files = {
        f"{cpus}/cpu{n}/topology/thread_siblings_list": f"{n % 2},{n % 2 + 2}" for n in range(4)
    }
    assert read_machine(write_files(tmp_path / "a", files)).physical_cores == 2
    newer = {f"{cpus}/cpu{n}/topology/core_cpus_list": f"{n}" for n in range(4)}
    assert read_machine(write_files(tmp_path / "b", files | newer)).physical_cores == 4
    text = "".join(f"physical id : {n // 2}\ncore id : {n % 2}\n\n" for n in (0, 1, 2, 3, 3))
    assert read_machine(write_files(tmp_path / "c", {"proc/cpuinfo": text})).physical_cores == 4
    assert read_machine(tmp_path).physical_cores is None


def test_a_system_without_these_calls_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(machine_module.os, "sysconf")
    monkeypatch.delattr(machine_module.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(machine_module.os, "cpu_count", lambda: 3)
    assert read_machine(tmp_path).memory_bytes is None
    assert usable_cores() == [0, 1, 2]


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(BenchError, match="Unknown device 'tpu': choose cpu, cuda, jetson"):
        device_of("tpu")


def test_interference_counts_only_others() -> None:
    before = CpuSeconds(wall=10.0, own=1.0, busy=100.0, stolen=5.0)
    after = CpuSeconds(wall=14.0, own=4.0, busy=105.0, stolen=5.4)
    assert interference_between(before, after) == Interference(other_cores=0.5, stolen_cores=0.1)


def test_busy_is_all_work_and_steal_is_none_of_it(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    #         user, nice, system, idle, iowait, irq, softirq, steal, guest, guest nice
    seconds = (3, 1, 2, 99, 50, 5, 4, 7, 1, 1)
    line = " ".join(str(value * ticks) for value in seconds)
    stat = f"cpu  {line}\ncpu0 {line}\nintr 12 0\n"
    now = read_cpu_seconds(write_files(tmp_path, {"proc/stat": stat}))
    assert (now.busy, now.stolen) == (15.0, 7.0)


def test_an_old_kernel_with_fewer_counters_is_read(tmp_path: Path) -> None:
    stat = f"cpu  {3 * os.sysconf('SC_CLK_TCK')} 0 0 9\n"
    now = read_cpu_seconds(write_files(tmp_path, {"proc/stat": stat}))
    assert (now.busy, now.stolen) == (3.0, 0.0)


def test_a_system_without_proc_tells_nothing_of_others(tmp_path: Path) -> None:
    now = read_cpu_seconds(tmp_path)
    assert (now.busy, now.stolen) == (None, None)
    unknown = interference_between(now, now)
    assert unknown == Interference(other_cores=None, stolen_cores=None)
    assert likely_cause(STEADY, 1, MACHINE, unknown).startswith("single slow calls")


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
