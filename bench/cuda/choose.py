"""Who provides CUDA on this machine."""

from __future__ import annotations

import importlib
from typing import Any

from bench.cuda.base import Cuda
from bench.cuda.cudart import Cudart
from bench.cuda.pycuda_driver import PyCudaDriver


def open_cuda(index: int = 0) -> Cuda:
    """The GPU ``index`` by PyCUDA where it is installed, else by ``libcudart``.

    Raises:
        CudaError: neither is there, or there is no such GPU; says what to install.
    """
    driver = _pycuda()
    return Cudart(index) if driver is None else PyCudaDriver(driver, index)


def _pycuda() -> Any:
    """The module ``pycuda.driver``; None where it is missing, broken, or older than 2020.1."""
    try:
        driver = importlib.import_module("pycuda.driver")
    except ImportError:  # also where it does not find the driver's library
        return None
    return driver if hasattr(driver.Device, "retain_primary_context") else None
