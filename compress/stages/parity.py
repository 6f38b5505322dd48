"""Whether an exported file computes what its checkpoint does, on real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.exportable import boxes_and_scores, decoded_output, fused_copy
from compress.models.file_outputs import decoded_by_file
from compress.models.head_form import HeadForm
from compress.models.images import load_image, pick
from compress.models.inspect import is_end_to_end
from compress.pipeline.contract import Context
from compress.quantize.recording import rounded_tensors
from compress.quantize.simulation import Simulation
from export.dialects import as_read_by, read_float, target_placement
from export.parity import Parity, aligned, compare, run_onnx
from export.ranges import Ranges
from export.tensor_parity import TensorParity, compare_tensors

_WORST = 8  # tensors that the report lists


@dataclass(frozen=True)
class Limit:
    """Largest difference of a file from PyTorch: mean of scores, median of box sides in pixels."""

    score: float
    box: float


# float graphs compute the same operations in another order
FLOAT = Limit(score=1e-3, box=0.1)
# INT8 graphs round ties differently, layer after layer; a broken one is off by far more
INT8 = Limit(score=0.1, box=3.0)
# given the same integers, a tensor's values may lie in the middle between two others
_MOVED = 1e-4


class ParityImages:
    """Images of the val split that files are compared on."""

    def __init__(self, count: int, context: Context) -> None:
        paths = pick(context.data.splits["val"], count, context.seed)
        self.images: list[Tensor] = [load_image(path, context.imgsz) for path in paths]

    def check_float(self, model: nn.Module, form: HeadForm, path: Path) -> Parity:
        """Compare a float file, whose head has this form, with its checkpoint.

        Raises:
            CompressError: if it computes something else.
        """
        found = self._of_file(model, form, path, path)
        return self._checked(model, self._outputs(model), found, path, FLOAT)

    def check_int8(
        self,
        model: nn.Module,
        form: HeadForm,
        ranges: Ranges,
        target: str,
        float_file: Path,
        path: Path,
    ) -> tuple[Parity, list[TensorParity]]:
        """Compare the file of ``target`` with fake quantization: its outputs, and each tensor.

        Raises:
            CompressError: if it computes something else.
        """
        simulation = simulation_of(model, ranges, target, float_file)
        image = self.images[0]
        tensors = compare_tensors(path, image.numpy(), rounded_tensors(simulation, image))
        worst = max(tensors, key=lambda row: row.moved)
        if worst.moved > _MOVED:
            raise CompressError(
                f"export: {path.name} rounds '{worst.tensor}' differently from training: "
                f"{worst.moved:.2%} of its values are more than one step apart, given the same "
                "input. The runtime treats the operator before it differently; keep its layer "
                "float with `float_layers`, or try other versions (`compress doctor`)."
            )
        # last: it cannot tell where a difference comes from
        found = self._of_file(model, form, float_file, path)
        return self._checked(model, self._outputs(simulation.model), found, path, INT8), tensors

    def _outputs(self, model: nn.Module) -> list[Tensor]:
        with torch.no_grad():
            return [boxes_and_scores(model, decoded_output(model, image)) for image in self.images]

    def _of_file(
        self, model: nn.Module, form: HeadForm, float_file: Path, path: Path
    ) -> Sequence[Tensor]:
        """All cells, decoded: by the file, or from its maps where its head has another form."""
        if form != HeadForm():
            return decoded_by_file(model, form, float_file, path, self.images)
        outputs = run_onnx(path, [image.numpy() for image in self.images])
        return [torch.from_numpy(output) for output in outputs]

    def _checked(
        self,
        model: nn.Module,
        expected: Sequence[Tensor],
        found: Sequence[Tensor],
        path: Path,
        limit: Limit,
    ) -> Parity:
        actual = [boxes_and_scores(model, output).numpy() for output in found]
        wanted = [output.numpy() for output in expected]
        if is_end_to_end(model):
            actual = [aligned(ours, theirs) for ours, theirs in zip(wanted, actual, strict=True)]
        parity = compare(wanted, actual)
        if parity.score > limit.score or parity.box > limit.box:
            raise CompressError(
                f"export: {path.name} does not compute what its checkpoint does: scores differ by "
                f"{parity.score:.3g} on average (at most {limit.score}), boxes by {parity.box:.3g} "
                f"pixels (at most {limit.box}) on {len(self.images)} val images. The exporter or "
                "the runtime treats an operator of this model differently; try other versions "
                "(`compress doctor`), or keep the layer float with `float_layers`."
            )
        return parity


def simulation_of(model: nn.Module, ranges: Ranges, target: str, float_file: Path) -> Simulation:
    """The fake-quantized model that the file of ``target`` must agree with."""
    placement = target_placement(read_float(float_file), ranges, target, float_file)
    simulation = Simulation(fused_copy(model), placement, ranges.weight_bits)
    simulation.load_ranges(as_read_by(target, ranges, placement))
    return simulation


def parity_metrics(
    outputs: Mapping[str, Parity], tensors: Mapping[str, Sequence[TensorParity]]
) -> dict[str, Any]:
    """What the record and the report keep of all comparisons."""
    worst = {
        name: sorted(rows, key=lambda row: row.sqnr)[:_WORST] for name, rows in tensors.items()
    }
    return {
        "parity": {name: asdict(value) for name, value in outputs.items()},
        "tensor_parity": {
            name: {
                "tensors": len(rows),
                "worst_steps": max(row.worst for row in rows),
                "worst": [asdict(row) for row in worst[name]],
            }
            for name, rows in tensors.items()
        },
        "notes": [_note(name, value) for name, value in outputs.items()],
    }


def _note(name: str, parity: Parity) -> str:
    if not parity.cells:
        return f"{name}: no confident detection on the parity images, so nothing was compared"
    return (
        f"{name}: on {parity.cells} confident cells the file's scores differ from PyTorch's by "
        f"{parity.score:.2g} on average, its boxes by {parity.box:.2g} pixels in the median"
    )
