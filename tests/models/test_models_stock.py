"""What we write is used by ultralytics on a machine that does not have this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_nets import IMGSZ, NAMES, calibrated
from torch import Tensor, nn

from compress.models.checkpoint import save_checkpoint
from compress.models.evaluate import evaluate
from compress.models.exportable import export_metadata, exportable, unfuse_into
from compress.models.inspect import count_params, detect_head
from compress.prune.prune import prune_model
from export.float_onnx import export_float

# the import system refuses our packages, installed or not
_STOCK = """\
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"compress", "export", "bench"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
from ultralytics import YOLO

data, imgsz, image, *files = sys.argv[1:]
found = {}
for file in files:
    model = YOLO(file, task="detect")
    measured = model.val(
        data=data, imgsz=int(imgsz), rect=False, batch=16, plots=False, workers=0, device="cpu",
        project="val", exist_ok=True,
    )
    boxes = model.predict(image, imgsz=int(imgsz), conf=0.3, save=False)[0].boxes
    found[file] = {
        "map": [measured.box.map50, measured.box.map],
        "names": {int(k): v for k, v in model.names.items()},
        "boxes": len(boxes),
    }
    if file.endswith(".pt"):
        found[file]["params"] = sum(p.numel() for p in YOLO(file).model.parameters())
ours = {"compress", "export", "bench"} & {name.split(".")[0] for name in sys.modules}
print(json.dumps({"found": found, "ours": sorted(ours)}))
"""


@pytest.fixture
def files(net: nn.Module, images: Tensor, tmp_path: Path) -> dict[Path, nn.Module]:
    """Checkpoint or ONNX file -> the model that it holds."""
    detect_head(net).cv3[0][-1].bias.data[1] = 2.0  # sure of something
    pruned = prune_model(net, IMGSZ, keep_macs=0.6, align=4, max_pruned=0.9).model
    simulated = calibrated(pruned, [images]).model
    models = {
        tmp_path / "base.pt": net,
        tmp_path / "pruned.pt": pruned,
        tmp_path / "quantized.pt": unfuse_into(simulated, pruned),
    }
    for path, model in models.items():
        save_checkpoint(model, path)
    graph = tmp_path / "pruned.onnx"
    export_float(exportable(pruned), IMGSZ, graph, metadata=export_metadata(pruned, IMGSZ))
    return {**models, graph: pruned}


def _run_stock(files: dict[Path, nn.Module], data_yaml: Path, folder: Path) -> dict[str, Any]:
    image = next((data_yaml.parent / "images" / "val").iterdir())
    arguments = [str(data_yaml), str(IMGSZ), str(image), *map(str, files)]
    done = subprocess.run(
        [sys.executable, "-c", _STOCK, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def test_stock_ultralytics_loads_validates_and_predicts_without_us(
    files: dict[Path, nn.Module], data_yaml: Path, tmp_path: Path
) -> None:
    stock = _run_stock(files, data_yaml, tmp_path)
    assert stock["ours"] == []
    for path, model in files.items():
        found = stock["found"][str(path)]
        ours = evaluate(path if path.suffix == ".onnx" else model, data_yaml, IMGSZ)
        assert found["map"] == pytest.approx([ours.map50, ours.map50_95], abs=1e-6)
        assert {int(k): v for k, v in found["names"].items()} == NAMES
        assert found["boxes"] > 0
        if path.suffix == ".pt":
            assert found["params"] == count_params(model)
    widths = {stock["found"][str(path)].get("params") for path in files}
    assert len(widths) == 3  # dense, pruned, none for ONNX
