"""Every task and head: looked into, saved, exported, trained, measured."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from math import prod
from pathlib import Path

import cv2
import onnx
import onnxruntime as ort
import pytest
import torch
from drawn_tasks import KEYPOINTS, NAMES, draw_task_data
from slow import slow, slow_if
from small_nets import IMGSZ, Silent, pruned_copy
from task_nets import TASKS, task_net
from torch import Tensor, nn
from ultralytics import YOLO

from compress.errors import CompressError
from compress.models.build import build_model
from compress.models.checkpoint import class_names, load_checkpoint, save_checkpoint
from compress.models.evaluate import evaluate, evaluate_classes
from compress.models.exportable import export_metadata, exportable
from compress.models.inspect import (
    conv_costs,
    count_macs,
    dfl_convs,
    filter_shape,
    head_facts,
    head_outputs,
    is_end_to_end,
)
from compress.models.tasks import task_of
from compress.models.trainer import ResumableTrainer, Training, TrainingJob, train
from export.float_onnx import export_float

SUBJECTS = {"detect": "boxes", "segment": "masks", "pose": "keypoints", "obb": "oriented boxes"}
# branches of three levels each, then layers beside them
OUTPUTS = {
    "Detect": 2 * 3,
    "Segment": 3 * 3 + 1,
    "Pose": 3 * 3,
    "OBB": 3 * 3,
    "v10Detect": 4 * 3,
    "Detect26": 4 * 3,
    "Segment26": 6 * 3 + 2,
    "Pose26": 8 * 3,
    "OBB26": 6 * 3,
    "Classify": 1,
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Task -> its data yaml or folder, drawn once."""
    root = tmp_path_factory.mktemp("tasks")

    def draw(task: str) -> Path:
        if not (root / task).exists():
            draw_task_data(root / task, task)
        return root / task if task == "classify" else root / task / "data.yaml"

    return draw


@pytest.fixture(scope="module")
def net_of(
    drawn: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], nn.Module]:
    """Head -> a net with it, a copy each time."""
    made: dict[str, nn.Module] = {}

    def make(head: str) -> nn.Module:
        if head not in made:
            made[head] = task_net(tmp_path_factory.mktemp("nets"), head, drawn("detect").parent)
        return deepcopy(made[head])

    return make


SLOW = {"Segment", "Detect26", "Pose26", "OBB26"}  # their task and their kind are in others
heads = pytest.mark.parametrize("head", slow_if(SLOW, TASKS))


