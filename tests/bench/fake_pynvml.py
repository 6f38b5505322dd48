"""A stand-in for ``pynvml`` that knows the calls the bench makes, and refuses all else.

Names and arguments are those of nvidia-ml-py; ``test_bench_device_cuda.py`` compares them with the
real one where that is installed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """As the real one, with the text of its number."""


class NVMLError_NotSupported(NVMLError):
    def __init__(self) -> None:
        super().__init__("Not Supported")


class NVMLError_LibraryNotFound(NVMLError):
    def __init__(self) -> None:
        super().__init__("NVML Shared Library Not Found")


@dataclass
class FakeGpu:
    """Readings of one GPU; None for what it does not support."""

    name: str | bytes = "NVIDIA RTX 4000"
    uuid: str = "GPU-aaaa"
    capability: tuple[int, int] | None = (8, 9)
    sm_mhz: int | None = 1500
    celsius: int | None = 61
    milliwatts: int | None = 90_000
    millijoules: int | None = 5_000_000
    event_reasons: int | None = 0
    throttle_reasons: int | None = 0
    pids: list[int] = field(default_factory=list)
    ecc: int | None = 1


def _told(value: Any) -> Any:
    if value is None:
        raise NVMLError_NotSupported
    return value


class FakePynvml:
    """Put it into ``sys.modules`` as ``pynvml``."""

    NVMLError = NVMLError
    NVMLError_NotSupported = NVMLError_NotSupported
    NVMLError_LibraryNotFound = NVMLError_LibraryNotFound

    def __init__(self, *gpus: FakeGpu, driver: bool = True) -> None:
        self._gpus, self._driver, self._ready = list(gpus), driver, False

    def _gpu(self, handle: object) -> FakeGpu:
        assert self._ready, "nvmlInit comes first"
        assert isinstance(handle, FakeGpu), "not a handle"
        return handle

    def nvmlInit(self) -> None:
        if not self._driver:
            raise NVMLError_LibraryNotFound
        self._ready = True

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"535.129.03"  # bytes, as before nvidia-ml-py 11.515

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 12020

    def nvmlDeviceGetCount(self) -> int:
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self._gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu:
        return _told(next((gpu for gpu in self._gpus if gpu.uuid == uuid), None))

    def nvmlDeviceGetIndex(self, handle: object) -> int:
        return self._gpus.index(self._gpu(handle))

    def nvmlDeviceGetName(self, handle: object) -> str | bytes:
        return self._gpu(handle).name

    def nvmlDeviceGetCudaComputeCapability(self, handle: object) -> tuple[int, int]:
        return _told(self._gpu(handle).capability)

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> SimpleNamespace:
        self._gpu(handle)
        return SimpleNamespace(total=20 << 30, free=1, used=1)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: object) -> int:
        self._gpu(handle)
        return 130_000

    def nvmlDeviceGetPersistenceMode(self, handle: object) -> int:
        self._gpu(handle)
        return 0

    def nvmlDeviceGetClockInfo(self, handle: object, type: int) -> int:
        gpu = self._gpu(handle)
        return {1: _told(gpu.sm_mhz), 2: 9001}[type]

    def nvmlDeviceGetMaxClockInfo(self, handle: object, type: int) -> int:
        self._gpu(handle)
        return {1: 2175, 2: 9001}[type]

    def nvmlDeviceGetApplicationsClock(self, handle: object, type: int) -> int:
        self._gpu(handle)
        raise NVMLError_NotSupported

    def nvmlDeviceGetTemperature(self, handle: object, sensor: int) -> int:
        assert sensor == 0
        return _told(self._gpu(handle).celsius)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: object) -> int:
        return _told(self._gpu(handle).event_reasons)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: object) -> int:
        return _told(self._gpu(handle).throttle_reasons)

    def nvmlDeviceGetCurrPcieLinkGeneration(self, handle: object) -> int:
        self._gpu(handle)
        return 1

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle: object) -> int:
        self._gpu(handle)
        return 8

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: object) -> int:
        self._gpu(handle)
        return 4

    def nvmlDeviceGetMaxPcieLinkWidth(self, handle: object) -> int:
        self._gpu(handle)
        return 16

    def nvmlDeviceGetEccMode(self, handle: object) -> list[int]:
        return [_told(self._gpu(handle).ecc), 1]

    def nvmlDeviceGetMigMode(self, device: object) -> list[int]:
        self._gpu(device)
        raise NVMLError_NotSupported

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[SimpleNamespace]:
        pids = [*self._gpu(handle).pids, os.getpid()]
        return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in pids]

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:
        return _told(self._gpu(handle).milliwatts)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:
        return _told(self._gpu(handle).millijoules)
