"""CUDA graphs: what a call queues, recorded once and launched as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from ctypes import byref, c_void_p
from typing import Any

from bench.cuda.base import CudaError
from bench.cuda.library import BEFORE_12, WITH_FLAGS

_THREAD_LOCAL = 1  # other threads may go on with calls that a capture forbids


class CudaGraph:
    """A graph of all that a call queues on one stream."""

    def __init__(self, cudart: Any, stream: int, call: Callable[[], object]) -> None:
        """Record ``call`` without executing it.

        Raises:
            CudaError: the stream cannot be recorded. Whatever ``call`` raises comes through. The
                recording has ended in either case.
        """
        self._cudart, self._stream = cudart, c_void_p(stream)
        self._graph = c_void_p()
        recorded = _recorded(cudart, self._stream, call)
        try:
            if hasattr(cudart, WITH_FLAGS):
                cudart.cudaGraphInstantiateWithFlags(byref(self._graph), recorded, 0)
            else:
                getattr(cudart, BEFORE_12)(byref(self._graph), recorded, None, None, 0)
        finally:
            cudart.cudaGraphDestroy(recorded)

    def launch(self) -> None:
        """Queue it."""
        self._cudart.cudaGraphLaunch(self._graph, self._stream)

    def close(self) -> None:
        """Give it back."""
        self._cudart.cudaGraphExecDestroy(self._graph)


def _recorded(cudart: Any, stream: c_void_p, call: Callable[[], object]) -> c_void_p:
    graph = c_void_p()
    cudart.cudaStreamBeginCapture(stream, _THREAD_LOCAL)
    try:
        call()
        cudart.cudaStreamEndCapture(stream, byref(graph))
    except BaseException:
        _give_up(cudart, stream, graph)
        raise
    if not graph:
        raise CudaError("cudaStreamEndCapture: nothing was recorded.")
    return graph


def _give_up(cudart: Any, stream: c_void_p, graph: c_void_p) -> None:
    """End the recording, whatever state it is in, and take the error off CUDA's books."""
    for end in (
        lambda: cudart.cudaStreamEndCapture(stream, byref(graph)),
        lambda: graph and cudart.cudaGraphDestroy(graph),
        cudart.cudaGetLastError,
    ):
        with contextlib.suppress(CudaError):
            end()
