"""Read and write ``.pt`` checkpoints that stock ultralytics can load.

A checkpoint is a pickle: loading it can run whatever it names. So its names are read first,
without running anything, and a file that names a class ultralytics and torch do not own is refused,
unless it is one of the user's own layers, inside ``custom_modules``.
"""

from __future__ import annotations

import io
import os
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics import __version__ as ultralytics_version
from ultralytics.nn.tasks import BaseModel, guess_model_task, torch_safe_load

from compress.errors import CompressError
from compress.models.legacy import is_legacy, refusal

# classes of layers, models and losses; not the functions that lie beside them
_KNOWN_CLASSES = re.compile(
    r"(torch\.nn\.modules\.\w+|ultralytics\.nn\.(modules(\.\w+)?|tasks))\.([A-Z]\w*|v10Detect)"
    r"|ultralytics\.utils\.(loss|tal)\.\w+"
    # how a classifier's images are cut and scaled
    r"|torchvision\.transforms\.(transforms\.[A-Z]\w*|functional\.InterpolationMode)"
)
# names that official checkpoints carry beside them: all of them build plain values
_KNOWN_NAMES = frozenset(
    {
        "builtins.getattr",  # a fused layer's bound forward; torch's restricted loader guards it
        "builtins.set",
        "collections.OrderedDict",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "ultralytics.utils.IterableSimpleNamespace",
    }
)


def foreign_names(path: Path) -> list[str]:
    """Names in the pickle at ``path`` that a YOLO checkpoint has no use for. Runs nothing.

    Classes of a file that ``custom_modules`` has loaded are not among them.

    Raises:
        CompressError: if the file is no torch checkpoint.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception as error:  # damaged bytes end in a dozen kinds of errors
        raise _unreadable(path) from error
    return sorted(n for n in names if n not in _KNOWN_NAMES and not _KNOWN_CLASSES.fullmatch(n))


def _unreadable(path: Path) -> CompressError:
    if not path.is_file():
        return CompressError(f"{path}: no such checkpoint. Check the path.")
    return CompressError(
        f"{path}: not a readable PyTorch checkpoint ({path.stat().st_size} bytes): damaged, cut "
        "off while copying, or in a format older than PyTorch 1.6. Copy it again, or load and save "
        "it once with `torch.save` where it was made."
    )


def load_checkpoint(path: Path) -> nn.Module:
    """The model of a checkpoint: float32, on the CPU, in eval mode.

    Raises:
        CompressError: if the file is damaged, names foreign code, is of the old YOLOv5 repository,
            or holds no YOLO model.
    """
    foreign = foreign_names(path)
    if is_legacy(foreign):
        raise refusal(path)
    if foreign:
        shown = ", ".join(foreign[:5]) + (" ..." if len(foreign) > 5 else "")
        raise CompressError(
            f"{path}: refused before loading, because its pickle names code that is not "
            f"ultralytics' or torch's own: {shown}. Loading it could run that code. If these are "
            "layers of yours, name their file in the recipe (`modules: my_layers.py`), called as "
            "it was when the checkpoint was saved."
        )
    try:
        content, _ = torch_safe_load(str(path), safe_only=True)
    except AttributeError:  # a pickle that is no dictionary
        content = {}
    except Exception as error:  # damaged bytes end in a dozen kinds of errors
        raise CompressError(f"{_unreadable(path)} ({type(error).__name__})") from error
    model = content.get("model") if content.get("ema") is None else content["ema"]
    if not isinstance(model, BaseModel):
        raise CompressError(f"{path}: holds no YOLO model. Give a `.pt` that ultralytics wrote.")
    model = model.float().eval()
    model.criterion = None
    return model


def save_checkpoint(model: nn.Module, path: Path) -> None:
    """Write ``model`` as a checkpoint of stock ultralytics, in float32, for its own task.

    Nothing that changes from run to run (dates, paths) goes in, so equal weights give equal bytes.
    """
    model = deepcopy(model).float().eval().cpu()
    task = guess_model_task(dict(model.yaml))
    for name, value in {"criterion": None, "args": {"task": task}, "pt_path": None}.items():
        model.__dict__.pop(name, None)  # always last: a pickle keeps the order of attributes
        setattr(model, name, value)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    content: dict[str, Any] = {
        "epoch": -1,
        "model": model,
        "ema": None,
        "train_args": {"task": task},
        "version": ultralytics_version,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
    }
    buffer = io.BytesIO()  # a file's name would go into the archive, and so into its hash
    torch.save(content, buffer)
    partial = path.with_suffix(".part")
    partial.write_bytes(buffer.getvalue())
    os.replace(partial, path)  # noqa: PTH105 - atomic on every platform


def class_names(model: nn.Module) -> dict[int, str]:
    """Class index to name."""
    names = getattr(model, "names", {})
    return dict(enumerate(names)) if isinstance(names, (list, tuple)) else dict(names)
