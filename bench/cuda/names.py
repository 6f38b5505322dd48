"""The GPU's name, asked of the driver alone."""

from __future__ import annotations

import ctypes

DRIVER = "libcuda.so.1"


def gpu_name(index: int) -> str:
    """Name of the GPU ``index``; ``GPU 0``, say, where no driver tells."""
    name, device = ctypes.create_string_buffer(256), ctypes.c_int()
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return f"GPU {index}"
    told = (
        driver.cuInit(0) == 0
        and driver.cuDeviceGet(ctypes.byref(device), index) == 0
        and driver.cuDeviceGetName(name, len(name), device) == 0
    )
    return name.value.decode(errors="replace") if told else f"GPU {index}"
