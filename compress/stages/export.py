"""Stage ``export``: float ONNX of every checkpoint, INT8 ONNX of the last one, parity of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.checkpoint import load_checkpoint
from compress.models.exportable import (
    boxes_and_scores,
    decoded_output,
    export_metadata,
    exportable,
    fused_copy,
)
from compress.models.images import load_image, pick
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.quantize.simulation import Simulation
from compress.recipe.schema import ExportStage
from export.dialects import write_dialect
from export.float_onnx import export_float
from export.pad import pad_file
from export.parity import Parity, compare, run_onnx
from export.placement import conv_names, find_placement
from export.ranges import load_ranges

_CHECKPOINT = "checkpoint."


@dataclass(frozen=True)
class Limit:
    """Largest difference of a file from PyTorch: mean of scores, median of box sides in pixels."""

    score: float
    box: float


# float graphs compute the same operations in another order
_FLOAT = Limit(score=1e-3, box=0.1)
# INT8 graphs round ties differently, layer after layer; a broken one is off by far more
_LIMITS = {"onnxruntime": Limit(score=0.1, box=3.0), "tensorrt": Limit(score=0.2, box=8.0)}


def run(config: ExportStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Export the chain, and check every file by running it on val images.

    Raises:
        CompressError: if a file does not compute what its checkpoint does.
    """
    chain = {k.removeprefix(_CHECKPOINT): a for k, a in inputs.items() if k.startswith(_CHECKPOINT)}
    targets = config.targets if "ranges" in inputs else []
    images = _parity_images(config, context)
    files: dict[str, str] = {}
    parity: dict[str, Parity] = {}
    model = nn.Module()
    expected: list[Tensor] = []  # what fake quantization says: the same for all targets
    with context.progress.task("exporting", len(chain) + len(targets)) as bar:
        for name, artifact in chain.items():
            model = load_checkpoint(artifact.path)
            path = context.out / f"{name}.onnx"
            metadata = export_metadata(model, context.imgsz)
            export_float(exportable(model), context.imgsz, path, config.opset, metadata)
            if config.pad_outputs is not None:
                pad_file(path, config.pad_outputs)
            files[name] = path.name
            parity[name] = _checked(model, _outputs(model, images), path, images, _FLOAT)
            bar.advance(1, name)
        for target in targets:
            float_file, path = context.out / files[name], context.out / f"int8-{target}.onnx"
            ranges_file = inputs["ranges"].path
            write_dialect(target, float_file, load_ranges(ranges_file), path)
            expected = expected or _simulated(model, ranges_file, float_file, images)
            files[path.stem] = path.name
            parity[path.stem] = _checked(model, expected, path, images, _LIMITS[target])
            bar.advance(1, target)
    return StageResult(
        files,
        {
            "parity": {name: asdict(value) for name, value in parity.items()},
            "notes": [_note(name, value) for name, value in parity.items()],
        },
    )


def _parity_images(config: ExportStage, context: Context) -> list[Tensor]:
    paths = pick(context.data.splits["val"], config.parity_images, context.seed)
    return [load_image(path, context.imgsz) for path in paths]


def _outputs(model: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [boxes_and_scores(model, decoded_output(model, image)) for image in images]


def _checked(
    model: nn.Module,
    expected: Sequence[Tensor],
    path: Path,
    images: Sequence[Tensor],
    limit: Limit,
) -> Parity:
    found = map(torch.from_numpy, run_onnx(path, [image.numpy() for image in images]))
    actual = [boxes_and_scores(model, output).numpy() for output in found]
    parity = compare([output.numpy() for output in expected], actual)
    if parity.score > limit.score or parity.box > limit.box:
        raise CompressError(
            f"export: {path.name} does not compute what its checkpoint does: scores differ by "
            f"{parity.score:.3g} on average (at most {limit.score}), boxes by {parity.box:.3g} "
            f"pixels (at most {limit.box}) on {len(images)} val images. The exporter or the "
            "runtime treats an operator of this model differently; try other versions (`compress "
            "doctor`), or keep the layer float with `float_layers`."
        )
    return parity


def _note(name: str, parity: Parity) -> str:
    if not parity.cells:
        return f"{name}: no confident detection on the parity images, so nothing was compared"
    return (
        f"{name}: on {parity.cells} confident cells the file's scores differ from PyTorch's by "
        f"{parity.score:.2g} on average, its boxes by {parity.box:.2g} pixels in the median"
    )


def _simulated(
    model: nn.Module, ranges_file: Path, float_file: Path, images: Sequence[Tensor]
) -> list[Tensor]:
    """What the fake-quantized PyTorch model says, the reference of every dialect."""
    ranges = load_ranges(ranges_file)
    graph = onnx.load(str(float_file))
    kept_float = [name for name in conv_names(graph) if name not in ranges.convs]
    simulation = Simulation(fused_copy(model), find_placement(graph, kept_float))
    simulation.load_ranges(ranges)
    return _outputs(simulation.model, images)
