"""A Jetson, on simulated trees of five boards; its commands, threads and background processes."""

from __future__ import annotations

import json
import stat
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from board_trees import BOARDS, make_board, write_files

from bench.devices import commands, jetson_power
from bench.devices.choose import device_of
from bench.devices.commands import find_command, run_command
from bench.devices.jetson import JetsonDevice
from bench.devices.jtop import JtopLook, has_jtop, jtop_looks, look_at
from bench.devices.tegrastats import tegrastats
from bench.errors import BenchError
from bench.power import PowerMeter
from bench.run import bench_files
from bench.settings import Settings


def nothing(command: object) -> None:
    """No such command."""


def board(root: Path, name: str, **arguments: Any) -> JetsonDevice:
    return JetsonDevice(make_board(root, name), **{"run": nothing, "find": nothing, **arguments})


@pytest.mark.parametrize(
    ("name", "module", "l4t", "jetpack", "mode", "cuda", "tensorrt"),
    [
        ("nano", "Jetson Nano", "32.7.1", "4.6.1", "MAXN", "10.2.300", "8.2.1"),
        (
            "xavier-nx",
            "Jetson Xavier NX",
            "35.4.1",
            "5.1.2",
            "MODE_20W_6CORE",
            "11.4.19",
            "8.5.2",
        ),
        ("agx-orin", "Jetson AGX Orin 64GB", "35.4.1", "5.1.2", "MODE_50W", "11.4.315", "8.5.2"),
        ("orin-nano", "Jetson Orin Nano 8GB", "36.4.7", "6.2.1", "15W", "12.6.68", "10.3.0"),
        ("thor", "Jetson AGX Thor", "38.2.0", "7.0", "MAXN", "13.0.48", "10.13.3"),
    ],
)
def test_facts_of_five_boards(
    tmp_path: Path,
    name: str,
    module: str,
    l4t: str,
    jetpack: str,
    mode: str,
    cuda: str,
    tensorrt: str,
) -> None:
    facts = board(tmp_path, name).facts()
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["module"], facts["l4t"], facts["jetpack"]) == (module, l4t, jetpack)
    assert facts["power_mode"]["name"] == mode
    assert (facts["cuda"], facts["tensorrt"]) == (cuda, tensorrt)
    assert facts["clocks_locked"] is (name in ("nano", "xavier-nx", "thor"))
    assert facts["swaps"] == ["/dev/zram0"]


@pytest.mark.parametrize(
    ("name", "gpu_mhz", "gpu_c", "percent", "memory_mhz", "watts"),
    [
        ("nano", 921.6, 39.5, 12.5, None, 1.75),
        ("xavier-nx", 1109.25, 45.0, None, None, 2.76),
        ("agx-orin", 306.0, None, None, 2133.0, 2.4 + 0.4 + 4.03),
        ("orin-nano", 306.0, 44.0, 87.0, None, 9.250304),
        ("thor", 1575.0, None, None, 4266.0, 124.486),
    ],
)
def test_states_of_five_boards(
    tmp_path: Path,
    name: str,
    gpu_mhz: float,
    gpu_c: float | None,
    percent: float | None,
    memory_mhz: float | None,
    watts: float,
) -> None:
    state = board(tmp_path, name).state()
    assert json.loads(json.dumps(state)) == state
    assert (state["gpu_mhz"], state["gpu_c"], state["gpu_percent"]) == (gpu_mhz, gpu_c, percent)
    assert state["memory_mhz"] == memory_mhz
    assert state["watts"] == pytest.approx(watts)
    assert state["swapped_pages"] == 300
    assert state["dla_mhz"] == ([1600.0, 1369.6] if name == "agx-orin" else [])
    assert all(value > 0 for value in state["celsius"].values())


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("nano", "POM_5V_IN: the module"),
        ("xavier-nx", "VDD_IN: the module"),
        ("agx-orin", "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0: the module"),
        ("orin-nano", "VDD_IN: the module"),
        ("thor", "VIN: module and carrier board"),
    ],
)
def test_energy_says_what_it_is_of(tmp_path: Path, name: str, scope: str) -> None:
    device = board(tmp_path, name)
    meter = device.power_meter()
    assert meter is not None
    assert meter.scope == scope
    assert meter.settle_seconds >= 0.43
    with meter.measured() as drawn:
        pass
    assert drawn.watts == pytest.approx(device.state()["watts"])


