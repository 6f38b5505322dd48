"""An NVIDIA GPU through a stand-in for its driver's library, checked against the real one."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_pynvml import FakeGpu, FakePynvml

from bench.devices import cuda, nvml
from bench.devices.choose import device_of
from bench.devices.cuda import CudaDevice
from bench.errors import BenchError

UseGpus = Callable[..., None]


@pytest.fixture
def use_gpus(monkeypatch: pytest.MonkeyPatch) -> UseGpus:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)

    def use(*gpus: FakeGpu, driver: bool = True) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", FakePynvml(*gpus, driver=driver))  # type: ignore[arg-type]

    return use


def test_facts_are_read_and_what_the_gpu_lacks_is_none(use_gpus: UseGpus) -> None:
    use_gpus(FakeGpu(name=b"NVIDIA RTX 4000", ecc=None))
    facts = device_of("cuda").facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts == {
        "gpu": "NVIDIA RTX 4000",
        "index": 0,
        "nvidia_smi_index": 0,
        "driver": "535.129.03",
        "driver_cuda": "12.2",
        "compute_capability": "8.9",
        "memory_bytes": 20 << 30,
        "power_limit_watts": 130.0,
        "persistence": False,
        "max_sm_mhz": 2175,
        "max_memory_mhz": 9001,
        "application_sm_mhz": None,
        "pcie_generation": 1,
        "pcie_width": 8,
        "max_pcie_generation": 4,
        "max_pcie_width": 16,
        "ecc": None,
        "mig": None,
        "other_processes": 0,
    }


def test_the_state_has_words_for_what_holds_the_clock(use_gpus: UseGpus) -> None:
    use_gpus(FakeGpu(event_reasons=0x2 | 0x4 | 0x40))
    assert CudaDevice().state() == {
        "sm_mhz": 1500,
        "memory_mhz": 9001,
        "gpu_c": 61,
        "watts": 90.0,
        "slowed_down": 0x4 | 0x40,
        "clock_held_by": ["clocks set by the user", "power limit", "heat (hardware)"],
    }


def test_an_old_driver_is_asked_by_the_old_name(use_gpus: UseGpus) -> None:
    use_gpus(FakeGpu(event_reasons=None, throttle_reasons=0x20))
    assert CudaDevice().state()["clock_held_by"] == ["heat"]
    use_gpus(FakeGpu(event_reasons=None, throttle_reasons=None))
    assert CudaDevice().state()["clock_held_by"] is None


def test_looks_hold_what_the_gpu_tells(use_gpus: UseGpus) -> None:
    use_gpus(FakeGpu(celsius=None))
    device = CudaDevice()
    assert device._look()["gpu_c"] is None
    with device.watched() as trace:
        pass
    assert all("gpu_c" not in look for look in trace)


def looks(**values: list[float]) -> list[dict[str, float]]:
    """One a second under load."""
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return [{"seconds": float(second), **row} for second, row in enumerate(rows, 1)]


@pytest.mark.parametrize(
    ("trace", "doubts"),
    [
        (looks(sm_mhz=[1500, 1500, 1495]), []),
        ([{"seconds": 0.1, "sm_mhz": 210.0}, *looks(sm_mhz=[1500, 1500])], []),
        (
            looks(sm_mhz=[1980, 1750]),
            [r"between 1750 and 1980 MHz meanwhile: .*sudo nvidia-smi -i 0 -lgc 1750"],
        ),
        (
            looks(sm_mhz=[1980, 1750], slowed_down=[0, 0x4]),
            [r"slowed down meanwhile \(power limit\): raise its limit"],
        ),
        (looks(slowed_down=[0x20, 0x4]), [r"\(power limit, heat\): cool it"]),
        (looks(slowed_down=[0x8 | 0x80]), [r"\(hardware slowdown, power brake\): lock a clock"]),
    ],
    ids=["steady", "rising before the load", "moved", "power", "heat", "hardware"],
)
def test_clocks_that_move_are_doubted_and_why(
    use_gpus: UseGpus, trace: list[dict[str, float]], doubts: list[str]
) -> None:
    use_gpus(FakeGpu())
    told = CudaDevice().doubts({}, {}, trace)
    assert len(told) == len(doubts)
    assert all(re.search(doubt, text) for doubt, text in zip(doubts, told, strict=True))


def test_others_on_the_gpu_are_doubted_and_this_process_is_none(use_gpus: UseGpus) -> None:
    use_gpus(FakeGpu(pids=[4242]))
    device = CudaDevice()
    assert device.facts()["other_processes"] == 1
    assert device.doubts({}, {}, []) == ["other processes use this GPU (4242): stop them."]


def test_gpus_of_several_models_may_be_counted_otherwise(
    use_gpus: UseGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_gpus(FakeGpu(), FakeGpu("NVIDIA T4", "GPU-bbbb"))
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in CudaDevice().doubts({}, {}, [])[0]
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert CudaDevice().doubts({}, {}, []) == []


@pytest.mark.parametrize(
    ("visible", "index", "expected"),
    [
        (None, 1, "B"),
        ("1,0", 0, "B"),
        ("1,0", 1, "A"),
        ("GPU-bbbb", 0, "B"),
        (" 1 ", 0, "B"),
        ("0,7,1", 1, None),  # CUDA stops at the first that is not there
        ("", 0, None),
        (None, 2, None),
    ],
)
def test_the_gpu_is_the_one_that_cuda_counts(
    use_gpus: UseGpus,
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    index: int,
    expected: str | None,
) -> None:
    use_gpus(FakeGpu("A", "GPU-aaaa"), FakeGpu("B", "GPU-bbbb"))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if expected is None:
        with pytest.raises(BenchError, match=rf"no GPU {index}: .*nvidia-smi -L"):
            CudaDevice(index)
    else:
        assert CudaDevice(index).facts()["gpu"] == expected


def test_no_driver_says_what_to_do(use_gpus: UseGpus) -> None:
    use_gpus(driver=False)
    with pytest.raises(BenchError, match=r"Library Not Found.*nvidia-smi.*--device jetson") as told:
        device_of("cuda")
    assert told.value.exit_code == 2


def test_no_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(BenchError, match=r"yolo-compress\[cuda\]"):
        device_of("cuda")


def test_energy_is_the_counters_growth(use_gpus: UseGpus) -> None:
    gpu = FakeGpu(millijoules=1_000)
    use_gpus(gpu)
    meter = CudaDevice().power_meter()
    assert meter is not None
    with meter.measured() as drawn:
        gpu.millijoules = 43_500
    assert drawn.joules == pytest.approx(42.5)
    with pytest.raises(BenchError, match="stopped telling"), meter.measured():
        gpu.millijoules = None


def test_without_a_counter_power_is_read(use_gpus: UseGpus) -> None:
    use_gpus(FakeGpu(millijoules=None, milliwatts=80_000))
    meter = CudaDevice().power_meter()
    assert meter is not None
    with meter.measured() as drawn:
        pass
    assert drawn.watts == pytest.approx(80.0)
    use_gpus(FakeGpu(millijoules=None, milliwatts=None))
    assert CudaDevice().power_meter() is None


def names_used() -> set[str]:
    files = (nvml.__file__, cuda.__file__)
    return {
        name
        for file in files
        for name in re.findall(r"\"(nvml\w+)\"|\._library\.(\w+)", Path(file).read_text())
        for name in name
        if name
    }


def test_every_call_is_one_that_the_stand_in_knows() -> None:
    used, known = names_used(), {name for name in dir(FakePynvml) if not name.startswith("_")}
    assert len(used) > 20
    assert used <= known
    assert {name for name in known if name.startswith("nvml")} <= used


def test_the_stand_in_is_like_the_real_library() -> None:
    real: Any = pytest.importorskip("pynvml")
    for name in names_used():
        assert hasattr(real, name), name
        if name.startswith("nvml"):
            own = inspect.signature(getattr(FakePynvml(), name)).parameters
            wanted = {
                key: given
                for key, given in inspect.signature(getattr(real, name)).parameters.items()
                if given.default is inspect.Parameter.empty
                and given.kind is not inspect.Parameter.VAR_KEYWORD
            }
            # the calls that turn str to bytes hide their arguments
            assert "args" in wanted or len(own) == len(wanted), name
    assert (cuda._SM, cuda._MEMORY) == (real.NVML_CLOCK_SM, real.NVML_CLOCK_MEM)
    assert cuda._GPU_SENSOR == real.NVML_TEMPERATURE_GPU
    assert real.nvmlClocksThrottleReasonSwPowerCap == nvml.POWER_LIMIT
    assert (
        real.nvmlClocksThrottleReasonSwThermalSlowdown
        | real.nvmlClocksThrottleReasonHwThermalSlowdown
    ) == nvml.HEAT
    assert (
        nvml.POWER_LIMIT
        | nvml.HEAT
        | real.nvmlClocksThrottleReasonHwSlowdown
        | real.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
    ) == nvml.SLOWED_DOWN


def test_the_real_library_without_a_driver_is_understood() -> None:
    real: Any = pytest.importorskip("pynvml")
    try:
        real.nvmlInit()
    except real.NVMLError:
        with pytest.raises(BenchError, match="No NVIDIA driver answers"):
            CudaDevice()
    else:
        real.nvmlShutdown()
        pytest.skip("this machine has a driver")