def tensors(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    assert isinstance(output, tuple)
    return [tensor for part in output for tensor in tensors(part)]


def flat(model: nn.Module, image: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return tensors(model(image))


@heads
def test_a_head_says_its_task_and_kind(head: str, net_of: Callable[[str], nn.Module]) -> None:
    facts = head_facts(net_of(head))
    assert facts.task == TASKS[head]
    assert facts.end_to_end == (head == "v10Detect" or head.endswith("26"))
    assert facts.keypoints == (KEYPOINTS if facts.task == "pose" else None)


@heads
def test_every_output_of_a_head_is_fixed(head: str, net_of: Callable[[str], nn.Module]) -> None:
    model = net_of(head)
    layers = dict(model.named_modules())
    outputs = head_outputs(model)
    assert len(set(outputs)) == len(outputs) == OUTPUTS[head]
    last = model.model[-1]
    widths = {"nc": 3, "reg_max": 4 * getattr(last, "reg_max", 0)}
    widths |= {name: getattr(last, name, 0) for name in ("nm", "nk", "ne", "nk_sigma")}
    assert {filter_shape(layers[name])[1] for name in outputs} == {w for w in widths.values() if w}


@heads
def test_macs_are_those_of_the_exported_graph(
    head: str, net_of: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    model = net_of(head)
    export_float(exportable(model), IMGSZ, tmp_path / "net.onnx")
    costs, layers = conv_costs(model, IMGSZ), dict(model.named_modules())
    dfl = sum(costs[name].macs(*filter_shape(layers[name])) for name in dfl_convs(model))
    in_graph = graph_macs(onnx.load(str(tmp_path / "net.onnx")))
    if head == "v10Detect" or head in ("Detect", "Segment", "Pose", "OBB"):
        assert dfl > 0  # exported as a product of another form
    assert count_macs(model, IMGSZ) - dfl == in_graph


def graph_macs(graph: onnx.ModelProto) -> int:
    """From the shapes of weights and tensors in the file."""
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    weights = {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in [*inferred.value_info, *inferred.output, *inferred.input]
    }
    total = 0
    for node in inferred.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            grid = node.output[0] if node.op_type == "Conv" else node.input[0]
            total += prod(weights[node.input[1]]) * prod(shapes[grid][2:])
        elif node.op_type == "Gemm":
            total += prod(weights[node.input[1]])
    return total


@heads
def test_stock_ultralytics_reads_the_task_and_computes_the_same(
    head: str, net_of: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    model = net_of(head)
    save_checkpoint(model, tmp_path / "net.pt")
    stock = YOLO(str(tmp_path / "net.pt"))
    assert stock.task == TASKS[head]
    image = torch.rand(1, 3, IMGSZ, IMGSZ, generator=torch.manual_seed(0))
    for loaded in (stock.model.float().eval(), load_checkpoint(tmp_path / "net.pt")):
        with torch.no_grad():
            ours, theirs = tensors(model(image)[0]), tensors(loaded(image)[0])
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@heads
def test_an_exported_file_computes_what_pytorch_does(
    head: str, net_of: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    model = net_of(head)
    image = torch.rand(1, 3, IMGSZ, IMGSZ, generator=torch.manual_seed(0))
    expected = flat(exportable(model), image)
    export_float(exportable(model), IMGSZ, tmp_path / "net.onnx")
    session = ort.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    found = [torch.from_numpy(a) for a in session.run(None, {"images": image.numpy()})]
    assert [output.name for output in session.get_outputs()] == [
        f"output{number}" for number in range(2 if TASKS[head] == "segment" else 1)
    ]
    if is_end_to_end(model):  # a sorted list, without non-maximum suppression
        assert expected[0].shape[2] == 6 + {"segment": 8, "pose": 12, "obb": 1}.get(TASKS[head], 0)
        scores = expected[0][0, :, 4]
        assert torch.equal(scores, scores.sort(descending=True).values)
        assert len(scores.unique()) > len(scores) // 2  # else their order would mean nothing
        assert nearest(expected.pop(0)[0], found.pop(0)[0]) < 0.02  # pixels
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, atol=5e-3, rtol=1e-3)


def nearest(rows: Tensor, others: Tensor) -> float:
    """Largest distance of a row from its nearest on the other side: near ties may swap places."""
    distances = (rows[:, None] - others[None]).abs().amax(2)
    return float(torch.cat([distances.amin(0), distances.amin(1)]).max())


def test_zeros_around_an_image_stay_zeros_in_the_runtime(tmp_path: Path) -> None:
    """ONNX Runtime joins a Pad with the MaxPool behind it, which pads with minus infinity."""
    pad = "  - [-1, 1, nn.ZeroPad2d, [[0, 1, 1, 0]]]\n  - [-1, 1, nn.MaxPool2d, [2, 1, 0]]\n"
    backbone = f"  - [-1, 1, Conv, [8, 3, 8]]\n{pad}  - [-1, 1, Conv, [8, 3, 2]]\n"
    yaml = tmp_path / "padded.yaml"
    yaml.write_text(f"nc: 3\nbackbone:\n{backbone}head:\n  - [[0, 3], 1, Detect, [nc]]\n")
    model = build_model(yaml, NAMES, 0).eval()
    model.model[0].bn.bias.data.fill_(-1.0)  # SiLU gives less than zero everywhere
    image = torch.rand(1, 3, IMGSZ, IMGSZ, generator=torch.manual_seed(0))
    assert float(model.model[0](image).max()) < 0
    expected = tensors(model(image)[0])[0].detach()
    torch.testing.assert_close(flat(exportable(model), image)[0], expected, atol=1e-4, rtol=1e-4)
    export_float(exportable(model), IMGSZ, tmp_path / "net.onnx")
    session = ort.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", ["v10Detect", "Segment26", "Pose26"])
def test_an_end_to_end_file_gives_the_boxes_of_the_one_to_one_branch(
    head: str, net_of: Callable[[str], nn.Module]
) -> None:
    model = net_of(head)
    image = torch.rand(1, 3, IMGSZ, IMGSZ, generator=torch.manual_seed(0))
    before = flat(exportable(model), image)[0]
    for branch in (model.model[-1].cv2, model.model[-1].cv3):
        for level in branch:
            nn.init.zeros_(level[-1].weight)
    torch.testing.assert_close(flat(exportable(model), image)[0], before)


def run(model: nn.Module, data: Path, folder: Path, **arguments: object) -> Training:
    given = {"epochs": 2, "batch": 8, "optimizer": "AdamW", "lr0": 0.002, **arguments}
    job = TrainingJob(data, 16, IMGSZ, 0, "cpu", 0, folder, given)
    return train(deepcopy(model), job, Silent(), "test")


class Killed(BaseException):
    """No error that anything may catch."""


@pytest.mark.parametrize("head", ["Classify", *slow("Segment", "Pose26")])
def test_training_goes_on_after_a_kill_where_a_straight_one_would_be(
    head: str,
    net_of: Callable[[str], nn.Module],
    drawn: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, data = net_of(head), drawn(TASKS[head])
    straight = run(model, data, tmp_path / "straight")
    with monkeypatch.context() as patch:
        epochs = ResumableTrainer.start_epoch_seeded

        def die(trainer: ResumableTrainer) -> None:
            epochs(trainer)
            if trainer.epoch == 1:
                raise Killed

        patch.setattr(ResumableTrainer, "start_epoch_seeded", die)
        with pytest.raises(Killed):
            run(model, data, tmp_path / "killed")
    resumed = run(model, data, tmp_path / "killed")
    assert straight.curves == resumed.curves
    assert straight.weights.keys() == model.state_dict().keys()
    assert all(torch.equal(w, resumed.weights[name]) for name, w in straight.weights.items())
    first = "model.0.conv.weight"
    assert not torch.equal(straight.weights[first], model.state_dict()[first])


def test_the_branch_that_is_exported_decides_which_epoch_is_best(
    net_of: Callable[[str], nn.Module],
    drawn: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    validated = []
    stock = ResumableTrainer.validate

    def watch(trainer: ResumableTrainer) -> object:
        found = stock(trainer)
        validated.append(trainer.ema.ema.end2end)
        return found

    monkeypatch.setattr(ResumableTrainer, "validate", watch)
    run(net_of("Detect26"), drawn("detect"), tmp_path, epochs=1)
    assert validated == [True]


def own_labels(model: nn.Module, task: str, data: Path, folder: Path) -> Path:
    """Data whose labels are what ``model`` itself finds; gives their yaml."""
    save_checkpoint(model, folder / "net.pt")
    stock = YOLO(str(folder / "net.pt"))
    for number, path in enumerate(sorted((data.parent / "images" / "val").iterdir())):
        image = cv2.imread(str(path))
        found = stock.predict(
            image, imgsz=IMGSZ, conf=0.01, max_det=4, rect=False, verbose=False, nms=None
        )[0]
        for kind in ("images", "labels"):
            (folder / "own" / kind).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "own" / "images" / f"{number}.png"), image)
        rows = [row for row in label_rows(found, task) if row]
        text = "\n".join(" ".join(f"{value:g}" for value in row) for row in rows)
        (folder / "own" / "labels" / f"{number}.txt").write_text(text + "\n")
    extra = f"kpt_shape: {list(KEYPOINTS)}\n" if task == "pose" else ""
    yaml = folder / "own" / "data.yaml"
    yaml.write_text(f"train: images\nval: images\n{extra}names: {list(NAMES.values())}\n")
    return yaml


def label_rows(found: object, task: str) -> list[list[float]]:
    boxes = found.obb if task == "obb" else found.boxes
    kinds = boxes.cls.tolist()
    if task == "segment":
        shapes = [mask.ravel().tolist() if len(mask) > 2 else None for mask in found.masks.xyn]
        return [[k, *s] for k, s in zip(kinds, shapes, strict=True) if s]
    if task == "obb":
        corners = boxes.xyxyxyxyn.clamp(0, 1)
        return [[k, *s.ravel().tolist()] for k, s in zip(kinds, corners, strict=True)]
    rows = [[k, *box] for k, box in zip(kinds, boxes.xywhn.tolist(), strict=True)]
    if task == "pose":
        points = found.keypoints.xyn.clamp(0, 1)
        seen = torch.cat([points, torch.full((*points.shape[:2], 1), 2.0)], 2)
        rows = [[*row, *s.ravel().tolist()] for row, s in zip(rows, seen, strict=True)]
    return rows


@pytest.mark.parametrize("head", [*slow("Segment"), "Pose", "OBB", "Segment26"])
def test_map_is_that_of_the_task(
    head: str, net_of: Callable[[str], nn.Module], drawn: Callable[[str], Path], tmp_path: Path
) -> None:
    model, task = net_of(head), TASKS[head]
    data = own_labels(model, task, drawn(task), tmp_path)
    found = evaluate(model, data, IMGSZ)
    assert found.subject == SUBJECTS[task]
    assert found.map50 >= found.map50_95 > 0
    export_float(
        exportable(model), IMGSZ, tmp_path / "net.onnx", metadata=export_metadata(model, IMGSZ)
    )
    exported = evaluate(tmp_path / "net.onnx", data, IMGSZ)
    assert exported.subject == found.subject
    assert exported.map50_95 == pytest.approx(found.map50_95, abs=5e-3)
    stock = YOLO(str(tmp_path / "net.pt")).val(
        data=str(data), imgsz=IMGSZ, rect=False, plots=False, workers=0, device="cpu",
        nms=False if is_end_to_end(model) else None, project=str(tmp_path / "val"), verbose=False,
    )  # fmt: skip
    metric = {"segment": "seg", "pose": "pose", "obb": "box"}[task]
    assert getattr(stock, metric).map == pytest.approx(found.map50_95, abs=1e-6)


def test_a_classifier_is_measured_by_its_likeliest_classes(
    net_of: Callable[[str], nn.Module], drawn: Callable[[str], Path], tmp_path: Path
) -> None:
    model, folder = net_of("Classify"), drawn("classify")
    names = class_names(model)
    bias = [100.0 if name == "framed" else 0.0 for _, name in sorted(names.items())]
    model.model[-1].linear.bias.data = torch.tensor(bias)
    images = {name: len(list((folder / "val" / name).iterdir())) for name in names.values()}
    found = evaluate_classes(model, folder, IMGSZ)
    assert found.top1 == pytest.approx(images["framed"] / sum(images.values()))
    assert found.top5 == 1.0
    export_float(
        exportable(model), IMGSZ, tmp_path / "net.onnx", metadata=export_metadata(model, IMGSZ)
    )
    assert evaluate_classes(tmp_path / "net.onnx", folder, IMGSZ) == found
    with pytest.raises(CompressError, match="no mAP"):
        evaluate(model, folder, IMGSZ)
    with pytest.raises(CompressError, match="no top-1"):
        evaluate_classes(net_of("OBB"), folder, IMGSZ)


@pytest.mark.parametrize("head", ["Segment", "Segment26", "Classify"])
@pytest.mark.parametrize("pruned", [False, True])
def test_classes_of_the_same_name_keep_their_outputs_in_all_branches(
    head: str, pruned: bool, net_of: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    source = net_of(head)
    source = pruned_copy(source, 0.6) if pruned else source
    save_checkpoint(source, tmp_path / "net.pt")
    known = {name: index for index, name in class_names(source).items()}
    model = build_model(tmp_path / "net.pt", {0: "new", 1: "crossed"}, seed=0)
    assert class_names(model) == {0: "new", 1: "crossed"}
    assert task_of(model).name == TASKS[head]
    layers, before = dict(model.named_modules()), dict(source.named_modules())
    sized = [n for n in head_outputs(model) if filter_shape(before[n])[1] == 3]
    assert len(sized) == {"Segment": 3, "Segment26": 7, "Classify": 1}[head]
    for name in sized:
        assert filter_shape(layers[name])[1] == 2
        if "semseg" not in name and (pruned or head != "Classify"):  # stock matches boxes only
            assert torch.equal(layers[name].weight[1], before[name].weight[known["crossed"]])
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, IMGSZ, IMGSZ))


def test_keypoints_follow_the_data_unless_the_net_is_pruned(
    net_of: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    source = net_of("Pose")
    save_checkpoint(source, tmp_path / "net.pt")
    model = build_model(tmp_path / "net.pt", NAMES, 0, keypoints=(7, 2))
    assert head_facts(model).keypoints == (7, 2)
    assert torch.equal(model.state_dict()["model.0.conv.weight"], source.model[0].conv.weight)
    save_checkpoint(pruned_copy(source, 0.6), tmp_path / "pruned.pt")
    with pytest.raises(CompressError, match=r"pruned\.pt: predicts keypoints \[4, 3\], the data"):
        build_model(tmp_path / "pruned.pt", NAMES, 0, keypoints=(7, 2))