def first_of(trace: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first look, which comes from a thread."""
    patience = time.monotonic() + 30
    while not trace and time.monotonic() < patience:
        time.sleep(0.001)
    return trace[0]


def doubts_of(
    device: JetsonDevice, trace: Sequence[dict[str, float]] = (), **after: Any
) -> list[str]:
    state = device.state()
    return device.doubts(state, {**state, **after}, list(trace))


def test_a_board_that_is_set_up_well_is_not_doubted(tmp_path: Path) -> None:
    assert doubts_of(board(tmp_path / "a", "nano")) == []
    assert doubts_of(board(tmp_path / "b", "xavier-nx")) == []


def test_the_fastest_mode_is_named_by_its_own_number(tmp_path: Path) -> None:
    clocks, mode = doubts_of(board(tmp_path, "orin-nano"))
    assert "not locked" in clocks
    assert clocks.endswith("sudo jetson_clocks.")
    assert "15W; MAXN_SUPER is faster: sudo nvpmodel -m 2" in mode


def test_root_sees_what_jetson_clocks_shows(tmp_path: Path) -> None:
    shown = {
        "jetson_clocks": "GPU MinFreq=816000000 MaxFreq=816000000 CurrentFreq=816000000\n"
        "DLA0_CORE:   Online=1 MinFreq=0 MaxFreq=1369600000 CurrentFreq=1369600000\n",
        "nvpmodel": "NV Fan Mode:quiet\nNV Power Mode: MAXN\n0\n",
    }
    device = board(tmp_path, "agx-orin", run=lambda command: shown[command[0]])
    facts = device.facts()
    assert facts["clocks_locked"] is True
    assert facts["dla_max_mhz"] == [1369.6]
    assert facts["power_mode"] == {"id": 0, "name": "MAXN"}
    assert doubts_of(device) == []


def test_what_cannot_be_read_is_none_and_says_how_to_see_it(tmp_path: Path) -> None:
    write_files(tmp_path, {"etc/nv_tegra_release": "# R36 (release), REVISION: 4.7, GCID: 1"})
    device = JetsonDevice(tmp_path, run=nothing, find=nothing)
    facts = device.facts()
    assert (facts["power_mode"], facts["clocks_locked"], facts["gpu_max_mhz"]) == (None,) * 3
    told = doubts_of(device)
    assert len(told) == 3
    assert "sudo jetson_clocks" in told[0]
    assert "sudo nvpmodel -q" in told[1]
    assert "no power rail can be read" in told[2]
    assert device.power_meter() is None
    with device.watched() as trace:
        pass
    assert all(look.keys() <= {"seconds", "slowed_down"} for look in trace)


def test_heat_is_seen_as_an_alarm_and_as_a_zone_beyond_its_trip(tmp_path: Path) -> None:
    assert "heat (gpu-throttle-alert) at 64 °C" in doubts_of(board(tmp_path / "a", "thor"))[0]
    root = tmp_path / "b"
    device = board(root, "nano")
    write_files(root, {"sys/class/thermal/thermal_zone1/temp": "99500\n"})
    assert "heat (CPU-therm) at 100 °C" in doubts_of(device)[0]


def test_heat_in_the_middle_is_seen_in_the_looks(tmp_path: Path) -> None:
    device = board(tmp_path, "nano")
    trace = [
        {"seconds": 1.0, "slowed_down": 0.0},
        {"seconds": 2.0, "slowed_down": 1.0, "gpu_c": 97.0},
    ]
    assert doubts_of(device, trace[:1]) == []
    assert "slowed itself down for heat at 97 °C" in doubts_of(device, trace)[0]


@pytest.mark.parametrize(
    ("after", "doubt"),
    [
        ({"over_current_events": 5}, "cut its clocks 3 times for over-current or low voltage"),
        ({"swapped_pages": 900}, "the machine swapped meanwhile"),
    ],
)
def test_counters_that_rise_are_doubted(tmp_path: Path, after: dict[str, int], doubt: str) -> None:
    told = doubts_of(board(tmp_path, "orin-nano"), **after)
    assert any(doubt in text for text in told[2:])
    assert len(told) == 3


def test_looks_are_taken_of_what_changes(tmp_path: Path) -> None:
    with board(tmp_path, "orin-nano").watched() as trace:
        look = first_of(trace)
    assert look.keys() == {"seconds", "gpu_mhz", "gpu_c", "cpu_c", "watts", "slowed_down"}


@pytest.mark.parametrize("model", ["Raspberry Pi 5 Model B\0", None])
def test_another_machine_is_told_what_to_do(tmp_path: Path, model: str | None) -> None:
    if model:
        write_files(tmp_path, {"proc/device-tree/model": model})
    with pytest.raises(BenchError, match=r"is no Jetson.*--host user@jetson") as told:
        device_of("jetson", root=tmp_path)
    assert told.value.exit_code == 2
    assert "\0" not in str(told.value)
    assert (model or "").strip("\0") in str(told.value)


def test_every_board_is_chosen_by_its_tree(tmp_path: Path) -> None:
    for name in BOARDS:
        assert device_of("jetson", root=make_board(tmp_path / name, name)).name == "jetson"


def script(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def rail_less(tmp_path: Path) -> Path:
    """A board in a container that sees no rails."""
    root = make_board(tmp_path / "root", "nano")
    for chip in (root / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0").iterdir():
        chip.unlink()
    return root


STATS = "RAM 1/2MB GR3D_FREQ 99%@640 GPU@50C POM_5V_IN {}/1628 POM_5V_GPU 0/0"
FOREVER = f"echo '{STATS.format(4000)}'; exec sleep 60"


@pytest.mark.parametrize("labels", ["", "POM_5V_IN"], ids=["no rails", "rails that fail"])
def test_tegrastats_stands_in_for_rails(tmp_path: Path, rail_less: Path, labels: str) -> None:
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    write_files(rail_less, {f"{folder}/rail_name_0": labels})
    command = script(tmp_path, "tegrastats", FOREVER)
    device = JetsonDevice(rail_less, run=nothing, find=lambda name: command)
    before = threading.active_count()
    with device.watched() as trace:
        look = first_of(trace)
    assert (look["watts"], look["gpu_mhz"], look["gpu_c"]) == (4.0, 640.0, 39.5)
    meter = device.power_meter()
    assert meter is not None
    with meter.measured() as drawn:
        pass
    assert drawn.watts == pytest.approx(4.0)
    assert threading.active_count() == before


@pytest.mark.parametrize("text", ["exit 1", "echo nonsense; exit 0", "echo 'VDD_SOC 1mW/1mW'"])
def test_tegrastats_that_tells_nothing_is_no_meter(
    tmp_path: Path, rail_less: Path, text: str
) -> None:
    command = script(tmp_path, "tegrastats", text)
    device = JetsonDevice(rail_less, run=nothing, find=lambda name: command)
    assert device.power_meter() is None
    with device.watched() as trace:
        assert "watts" not in first_of(trace)


def test_tegrastats_that_will_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.devices.tegrastats._PATIENCE", 0.05)
    stubborn = f"trap '' TERM; echo '{STATS.format(1)}'; while :; do :; done"
    before = threading.active_count()
    with tegrastats(script(tmp_path, "tegrastats", stubborn), wait=10) as latest:
        stats = latest()
    assert stats is not None
    assert stats.milliwatts["POM_5V_IN"] == 1
    assert threading.active_count() == before


def test_tegrastats_that_is_silent_holds_nothing_up(tmp_path: Path) -> None:
    with tegrastats(script(tmp_path, "tegrastats", "exec sleep 60"), wait=0.0) as latest:
        assert latest() is None


class FakeJtop:
    """The client of jetson-stats as it is documented: a context manager with these values."""

    started = True
    memory: dict[str, Any] = {"RAM": {}, "EMC": {"cur": 2_133_000}}  # noqa: RUF012
    engine: dict[str, Any] = {  # noqa: RUF012
        "DLA0": {"DLA0_CORE": {"online": True, "cur": 1_600_000}, "DLA0_FALCON": {"cur": 844_800}},
        "DLA1": {"DLA1_CORE": {"online": False}},
        "NVENC": {"NVENC": {"cur": 1}},
    }
    power: dict[str, Any] = {  # noqa: RUF012
        "rail": {"POM_5V_GPU": {"power": 40, "avg": 41}},
        "tot": {"name": "POM_5V_IN", "volt": 5000, "curr": 1, "power": 4200, "avg": 4100},
    }

    def __enter__(self) -> FakeJtop:
        if not self.started:
            raise OSError("The jetson_stats service is not active")
        return self

    def __exit__(self, *exc: object) -> None:
        self.closed = True

    def ok(self) -> bool:
        return True


@pytest.fixture
def jtop(monkeypatch: pytest.MonkeyPatch) -> type[FakeJtop]:
    class Client(FakeJtop):
        pass

    module = ModuleType("jtop")
    module.jtop = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jtop", module)
    module.__spec__ = "found"  # type: ignore[assignment]
    return Client


def meter_of(device: JetsonDevice) -> PowerMeter:
    meter = device.power_meter()
    assert meter is not None
    return meter


def test_jetson_stats_tells_what_only_root_may_read(
    rail_less: Path, jtop: type[FakeJtop], tmp_path: Path
) -> None:
    assert has_jtop()
    before = threading.active_count()
    device = JetsonDevice(rail_less, run=nothing, find=lambda name: "/never/started")
    state = device.state()
    assert (state["memory_mhz"], state["dla_mhz"]) == (2133.0, [1600.0])
    with meter_of(device).measured() as drawn:
        pass
    assert drawn.watts == pytest.approx(4.2)
    assert threading.active_count() == before
    agx = board(tmp_path / "agx", "agx-orin")  # what the kernel tells comes first
    assert agx.state()["memory_mhz"] == 2133.0
    assert "VDD_GPU_SOC" in meter_of(agx).scope


def test_jetson_stats_without_its_service_is_left_alone(
    tmp_path: Path, rail_less: Path, jtop: type[FakeJtop]
) -> None:
    jtop.started = False
    command = script(tmp_path, "tegrastats", FOREVER)
    device = JetsonDevice(rail_less, run=nothing, find=lambda name: command)
    assert device.state()["memory_mhz"] is None
    with meter_of(device).measured() as drawn:
        pass
    assert drawn.watts == pytest.approx(4.0)


def test_jetson_stats_that_hangs_holds_nothing_up(
    jtop: type[FakeJtop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.devices.jtop._PATIENCE", 0.01)
    free = threading.Event()
    jtop.ok = lambda self: free.wait(30)  # type: ignore[method-assign]
    with jtop_looks(wait=0.01) as latest:
        assert latest() is None
    free.set()


def test_a_total_that_has_no_name_is_a_sum_and_left_out() -> None:
    fake: Any = FakeJtop()
    fake.power = {"rail": {"VDD_GPU_SOC": {"power": 2400}}, "tot": {"power": 9999}}
    fake.memory, fake.engine = {}, {}
    assert look_at(fake) == JtopLook(None, (), {"VDD_GPU_SOC": 2400.0})


def test_commands_may_be_missing_fail_or_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(commands, "_SECONDS", 0.2)
    script(tmp_path, "works", "echo $1; echo more >&2")
    script(tmp_path, "fails", "echo told; exit 1")
    script(tmp_path, "hangs", "exec /bin/sleep 60")
    assert run_command(["works", "this"]) == "this\nmore\n"
    assert run_command(["fails"]) is None
    assert run_command(["hangs"]) is None
    assert run_command(["no-such-command"]) is None


def test_commands_of_administrators_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(commands, "_ADMIN_FOLDERS", (str(tmp_path),))
    assert find_command("nvpmodel") is None
    assert find_command("nvpmodel") != script(tmp_path, "nvpmodel", "")
    assert find_command("nvpmodel") == str(tmp_path / "nvpmodel")


def test_the_kernels_rails_are_only_those_of_the_total(tmp_path: Path) -> None:
    read = jetson_power.kernel_rails(make_board(tmp_path, "agx-orin"))
    assert read().keys() == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}


class FakeRuntime:
    """A net that takes no time."""

    input_shape, runtime, device, float_type = (2, 3, 8, 8), "Fake 1.0", "Orin", "f32"
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, settings: Settings) -> None:
        del path, settings

    def __enter__(self) -> FakeRuntime:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def infer(self) -> None: ...

    def parts_ns(self) -> dict[str, int]:
        return {}


def test_a_run_on_a_board_holds_its_facts_doubts_and_energy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = board(tmp_path / "root", "orin-nano")
    monkeypatch.setattr("bench.run.device_of", lambda name, index: device)
    monkeypatch.setattr("bench.energy._IDLE_SECONDS", 0.0)
    monkeypatch.setattr("bench.devices.jetson_power._SETTLE_SECONDS", 0.0)
    path = tmp_path / "net.fake"
    path.write_text("")
    result = bench_files(
        [path],
        Settings(device="jetson", min_seconds=0, warmup_seconds=0, energy_seconds=0.01),
        runtimes=["fake"],
        loaders={"fake": FakeRuntime},  # type: ignore[dict-item]
    )
    assert json.loads(json.dumps(result["device"])) == result["device"]
    assert result["device"]["name"] == "jetson"
    assert result["device"]["facts"]["l4t"] == "36.4.7"
    assert result["device"]["before"]["watts"] == pytest.approx(9.25, abs=0.01)
    assert any("sudo nvpmodel -m 2" in warning for warning in result["warnings"])
    energy = result["rows"][0]["energy"]
    assert energy is not None
    assert energy["scope"] == "VDD_IN: the module"
    assert energy["watts"] == pytest.approx(9.25, abs=0.01)
    assert energy["joules_per_image"] == pytest.approx(
        energy["watts"] * energy["seconds"] / energy["images"]
    )
