"""Checkpoints of the old YOLOv5 repository: tensors are read, none of the code they name is run.

Such a file pickles classes ``models.yolo.*`` and ``models.common.*`` that ultralytics has not, and
its head predicts from anchors, which no model of ultralytics 8.4 has. Of its five stock nets the
backbone and the neck are, tensor by tensor, those of ultralytics' ``yolov5{n,s,m,l,x}.yaml``.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from compress.errors import CompressError

_CLASSES = re.compile(r"models\.(yolo|common|experimental)\.\w+")
_STEM, _FIRST_BLOCKS = "model.0.conv.weight", re.compile(r"model\.2\.m\.(\d+)\.cv1\.conv\.weight")
# channels of the first convolution, bottlenecks of the first block -> scale
_SCALES = {(16, 1): "n", (32, 1): "s", (48, 2): "m", (64, 3): "l", (80, 4): "x"}
_KERNEL = 6  # of the first convolution since release 6.0; before it was a Focus layer
_DEEPEST = 32  # modules inside modules

CONVERT = (
    "Only the nets n, s, m, l and x of its releases 6.0 and later can be taken over. Train a model "
    "of ultralytics in its place (`model: yolov5su.pt`, or a model yaml of your own layers)"
)


@dataclass(frozen=True)
class LegacyNet:
    """What is kept of a legacy checkpoint: its scale (n, s, m, l, x), float32 tensors by name."""

    scale: str
    tensors: Mapping[str, Tensor]


def is_legacy(names: Iterable[str]) -> bool:
    """Whether these names, which a pickle holds, are of the old YOLOv5 repository."""
    return any(_CLASSES.fullmatch(name) for name in names)


def refusal(path: Path) -> CompressError:
    """Why such a checkpoint cannot be used as it is, and what to do."""
    return CompressError(
        f"{path}: a checkpoint of the old YOLOv5 repository. Its head predicts from anchors, which "
        "ultralytics 8.4 cannot run: no model there has anchors, so there are none to adapt "
        "either. Name it as `model:` (or `teacher:`) and give it a `stage: train` that always "
        "trains: backbone and neck are taken over and the head begins anew; or name yolov5su.pt."
    )


def read_legacy(path: Path) -> LegacyNet:
    """The tensors of a legacy checkpoint and the net they are of. Nothing it names is run.

    Raises:
        CompressError: the file is damaged, or its net is none of the five.
    """
    try:
        content = torch.load(
            path, map_location="cpu", weights_only=False, pickle_module=_INERT_PICKLE
        )
        tensors = dict(_tensors(_net(content)))
    except Exception as error:  # damaged bytes end in a dozen kinds of errors
        raise CompressError(
            f"{path}: a checkpoint of the old YOLOv5 repository that cannot be read "
            f"({type(error).__name__}): damaged or cut off while copying. Copy it again."
        ) from error
    scale = _scale(tensors)
    if scale is None:
        raise CompressError(
            f"{path}: names classes of the old YOLOv5 repository, but its layers are not those of "
            f"YOLOv5 n, s, m, l or x (a fork, an older release, or a changed net). {CONVERT}."
        )
    return LegacyNet(scale, tensors)


def take_over(net: LegacyNet, model: torch.nn.Module, path: Path) -> None:
    """Copy backbone and neck of ``net`` into ``model``, ultralytics' net of that scale, in place.

    Raises:
        CompressError: a tensor is missing or has another shape; ``path`` is the checkpoint's.
    """
    head = f"model.{len(model.model) - 1}."
    state = model.state_dict()
    wanted = [name for name in state if not name.startswith(head)]
    unlike = [name for name in wanted if _shape(net.tensors.get(name)) != state[name].shape]
    if unlike:
        raise CompressError(
            f"{path}: of the old YOLOv5 repository and like its net '{net.scale}', but for "
            f"{len(unlike)} of {len(wanted)} tensors, such as {unlike[0]}. {CONVERT}."
        )
    model.load_state_dict({name: net.tensors[name] for name in wanted}, strict=False)


def _shape(tensor: Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape


def _scale(tensors: Mapping[str, Tensor]) -> str | None:
    stem = tensors.get(_STEM)
    if stem is None or stem.shape[1:] != (3, _KERNEL, _KERNEL):
        return None
    blocks = sum(1 for name in tensors if _FIRST_BLOCKS.fullmatch(name))
    return _SCALES.get((stem.shape[0], blocks))


class _Inert:
    """Stands for an object of any class. It keeps its state and does nothing, however called."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        made = object.__new__(cls)
        made.__dict__["state"] = {}
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__["state"] = state if isinstance(state, dict) else {}

    def __setitem__(self, key: Any, value: Any) -> None:
        """Items of a mapping of unknown class are of no use."""

    def append(self, item: Any) -> None:
        """Nor are those of a list."""

    def extend(self, items: Any) -> None:
        """Nor are those of a list."""

    def __call__(self, *_: Any, **__: Any) -> _Inert:
        return _Inert()


class _BuildTensor:
    """As torch builds a tensor from its storage; unlike torch's function, nothing can change it."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        tensor: Tensor = torch._utils._rebuild_tensor(storage, offset, size, stride)  # type: ignore[no-untyped-call]
        return tensor


class _BuildParameter:
    """A parameter is taken as the plain tensor in it."""

    __slots__ = ()

    def __call__(self, data: Any, *_: Any) -> Any:
        return data


_BUILDERS: Mapping[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _BuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _BuildParameter(),
    ("torch", "Size"): torch.Size,
    ("collections", "OrderedDict"): OrderedDict,
}


class _InertUnpickler(pickle.Unpickler):
    """Knows tensors and plain values; every other class becomes one of ``_Inert``'s."""

    def find_class(self, module: str, name: str) -> Any:
        known = _BUILDERS.get((module, name))
        return known if known is not None else type("_Unknown", (_Inert,), {})


_INERT_PICKLE = SimpleNamespace(__name__="inert", Unpickler=_InertUnpickler)


def _net(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    average = content.get("ema")
    return average if isinstance(average, _Inert) else content.get("model")


def _tensors(module: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by the names that ``state_dict`` would give them, in float32."""
    if not isinstance(module, _Inert) or depth > _DEEPEST:
        return
    for group in ("_parameters", "_buffers"):
        for name, value in _entries(module, group):
            if isinstance(value, Tensor):
                floating = value.is_floating_point()
                yield f"{prefix}{name}", value.detach().float() if floating else value.detach()
    for name, child in _entries(module, "_modules"):
        yield from _tensors(child, f"{prefix}{name}.", depth + 1)


def _entries(module: _Inert, group: str) -> list[tuple[Any, Any]]:
    entries = module.__dict__["state"].get(group)
    return list(entries.items()) if isinstance(entries, dict) else []
