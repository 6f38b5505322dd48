"""Training in several processes, one a GPU, on torch's DistributedDataParallel.

ultralytics starts a script of its own for that, which can carry neither a module nor extensions.
Here the processes are spawned with both, and the first one tells the parent how far it is.

Run so far: two CPU processes on gloo. NCCL, which several GPUs take, was never run.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import LOCAL_RANK, RANK, WORLD_SIZE
from ultralytics.utils.torch_utils import TORCH_2_13

from compress.errors import CompressError
from compress.progress import Task

_STORE = "COMPRESS_PROCESS_STORE"  # a file through which the processes find each other


class ParallelTrainer(BaseTrainer):
    """A stock trainer that is one of several processes, if the environment says so."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if RANK != -1:
            self.world_size = WORLD_SIZE  # the stock trainer knows none on the CPU

    def _setup_ddp(self) -> None:
        """Meet the other processes, each on a GPU of its own."""
        cpu = self.device.type == "cpu"
        if not cpu:
            self.device = torch.device("cuda", int(self.args.device.split(",")[LOCAL_RANK]))
            self.accelerator.set_device(self.device.index)
        store = f"file://{os.environ[_STORE]}"
        backend = "gloo" if cpu or not distributed.is_nccl_available() else "nccl"
        distributed.init_process_group(backend, store, rank=RANK, world_size=WORLD_SIZE)

    def _setup_train(self) -> None:
        if self.device.type == "cpu":
            self.world_size = 0  # the stock step wraps the model, but only for a GPU
        super()._setup_train()

    def _build_train_pipeline(self) -> None:
        if RANK != -1 and not isinstance(self.model, nn.parallel.DistributedDataParallel):
            self.world_size = WORLD_SIZE
            buffers = "forward_sync_buffers" if TORCH_2_13 else "broadcast_buffers"
            self.model = nn.parallel.DistributedDataParallel(
                self.model, find_unused_parameters=True, **{buffers: False}
            )
        super()._build_train_pipeline()


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Mean over the processes, for parameters that the wrapped model does not hold.

    A parameter that got no gradient in any process keeps none.
    """
    if RANK == -1 or not parameters:
        return
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    reached = torch.tensor([float(p.grad is not None) for p in parameters]).to(found[0].device)
    flat = torch.cat([reached, *(gradient.reshape(-1).float() for gradient in found)])
    distributed.all_reduce(flat)
    sizes = [len(parameters), *(p.numel() for p in parameters)]
    counts, *sums = flat.split(sizes)
    for parameter, count, total in zip(parameters, counts.tolist(), sums, strict=True):
        if count:
            parameter.grad = (total / WORLD_SIZE).view_as(parameter).to(parameter.dtype)


def of_first(state: dict[str, Any]) -> dict[str, Any]:
    """The first process' ``state`` in all of them, its tensors on the CPU."""
    if RANK == -1:
        return state
    buffer = io.BytesIO()
    torch.save(state, buffer)
    box = [buffer.getvalue() if RANK == 0 else b""]
    distributed.broadcast_object_list(box, 0)
    return dict(torch.load(io.BytesIO(box[0]), map_location="cpu", weights_only=True))


def take_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite ``tensors`` of all processes with those of the first."""
    if RANK != -1:
        for tensor in tensors:
            distributed.broadcast(tensor.data, 0)


def of_all(value: Any) -> list[Any]:
    """What each process has as ``value``, in the order of their ranks."""
    if RANK == -1:
        return [value]
    values: list[Any] = [None] * WORLD_SIZE
    distributed.all_gather_object(values, value)
    return values


def run_together(
    work: Callable[..., None], arguments: tuple[Any, ...], ranks: int, bar: Task
) -> None:
    """Do ``work(*arguments, bar)`` in ``ranks`` new processes; all of them end when one fails.

    Only the first one gets a bar, the others None. ``work`` and ``arguments`` are pickled.

    Raises:
        CompressError: as the process that failed first says it, or if one was killed.
        RuntimeError: with the traceback of anything else that it raised.
    """
    payload = pickle.dumps((work, arguments))
    context = get_context("spawn")
    started: dict[connection.Connection, SpawnProcess] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for rank in range(ranks):
                ours, theirs = context.Pipe(duplex=False)
                started[ours] = context.Process(target=_process, args=(theirs, payload))
                # ultralytics reads these when it is imported, so they must be there before
                with _environment(rank, ranks, Path(folder) / "store"):
                    started[ours].start()
                theirs.close()
            _follow(started, bar)
        finally:
            for process in started.values():
                if process.pid is not None:
                    process.kill()
                    process.join()


@contextmanager
def _environment(rank: int, ranks: int, store: Path) -> Iterator[None]:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, _STORE: store}
    before = dict(os.environ)
    os.environ.update({name: str(value) for name, value in names.items()})
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name)
        os.environ.update(before)


def _follow(started: Mapping[connection.Connection, SpawnProcess], bar: Task) -> None:
    """Pass on what the processes send, until all have ended."""
    running = dict(started)
    while running:
        for channel in connection.wait(list(running)):
            assert isinstance(channel, connection.Connection)
            try:
                kind, *values = channel.recv()
            except EOFError:
                process = running.pop(channel)
                process.join()
                if process.exitcode:
                    raise CompressError(_ended(process.exitcode)) from None
                continue
            if kind == "advance":
                bar.advance(*values)
            else:
                raise (CompressError if kind == "fault" else RuntimeError)(*values)


def _ended(code: int) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return (
        f"Training stopped: one of its processes {how}. The finished epochs are kept: the same "
        "command goes on. If memory ran out, lower `batch` or `workers`."
    )


class _Bar:
    """The first process' bar, shown by the parent."""

    def __init__(self, channel: connection.Connection) -> None:
        self.channel = channel

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.channel.send(("advance", steps, note))


def _process(channel: connection.Connection, payload: bytes) -> None:
    """What each process does; after a failure it waits to be ended, so that it is the only one."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    try:
        work, arguments = pickle.loads(payload)
        work(*arguments, _Bar(channel) if RANK == 0 else None)
        distributed.barrier()  # nobody leaves while another still listens
        distributed.destroy_process_group()
    except CompressError as error:
        channel.send(("fault", str(error)))
        threading.Event().wait()
    except Exception:
        channel.send(("crash", traceback.format_exc()))
        threading.Event().wait()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
