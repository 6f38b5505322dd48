"""Forms of a head: sparse decode is exact, raw maps are bare, suppression is the peer's."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import IMGSZ
from task_nets import TASKS, task_net
from torch import Tensor, nn
from ultralytics.utils.nms import non_max_suppression

from compress.errors import CompressError
from compress.models.exportable import boxes_and_scores, export_metadata, exportable, output_names
from compress.models.head_form import HeadForm
from compress.models.inspect import detect_head, is_end_to_end
from compress.models.sparse_decode import best_cells
from compress.models.suppression import Suppression

DETECTORS = sorted(head for head in TASKS if head != "Classify")
PLAIN = ["Detect", "OBB", "Pose", "Segment"]
CELLS = 84  # of an image of 64 pixels
Nets = Callable[[str], nn.Module]


@pytest.fixture(scope="module")
def net_of(data_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Nets:
    made: dict[str, nn.Module] = {}

    def make(head: str) -> nn.Module:
        if head not in made:
            folder = tmp_path_factory.mktemp("nets")
            made[head] = task_net(folder, head, data_yaml.parent / "images" / "train")
        return deepcopy(made[head])

    return make


def outputs_of(view: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found = view(image)
    return found if isinstance(found, tuple) else (found,)


def head_of(model: nn.Module) -> nn.Module:
    return model.model[-1]


@pytest.mark.parametrize("head", PLAIN)
@pytest.mark.parametrize("keep", [1, 7, CELLS, 500])
def test_kept_cells_are_decoded_as_all_are(
    head: str, keep: int, net_of: Nets, images: Tensor
) -> None:
    net = net_of(head)
    dense_view, sparse_view = exportable(net), exportable(net, HeadForm(keep=keep))
    for image in images[:2].split(1):
        dense, *others = outputs_of(dense_view, image)
        sparse, *same = outputs_of(sparse_view, image)
        scores = dense[0, 4 : 4 + head_of(net).nc].amax(0)
        order = scores.argsort(descending=True)[:keep]
        assert sparse.shape == (1, dense.shape[1], min(keep, CELLS))
        assert torch.allclose(sparse, dense[:, :, order], rtol=1e-5, atol=1e-4)
        assert len(others) == len(same) == (head == "Segment")
        assert all(torch.equal(a, b) for a, b in zip(others, same, strict=True))


@pytest.mark.parametrize("head", sorted(set(DETECTORS) - set(PLAIN)))
def test_end_to_end_heads_give_the_same_rows(head: str, net_of: Nets, images: Tensor) -> None:
    net = net_of(head)
    dense = outputs_of(exportable(net), images[:1])[0]
    for keep in (5, CELLS, 400):
        sparse = outputs_of(exportable(net, HeadForm(keep=keep)), images[:1])[0]
        rows = min(keep, CELLS)
        assert sparse.shape == (1, rows, dense.shape[2])
        # the best rows of all cells lie in the best cells
        assert torch.allclose(sparse[0, :5, :6], dense[0, :5, :6], rtol=1e-5, atol=1e-4)
        if rows == CELLS:
            assert torch.allclose(sparse, dense, rtol=1e-5, atol=1e-4)


@given(
    classes=st.sampled_from([1, 2, 3, 16, 17, 31, 48, 80]),
    keep=st.integers(1, 60),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40)
def test_best_cells_are_those_with_the_highest_class(classes: int, keep: int, seed: int) -> None:
    scores = torch.randn(1, classes, 40, generator=torch.Generator().manual_seed(seed))
    best = scores[0].amax(0)
    cells = best_cells(scores, keep)
    assert len(cells) == len(cells.unique()) == min(keep, 40)
    assert torch.equal(best[cells], best.sort(descending=True).values[:keep])


@pytest.mark.parametrize("head", DETECTORS)
def test_raw_maps_decode_to_what_the_head_gives(head: str, net_of: Nets, images: Tensor) -> None:
    net, form = net_of(head), HeadForm("raw")
    names = output_names(net, form)
    maps = outputs_of(exportable(net, form), images[:1])
    by_name = dict(zip(names, maps, strict=True))
    assert {"boxes_8", "scores_8", "boxes_32", "scores_32"} <= by_name.keys()
    assert ("prototypes" in by_name) == head.startswith("Segment")
    assert len(names) == (2 if "etect" in head else 3) * 3 + ("prototypes" in by_name)
    view = exportable(net)
    decoding = head_of(view)
    extras = {"Segment": "mask_coefficient", "Pose": "kpts", "OBB": "angle"}
    ours = {"boxes": "boxes", "scores": "scores"}
    for task, theirs in extras.items():
        if head.startswith(task):
            ours[{"mask_coefficient": "masks", "kpts": "keypoints", "angle": "angles"}[theirs]] = (
                theirs
            )
    raw = {
        theirs: torch.cat([by_name[f"{name}_{s}"].flatten(2) for s in (8, 16, 32)], 2)
        for name, theirs in ours.items()
    }
    if head == "OBB":
        raw["angle"] = (raw["angle"].sigmoid() - 0.25) * math.pi
    expected = outputs_of(view, images[:1])[0]
    decoded = decoding._inference({**raw, "feats": [by_name[f"boxes_{s}"] for s in (8, 16, 32)]})
    if is_end_to_end(net):
        decoded = decoding.postprocess(decoded.permute(0, 2, 1))
    assert torch.allclose(decoded, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("head", PLAIN)
@pytest.mark.parametrize(("score", "most", "keep"), [(0.4, 300, CELLS), (0.5, 6, CELLS)])
def test_suppressed_boxes_are_those_of_the_peer(
    head: str, score: float, most: int, keep: int, net_of: Nets, images: Tensor
) -> None:
    net = net_of(head)
    form = HeadForm("nms", keep=keep, iou=0.5, score=score, max_boxes=most)
    for image in images[:3].split(1):
        decoded = outputs_of(exportable(net), image)[0]
        expected = non_max_suppression(
            decoded.clone(), score, 0.5, nc=head_of(net).nc, max_det=most, rotated=head == "OBB"
        )[0]
        actual = outputs_of(exportable(net, form), image)[0][0]
        count = len(expected)
        assert 0 < count <= most
        assert actual.shape == (most, expected.shape[1])
        assert torch.allclose(actual[:count], expected, rtol=1e-4, atol=1e-3)
        assert not actual[count:].any()


@pytest.mark.parametrize("head", ["Detect26", "OBB26", "v10Detect"])
def test_an_end_to_end_head_loses_low_scores_only(head: str, net_of: Nets, images: Tensor) -> None:
    net = net_of(head)
    rows = outputs_of(exportable(net), images[:1])[0]
    threshold = float(rows[0, 20, 4])
    form = HeadForm("nms", score=threshold, max_boxes=200)
    actual = outputs_of(exportable(net, form), images[:1])[0]
    assert actual.shape == (1, 200, rows.shape[2])
    assert torch.equal(actual[0, :20], rows[0, :20])
    assert not actual[0, 20:].any()


def test_nothing_above_the_score_gives_zeros(net_of: Nets, images: Tensor) -> None:
    form = HeadForm("nms", score=0.9999, max_boxes=10)
    assert not outputs_of(exportable(net_of("Detect"), form), images[:1])[0].any()


def test_classes_do_not_suppress_each_other() -> None:
    net_head = type("Head", (), {"nc": 2, "end2end": False})()
    boxes = torch.tensor([[50.0, 50, 20, 20], [51, 50, 20, 20], [50, 51, 20, 20]]).T
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]).T
    decoded = torch.cat([boxes, scores])[None]
    rows = Suppression(net_head, 0.5, 0.25, 4)._of_cells(decoded)[0]
    expected = torch.tensor([[40.0, 40, 60, 60, 0.9, 0], [41, 40, 61, 60, 0.8, 1]])
    assert torch.allclose(rows[:2], expected)
    assert not rows[2:].any()


def test_oriented_boxes_need_a_limit(net_of: Nets) -> None:
    with pytest.raises(CompressError, match="keep: 1000"):
        exportable(net_of("OBB"), HeadForm("nms"))


def test_the_model_itself_is_left_alone(net_of: Nets, images: Tensor) -> None:
    net = net_of("Segment")
    before = set(vars(head_of(net)))
    exportable(net, HeadForm("nms", keep=5))
    exportable(net, HeadForm("raw"))
    assert set(vars(head_of(net))) == before
    assert detect_head(net).forward.__func__ is type(head_of(net)).forward
    assert boxes_and_scores(net, outputs_of(exportable(net), images[:1])[0]).shape[1] == 7


@pytest.mark.parametrize(
    ("head", "kind", "end2end", "nms"),
    [("Detect", "nms", True, True), ("Detect", "raw", False, False), ("OBB26", "raw", True, False)],
)
def test_metadata_says_how_the_file_ends(
    head: str, kind: str, end2end: bool, nms: bool, net_of: Nets
) -> None:
    metadata = export_metadata(net_of(head), IMGSZ, HeadForm(kind))
    assert metadata["head"] == kind
    assert metadata["end2end"] == str(end2end)
    assert metadata["args"] == str({"nms": nms})
