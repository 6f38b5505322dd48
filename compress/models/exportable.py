"""A model as it is exported: BN folded, decoded output, and what runtimes must know of it."""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from ultralytics.nn.modules import DFL, C2f, Detect, RepConv
from ultralytics.nn.modules.block import RepVGGDW

from compress.models.checkpoint import class_names
from compress.models.head_form import HeadForm, shape_head
from compress.models.inspect import detect_head, is_end_to_end, model_head
from compress.models.quiet import quiet_ultralytics
from compress.models.raw_maps import raw_names
from compress.models.tasks import keypoint_shape, task_of


def fused_copy(model: nn.Module) -> nn.Module:
    """A float32 copy in eval mode with BatchNorm folded into the convolutions before it.

    Of an end-to-end head only the branch that needs no non-maximum suppression stays.
    """
    copy = deepcopy(model).float().eval()
    if is_end_to_end(copy):
        copy.end2end = True
    copy.criterion = None
    with quiet_ultralytics():
        return copy.fuse(verbose=False)


def unfuse_into(fused: nn.Module, plain: nn.Module) -> nn.Module:
    """A copy of ``plain`` that computes what ``fused`` does; its BatchNorms only add the bias.

    Keeps the structure that stock ultralytics expects of an unfused checkpoint. Folding the copy
    again gives the very weights of ``fused``.
    """
    result = deepcopy(plain).float().eval()
    trained = dict(fused.named_modules())
    branches: set[nn.Module] = set()
    for name, module in result.named_modules():
        if module in branches:
            continue
        if isinstance(module, (RepConv, RepVGGDW)):  # fused, its branches are one convolution
            _unfuse_branches(module, trained[f"{name}.conv"])
            branches.update(module.modules())
        elif f"{name}.conv" not in trained and name not in trained:
            continue  # the branch of an end-to-end head that is not exported
        elif isinstance(getattr(module, "bn", None), nn.BatchNorm2d) and isinstance(
            getattr(module, "conv", None), nn.Conv2d
        ):
            _unfuse_conv(module.conv, module.bn, trained[f"{name}.conv"])
        elif isinstance(module, nn.Conv2d) and not name.endswith(".conv"):
            module.load_state_dict(trained[name].state_dict())
    return result


def _unfuse_conv(conv: nn.Conv2d, norm: nn.BatchNorm2d, source: nn.Conv2d) -> None:
    conv.weight.data.copy_(source.weight.detach())
    _pass_on(norm)
    norm.bias.data.copy_(source.bias.detach())


def _pass_on(norm: nn.BatchNorm2d) -> None:
    """Let ``norm`` give what it gets."""
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0)
    norm.weight.data.copy_(torch.sqrt(norm.eps + norm.running_var))
    norm.bias.data.zero_()


def _unfuse_branches(module: RepConv | RepVGGDW, source: nn.Conv2d) -> None:
    """Everything goes through the widest branch; the others give zeros."""
    dense = isinstance(module, RepConv)
    first, second = (module.conv1, module.conv2) if dense else (module.conv, module.conv1)
    _unfuse_conv(first.conv, first.bn, source)
    second.conv.weight.data.zero_()
    _pass_on(second.bn)
    identity = getattr(module, "bn", None)
    if identity is not None:
        identity.weight.data.zero_()
        identity.bias.data.zero_()


class ExpectedDistance(nn.Module):
    """DFL's expectation over distance bins, in a form that runtimes compute fast.

    A softmax over 16 values that do not lie side by side takes ONNX Runtime ten times as long as
    the same numbers as ``exp``, then one small product that gives both sums.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.register_buffer("sums", torch.stack([torch.arange(float(bins)), torch.ones(bins)]))

    def forward(self, x: Tensor) -> Tensor:
        """Bin logits (N, 4 * bins, cells) to distances in strides (N, 4, cells)."""
        logits = x.view(x.shape[0], 4, self.bins, x.shape[-1])
        powers = (logits - logits.amax(2, keepdim=True)).exp()  # at most 1: cannot overflow
        sums = self.sums @ powers
        return sums[:, :, 0] / sums[:, :, 1]


class ZeroBorder(nn.Module):
    """Zeros around an image as a concatenation, in place of ``nn.ZeroPad2d``.

    ONNX Runtime (seen in 1.31) moves a Pad into the MaxPool behind it, which pads with minus
    infinity: where activations are negative the result is another one (YOLOv3-tiny).
    """

    def __init__(self, pad: nn.ZeroPad2d) -> None:
        super().__init__()
        self.left, self.right, self.top, self.bottom = pad.padding
        self.i, self.f, self.type = pad.i, pad.f, pad.type  # where ultralytics' layers stand

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, top + H + bottom, left + W + right)."""
        for before, after, dim in ((self.left, self.right, 3), (self.top, self.bottom, 2)):
            shape = list(x.shape)
            parts = []
            for count in (before, after):
                shape[dim] = count
                parts.append(x.new_zeros(shape))
            x = torch.cat([parts[0], x, parts[1]], dim)
        return x


