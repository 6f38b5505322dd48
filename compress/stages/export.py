"""Stage ``export``: float ONNX of every checkpoint, INT8 ONNX of the last one, parity of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from compress.models.checkpoint import load_checkpoint
from compress.models.exportable import export_metadata, exportable, output_names
from compress.models.head_form import HeadForm
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.recipe.schema import ExportStage, NmsSettings
from compress.stages.parity import ParityImages, parity_metrics
from export.dialects import write_dialect
from export.float_onnx import export_float
from export.pad import pad_file
from export.parity import Parity
from export.ranges import load_ranges
from export.tensor_parity import TensorParity

_CHECKPOINT = "checkpoint."


def run(config: ExportStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Export the chain, and check every file by running it on val images.

    Raises:
        CompressError: if a file does not compute what its checkpoint does.
    """
    chain = {k.removeprefix(_CHECKPOINT): a for k, a in inputs.items() if k.startswith(_CHECKPOINT)}
    ranges = load_ranges(inputs["ranges"].path) if "ranges" in inputs else None
    targets = [] if ranges is None else list(config.targets or ranges.targets)
    images = ParityImages(config.parity_images, context)
    files: dict[str, str] = {}
    parity: dict[str, Parity] = {}
    tensors: dict[str, list[TensorParity]] = {}
    base, asked = next(iter(chain)), _form(config)  # stock users have the base decoded
    with context.progress.task("exporting", len(chain) + len(targets)) as bar:
        for name, artifact in chain.items():
            model = load_checkpoint(artifact.path)
            float_file = context.out / f"{name}.onnx"
            form = HeadForm() if name == base else asked
            _write_float(model, form, config, context.imgsz, float_file)
            files[name] = float_file.name
            parity[name] = images.check_float(model, form, float_file)
            bar.advance(1, name)
        for target in targets:  # of the last checkpoint
            assert ranges is not None
            path = context.out / f"int8-{target}.onnx"
            write_dialect(target, float_file, ranges, path)
            files[path.stem] = path.name
            parity[path.stem], tensors[path.stem] = images.check_int8(
                model, asked, ranges, target, float_file, path
            )
            bar.advance(1, target)
    metrics = parity_metrics(parity, tensors)
    metrics["notes"] += [_untrained(t) for t in targets if ranges and t not in ranges.targets]
    return StageResult(files, metrics)


def _untrained(target: str) -> str:
    return (
        f"int8-{target}: its ranges were found for another runtime; for the best mAP list {target} "
        "under the quantization's `target:`"
    )


def _form(config: ExportStage) -> HeadForm:
    if config.head != "nms":
        return HeadForm(config.head, config.keep)
    nms = config.nms or NmsSettings()
    return HeadForm(config.head, config.keep, nms.iou, nms.score, nms.max_boxes)


def _write_float(
    model: nn.Module, form: HeadForm, config: ExportStage, imgsz: int, path: Path
) -> None:
    export_float(
        exportable(model, form),
        imgsz,
        path,
        config.opset,
        export_metadata(model, imgsz, form),
        output_names(model, form),
        config.ir_version,
    )
    if config.pad_outputs is not None:
        pad_file(path, config.pad_outputs)
