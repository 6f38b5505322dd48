"""CUDA by PyCUDA and by ctypes, against a library compiled from C that checks what crosses over."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fake_cuda import GPUS, FakeCuda, fake_pycuda

import bench.cuda.library
from bench.cuda.base import Cuda, CudaError
from bench.cuda.choose import open_cuda
from bench.cuda.cudart import Cudart
from bench.cuda.library import BEFORE_12, SIGNATURES, WITH_FLAGS, load_cudart
from bench.cuda.names import gpu_name
from bench.cuda.pycuda_driver import PyCudaDriver

PROVIDERS = ["pycuda", "cudart"]
CUDA_RELEASES = ["", "BEFORE_11_4"]


def install_pycuda(monkeypatch: pytest.MonkeyPatch, driver: Any) -> None:
    package: Any = ModuleType("pycuda")
    package.driver = driver
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)


@pytest.fixture(autouse=True)
def no_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


@pytest.fixture(params=PROVIDERS)
def opened(
    request: pytest.FixtureRequest, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Cuda]:
    if request.param == "pycuda":
        install_pycuda(monkeypatch, fake_pycuda(fake))
    return open_cuda


def test_who_provides_it(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = open_cuda()
    assert isinstance(cuda, Cudart)
    cuda.close()
    driver = fake_pycuda(fake)
    install_pycuda(monkeypatch, driver)
    cuda = open_cuda()
    assert isinstance(cuda, PyCudaDriver)
    cuda.close()
    del driver.Device.retain_primary_context  # as before 2020.1
    cuda = open_cuda()
    assert isinstance(cuda, Cudart)
    cuda.close()


def test_device_and_copies_on_its_stream(fake: FakeCuda, opened: Callable[..., Cuda]) -> None:
    cuda = opened(1)
    assert (cuda.name, cuda.capability) == (GPUS[1], (8, 7))
    source, target = cuda.pinned((2, 3), np.float32), cuda.pinned((2, 3), np.float32)
    given, got = source.values, target.values
    given[:], got[:] = np.arange(6.0).reshape(2, 3), 0
    address = cuda.buffer(given.nbytes)
    events = [cuda.event() for _ in range(3)]
    cuda.record(events[0])
    cuda.copy_to_device(address, source)
    cuda.record(events[1])
    cuda.copy_to_host(target, address)
    cuda.record(events[2])
    assert not got.any(), "copies wait for nobody"
    cuda.synchronize()
    assert (got == given).all()
    assert cuda.elapsed_ms(events[0], events[1]) == 0.25
    assert cuda.elapsed_ms(events[0], events[2]) == 0.375
    del events
    cuda.close()
    del source, target, cuda
    assert (got == given).all(), "pinned arrays outlive it"
    del given, got
    assert fake.alive() == 0


@pytest.mark.parametrize("release", CUDA_RELEASES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_graph_runs_what_was_recorded(
    monkeypatch: pytest.MonkeyPatch, release: str, provider: str
) -> None:
    fake = FakeCuda(monkeypatch, release)
    if provider == "pycuda":
        install_pycuda(monkeypatch, fake_pycuda(fake))
    cuda, ran = open_cuda(), []
    stream = cuda.stream
    before = fake.count(WITH_FLAGS), fake.count(BEFORE_12)
    launch = cuda.graph_of(lambda: fake.launch(stream, lambda: ran.append(1)))
    after = fake.count(WITH_FLAGS), fake.count(BEFORE_12)
    assert after == (before[0], before[1] + 1) if release else (before[0] + 1, before[1])
    cuda.synchronize()
    assert ran == []
    launch()
    launch()
    cuda.synchronize()
    assert ran == [1, 1]
    cuda.close()
    del cuda, launch
    assert fake.alive() == 0


def test_a_recording_that_fails_is_ended(fake: FakeCuda, opened: Callable[..., Cuda]) -> None:
    cuda, ran = opened(), []
    stream = cuda.stream

    def waits() -> None:
        fake.library.cudaStreamSynchronize(ctypes.c_void_p(stream))

    def raises() -> None:
        raise KeyboardInterrupt

    with pytest.raises(CudaError, match=r"cudaStreamEndCapture: operation failed due to a prev"):
        cuda.graph_of(waits)
    with pytest.raises(KeyboardInterrupt):
        cuda.graph_of(raises)
    for name in ("cudaStreamBeginCapture", "cudaStreamEndCapture", WITH_FLAGS):
        fake.fail(name, 901)
        with pytest.raises(CudaError, match=name):
            cuda.graph_of(lambda: None)
    assert fake.library.fake_last_error() in (0, 901)
    assert fake.launch(stream, lambda: ran.append(1))
    cuda.synchronize()
    assert ran == [1], "the stream works on"
    cuda.close()
    del cuda
    assert fake.alive() == 0


def test_other_threads_make_the_gpu_theirs(fake: FakeCuda, opened: Callable[..., Cuda]) -> None:
    cuda, faults = opened(1), []

    def use(current: bool) -> None:
        try:
            if current:
                with cuda.current():
                    cuda.synchronize()
            else:
                cuda.synchronize()
        except CudaError as error:
            faults.append(str(error))

    for current in (True, False):
        thread = threading.Thread(target=use, args=[current])
        thread.start()
        thread.join()
        assert len(faults) == (not current)
    cuda.close()


def test_no_context_stays_behind(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = fake_pycuda(fake)  # whose original aborts the process otherwise
    install_pycuda(monkeypatch, driver)
    cuda = open_cuda()
    assert driver.depth() == 1
    cuda.close()
    assert driver.depth() == 0
    fake.fail("cudaStreamCreateWithFlags", 2)
    with pytest.raises(CudaError, match="cudaStreamCreateWithFlags failed"):
        open_cuda()
    assert driver.depth() == 0


def test_faults_carry_what_cuda_says(fake: FakeCuda, opened: Callable[..., Cuda]) -> None:
    with pytest.raises(CudaError, match="invalid device ordinal"):
        opened(7)
    cuda = opened()
    fake.fail("cudaMalloc", 2)
    with pytest.raises(CudaError, match="cudaMalloc") as caught:
        cuda.buffer(8)
    if isinstance(cuda, Cudart):
        assert "out of memory (error 2). Measure fewer" in str(caught.value)
    with pytest.raises(CudaError, match="cudaMemcpyAsync"):  # more than the buffer holds
        cuda.copy_to_device(cuda.buffer(4), cuda.pinned((2,), np.float32))
    cuda.close()


def test_every_call_is_checked(fake: FakeCuda) -> None:
    cudart = load_cudart()
    for name in {**SIGNATURES, WITH_FLAGS: ()}:
        if name != "cudaGetLastError":
            assert getattr(cudart, name).errcheck is not None
            fake.fail(name, 46)
            arguments = [_nothing(kind) for kind in getattr(cudart, name).argtypes]
            with pytest.raises(CudaError, match=rf"{name}: .*\(error \d+\)"):
                getattr(cudart, name)(*arguments)


def _nothing(kind: Any) -> Any:
    return 0 if kind in (ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_ulonglong) else None


def test_without_cuda_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.cuda.library, "_places", lambda: iter(["/gone/libcudart.so"]))
    with pytest.raises(CudaError, match=r"/gone/libcudart.*yolo-compress\[tensorrt\].*JetPack"):
        open_cuda()


def test_a_library_that_is_none_is_passed_over(
    fake: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [real] = bench.cuda.library._places()
    junk = tmp_path / "libcudart.so"
    junk.write_bytes(b"\x7fELF cut off")
    places = [str(junk), str(ctypes.util.find_library("c")), real]
    monkeypatch.setattr(bench.cuda.library, "_places", lambda: iter(places))
    assert load_cudart()._name == real


def test_places_cover_every_release_and_nvidias_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.12"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    places = list(bench.cuda.library._places())
    assert places[:2] == ["libcudart.so", "libcudart.so.13"]
    assert "/usr/local/cuda/lib64/libcudart.so.10.2" in places
    assert str(library) in places


def test_without_a_driver_a_gpu_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.cuda.names.DRIVER", "libgone.so.1")
    assert gpu_name(1) == "GPU 1"