class PlainHardswish(nn.Module):
    """``nn.Hardswish`` in operators that every opset has.

    The exporter would name its tensors by the opset, and ranges are kept by tensor names.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, elementwise."""
        return x * F.hardsigmoid(x)


def exportable(model: nn.Module, form: HeadForm | None = None) -> nn.Module:
    """A fused copy that gives tensors as ``form`` says; without it all cells, decoded.

    Decoded tensors are as stock ultralytics exports them.

    Plain heads: (1, 4 + classes + extras, cells), boxes as xywh in pixels, then scores, then mask
    coefficients, keypoints (x, y in pixels, visibility) or the angle in radians. End-to-end heads:
    (1, detections, 6 + extras) as x1, y1, x2, y2 (of oriented boxes xywh), score, class, by falling
    score. Segmentation gives the mask prototypes (1, masks, H / 4, W / 4) beside it. A classifier:
    probabilities (1, classes).

    Raises:
        CompressError: if the model has no head of that form.
    """
    view = fused_copy(model)
    head = model_head(view)
    head.export = True
    if isinstance(head, Detect):
        head.format, head.shape = "onnx", None
        if isinstance(head.dfl, DFL):
            head.dfl = ExpectedDistance(head.reg_max)
    if form is not None:
        shape_head(detect_head(view), form)
    for index, layer in enumerate(view.model):
        if isinstance(layer, nn.ZeroPad2d):
            view.model[index] = ZeroBorder(layer)
    for layer in view.modules():
        if isinstance(layer, C2f) and type(layer).forward is C2f.forward:
            layer.forward = layer.forward_split  # a plain Split for runtimes, not a Slice pair
        for name, child in layer.named_children():
            if type(child) is nn.Hardswish:
                setattr(layer, name, PlainHardswish())
    return view


def decoded_output(model: nn.Module, image: Tensor) -> Tensor:
    """What the exported file's first output should be for ``image`` (1, 3, H, W), unfused."""
    if is_end_to_end(model):
        model.end2end = True
    with torch.no_grad():
        decoded = model.eval()(image)[0]
    return decoded[0] if isinstance(decoded, tuple) else decoded


def boxes_and_scores(model: nn.Module, output: Tensor) -> Tensor:
    """The part of a decoded output that all tasks share: (1, 4 + scores, cells).

    End-to-end outputs hold one score a detection, the others one a class.
    """
    if is_end_to_end(model):
        return output[..., :5].transpose(1, 2)
    return output[:, : 4 + detect_head(model).nc]


def output_names(model: nn.Module, form: HeadForm) -> list[str]:
    """Names of the graph's outputs; empty where they are only counted."""
    return raw_names(detect_head(model)) if form.kind == "raw" else []


def export_metadata(model: nn.Module, imgsz: int, form: HeadForm | None = None) -> dict[str, str]:
    """What ultralytics' own runtime reads from an exported file to decode its output."""
    kind = "decoded" if form is None else form.kind
    task, keypoints = task_of(model).name, keypoint_shape(model)
    metadata = {
        "description": f"YOLO model, task {task}",
        "stride": str(int(max(model.stride))),
        "task": task,
        "batch": "1",
        "imgsz": str([imgsz, imgsz]),
        "names": str(class_names(model)),
        "args": str({"nms": kind == "nms"}),
        "end2end": str(kind == "nms" or is_end_to_end(model)),
        "head": kind,
        "channels": "3",
    }
    return metadata if keypoints is None else {**metadata, "kpt_shape": str(list(keypoints))}
