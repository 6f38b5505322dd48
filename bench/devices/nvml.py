"""An NVIDIA GPU as its driver tells of it, through NVML and nvidia-ml-py (``pynvml``)."""

from __future__ import annotations

import os
from typing import Any

from bench.errors import BenchError
from bench.optional import require

# bits of nvmlDeviceGetCurrentClocksEventReasons, once called ThrottleReasons
_REASONS = {
    0x1: "idle",
    0x2: "clocks set by the user",
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "heat",
    0x40: "heat (hardware)",
    0x80: "power brake",
    0x100: "display clocks",
}
POWER_LIMIT, HEAT = 0x4, 0x20 | 0x40
SLOWED_DOWN = POWER_LIMIT | HEAT | 0x8 | 0x80


def words_of(reasons: int) -> list[str]:
    """What the bits of clock reasons mean."""
    return [word for bit, word in _REASONS.items() if reasons & bit]


class Nvml:
    """The driver's library.

    Raises:
        BenchError: pynvml is not installed, or no driver answers.
    """

    def __init__(self) -> None:
        self._library = require("pynvml", "cuda")
        try:
            self._library.nvmlInit()
        except self._library.NVMLError as error:
            raise BenchError(
                f"No NVIDIA driver answers on this machine ({error}). Is there a GPU? Then install "
                "or load its driver, until nvidia-smi works (in a container: --gpus all). On a "
                "Jetson use --device jetson, without a GPU --device cpu."
            ) from error

    def ask(self, function: str, *arguments: object) -> Any:
        """What ``function`` returns; None where library, driver or GPU do not know it."""
        try:
            answer = getattr(self._library, function)(*arguments)
        except (self._library.NVMLError, AttributeError):
            return None
        return answer.decode() if isinstance(answer, bytes) else answer

    def gpu(self, index: int) -> NvmlGpu:
        """The GPU that CUDA counts as ``index``, as far as the environment tells.

        Raises:
            BenchError: there is none.
        """
        count = self.ask("nvmlDeviceGetCount") or 0
        handles = [self.ask("nvmlDeviceGetHandleByIndex", number) for number in range(count)]
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            handles = self._visible(handles, visible)
        if index >= len(handles) or handles[index] is None:
            shown = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
            raise BenchError(
                f"There is no GPU {index}: this machine shows {len(handles)}{shown}. "
                "nvidia-smi -L lists them."
            )
        return NvmlGpu(self, handles[index])

    def order_is_certain(self) -> bool:
        """Whether CUDA counts the GPUs as NVML does: it puts the fastest first, unless told."""
        count = self.ask("nvmlDeviceGetCount") or 0
        handles = [self.ask("nvmlDeviceGetHandleByIndex", number) for number in range(count)]
        models = {self.ask("nvmlDeviceGetName", handle) for handle in handles}
        return len(models) <= 1 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"

    def _visible(self, handles: list[Any], visible: str) -> list[Any]:
        """As CUDA reads the variable: numbers or UUIDs, up to the first that is not there."""
        chosen: list[Any] = []
        for entry in filter(None, map(str.strip, visible.split(","))):
            if entry.isdigit():
                handle = handles[int(entry)] if int(entry) < len(handles) else None
            else:
                handle = self.ask("nvmlDeviceGetHandleByUUID", entry)
            if handle is None:
                break
            chosen.append(handle)
        return chosen


class NvmlGpu:
    """One GPU. Everything is None where it does not tell."""

    def __init__(self, nvml: Nvml, handle: object) -> None:
        self._nvml, self._handle = nvml, handle

    def ask(self, function: str, *arguments: object) -> Any:
        """As ``Nvml.ask``, of this GPU."""
        return self._nvml.ask(function, self._handle, *arguments)

    def reasons(self) -> int | None:
        """Bits of what keeps its clock from rising."""
        now = self.ask("nvmlDeviceGetCurrentClocksEventReasons")
        if now is None:
            now = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if now is None else int(now)

    def watts(self) -> float | None:
        """What it draws now; on newer GPUs the mean of the last second."""
        milliwatts = self.ask("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else float(milliwatts / 1000)

    def joules(self) -> float | None:
        """What it has drawn since the driver was loaded."""
        millijoules = self.ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else float(millijoules / 1000)

    def processes(self) -> set[int]:
        """Ids of the processes that compute on it; in a container those of the host."""
        running = self.ask("nvmlDeviceGetComputeRunningProcesses") or []
        return {int(process.pid) for process in running}
