"""Stage ``export``: float ONNX of every checkpoint, INT8 ONNX of the last one, parity of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.checkpoint import load_checkpoint
from compress.models.exportable import export_metadata, exportable, fused_copy
from compress.models.images import load_image, pick
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.quantize.simulation import Simulation
from compress.recipe.schema import ExportStage
from export.dialects import write_dialect
from export.float_onnx import export_float
from export.parity import Parity, compare, run_onnx
from export.placement import conv_names, find_placement
from export.ranges import load_ranges

_CHECKPOINT = "checkpoint."
# float graphs compute the same operations in another order
MAX_FLOAT_SCORE_DIFFERENCE = 2e-3


def run(config: ExportStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Export the chain.

    Raises:
        CompressError: if a float file does not compute what its checkpoint does.
    """
    chain = {k.removeprefix(_CHECKPOINT): a for k, a in inputs.items() if k.startswith(_CHECKPOINT)}
    targets = config.targets if "ranges" in inputs else []
    images = _parity_images(config, context)
    files: dict[str, str] = {}
    parity: dict[str, Parity] = {}
    model = nn.Module()
    with context.progress.task("exporting", len(chain) + len(targets)) as bar:
        for name, artifact in chain.items():
            model = load_checkpoint(artifact.path)
            files[name] = f"{name}.onnx"
            path = context.out / files[name]
            export_float(
                exportable(model),
                context.imgsz,
                path,
                config.opset,
                export_metadata(model, context.imgsz),
            )
            parity[name] = _float_parity(model, path, images)
            bar.advance(1, name)
        for target in targets:
            files[f"int8-{target}"] = f"int8-{target}.onnx"
            path = context.out / files[f"int8-{target}"]
            ranges_file = inputs["ranges"].path
            float_file = context.out / files[next(reversed(chain))]
            write_dialect(target, float_file, load_ranges(ranges_file), path)
            expected = _simulated(model, ranges_file, float_file, images)
            parity[f"int8-{target}"] = _compare(expected, path, images)
            bar.advance(1, target)
    return StageResult(files, {"parity": {name: asdict(value) for name, value in parity.items()}})


def _parity_images(config: ExportStage, context: Context) -> list[Tensor]:
    paths = pick(context.data.splits["val"], config.parity_images, context.seed)
    return [load_image(path, context.imgsz) for path in paths]


def _outputs(model: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [model(image)[0] for image in images]


def _compare(expected: Sequence[Tensor], path: Path, images: Sequence[Tensor]) -> Parity:
    actual = run_onnx(path, [image.numpy() for image in images])
    return compare([output.numpy() for output in expected], actual)


def _float_parity(model: nn.Module, path: Path, images: Sequence[Tensor]) -> Parity:
    parity = _compare(_outputs(model, images), path, images)
    if parity.worst_score > MAX_FLOAT_SCORE_DIFFERENCE:
        raise CompressError(
            f"export: {path.name} differs from its checkpoint: a score by {parity.worst_score:.3g} "
            f"on {len(images)} val images (at most {MAX_FLOAT_SCORE_DIFFERENCE} is rounding). The "
            "exporter of this PyTorch version does not know an operator of the model."
        )
    return parity


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
