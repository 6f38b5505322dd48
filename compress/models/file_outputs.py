"""What a file with any form of head would give as decoded cells, and whether its end is right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.exportable import exportable
from compress.models.head_form import HeadForm
from compress.models.inspect import detect_head, head_outputs, is_end_to_end
from export.inner_tensors import conv_outputs, run_inside

# the end is float on both sides, and fed with the same maps: only sums are ordered differently
_RELATIVE, _ABSOLUTE = 1e-3, 1e-2
_PIXELS, _EQUAL_ROWS = 0.05, 0.95
_TIED = 1e-4  # scores that are no further apart


def decoded_by_file(
    model: nn.Module, form: HeadForm, float_file: Path, path: Path, images: Sequence[Tensor]
) -> list[Tensor]:
    """Decode all cells of what the last convolutions of the file in ``path`` give for each image.

    So that every form of head is compared with PyTorch cell by cell. What the file itself makes of
    these maps is checked against the same form in PyTorch.

    Args:
        model: the checkpoint that the file was made of.
        form: of the file's head.
        float_file: the float graph behind ``path``, or ``path`` itself.
        path: the file, float or any dialect.
        images: (1, 3, H, W) each.

    Raises:
        CompressError: if the file's end gives something else.
    """
    known = conv_outputs(float_file)
    tensors = {name: known[name] for name in head_outputs(model) if name in known}
    dense, formed = exportable(model), exportable(model, form)
    found = run_inside(path, list(tensors.values()), [image.numpy() for image in images])
    columns = form.kind == "decoded" and not is_end_to_end(model)
    classes = detect_head(model).nc if columns else 0
    decoded = []
    for image, (outputs, values) in zip(images, found, strict=True):
        maps = dict(zip(tensors, map(torch.from_numpy, values), strict=True))
        decoded.append(_from_maps(dense, maps, image)[0])
        _require_equal(_from_maps(formed, maps, image), outputs, classes, path)
    return decoded


def _from_maps(view: nn.Module, maps: Mapping[str, Tensor], image: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad(), _given(view, maps):
        result = view(image)
    return result if isinstance(result, tuple) else (result,)


@contextmanager
def _given(view: nn.Module, maps: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the convolutions named in ``maps`` give these, without padded channels."""
    handles = []
    for name, value in maps.items():
        conv = view.get_submodule(name)
        given = value[:, : conv.out_channels]
        handles.append(conv.register_forward_hook(lambda *_, given=given: given))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _require_equal(
    expected: tuple[Tensor, ...], actual: Sequence[object], classes: int, path: Path
) -> None:
    for number, (ours, value) in enumerate(zip(expected, actual, strict=True)):
        if not _agree(ours, torch.as_tensor(value), classes):
            raise CompressError(
                f"export: the end of {path.name} (output {number}) does not give what the same "
                "head gives in PyTorch for the same maps. The exporter or ONNX Runtime treats one "
                "of its operators differently: try other versions (`compress doctor`), another "
                "`opset`, or `head: decoded` without `keep`."
            )


def _agree(ours: Tensor, theirs: Tensor, classes: int) -> bool:
    """Whether maps (1, C, H, W) are equal; or nearly all rows are, in any order.

    Where two cells score the same, or two boxes overlap by just the limit, either is right. So of
    decoded cells, which have ``classes`` scores each, those count that score more than the last.
    """
    if ours.shape != theirs.shape:
        return False
    if ours.ndim == 4:
        return torch.allclose(ours, theirs, _RELATIVE, _ABSOLUTE)
    one, other = (side[0].T if classes else side[0] for side in (ours, theirs))
    if classes:
        best = one[:, 4 : 4 + classes].amax(1)
        one = one[best > best.min() + _TIED]
        if not len(one):
            return True
    apart = torch.cdist(one, other, p=float("inf")).amin(1)
    return float((apart <= _PIXELS).float().mean()) >= _EQUAL_ROWS
