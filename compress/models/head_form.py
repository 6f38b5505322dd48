"""What an exported graph gives out: the head's raw maps, decoded cells, or suppressed boxes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from ultralytics.nn.modules import OBB, Detect

from compress.errors import CompressError
from compress.models.raw_maps import RawMaps
from compress.models.sparse_decode import SparseDecode
from compress.models.suppression import Suppression


@dataclass(frozen=True)
class HeadForm:
    """How the graph of a detector ends.

    Attributes:
        kind: ``raw`` (each level's maps as the last convolutions give them), ``decoded`` (boxes and
            scores of cells) or ``nms`` (boxes that are left of them).
        keep: decode only so many cells, those with the highest scores; None: all.
        iou: of ``nms``, in (0, 1): boxes that overlap a better one of their class by more go.
        score: of ``nms``, in [0, 1): boxes that score no more go.
        max_boxes: of ``nms``: rows of the output, filled up with zeros.
    """

    kind: Literal["raw", "decoded", "nms"] = "decoded"
    keep: int | None = None
    iou: float = 0.7
    score: float = 0.25
    max_boxes: int = 300


def kind_of_file(path: Path) -> str:
    """How an exported file ends, as ``HeadForm.kind``; files that do not say it are decoded."""
    properties = onnx.load(str(path), load_external_data=False).metadata_props
    return {entry.key: str(entry.value) for entry in properties}.get("head", "decoded")


def shape_head(head: Detect, form: HeadForm) -> None:
    """Make ``head``, the fused head of an export view, end as ``form`` says.

    Its modules keep their names, so that the graph's tensors do up to the last convolutions.

    Raises:
        CompressError: if suppression would compare too many oriented boxes.
    """
    if form.kind == "raw":
        head.forward = RawMaps(head)
        return
    if form.keep is not None:
        head._inference = SparseDecode(head, form.keep)
    if form.kind == "nms":
        if isinstance(head, OBB) and form.keep is None and not head.end2end:
            raise CompressError(
                "export: `head: nms` compares every pair of oriented boxes, which is too much for "
                "all cells of an image. Say how many to compare, such as `keep: 1000`."
            )
        head.forward = Suppression(head, form.iou, form.score, form.max_boxes)
