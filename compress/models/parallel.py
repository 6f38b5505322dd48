"""One of several processes that train together, on torch's DistributedDataParallel.

Run so far: two CPU processes on gloo. NCCL, which several GPUs take, was never run.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import LOCAL_RANK, RANK, WORLD_SIZE
from ultralytics.utils.torch_utils import TORCH_2_13

from compress.models.processes import STORE


class ParallelTrainer(BaseTrainer):
    """A stock trainer that is one of several processes, if the environment says so."""

    device: Any
    model: Any
    lf: Any
    best_fitness: Any

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
        store = f"file://{os.environ[STORE]}"
        backend = "gloo" if cpu or not distributed.is_nccl_available() else "nccl"
        # as long as ultralytics waits: the first one reads all labels while the others do nothing
        patience = timedelta(hours=3)
        distributed.init_process_group(backend, store, patience, WORLD_SIZE, RANK)

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
    counts, *sums = torch.split(flat, sizes)
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
