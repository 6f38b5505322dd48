"""What we write is used by ultralytics on a machine that does not have this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
from small_nets import IMGSZ, NAMES, calibrated, pruned_copy
from torch import Tensor, nn
from ultralytics import YOLO

from compress.data.dataset import DataSet
from compress.models.checkpoint import save_checkpoint
from compress.models.evaluate import evaluate
from compress.models.exportable import export_metadata, exportable, unfuse_into
from compress.models.inspect import count_params, detect_head
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
    pruned = pruned_copy(net, 0.93)
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


@pytest.fixture
def agreeing(files: dict[Path, nn.Module], dataset: DataSet, tmp_path: Path) -> Path:
    """Data whose labels are what ``base.pt`` finds in oblong images; gives their yaml."""
    base = YOLO(str(tmp_path / "base.pt"))
    for number, path in enumerate(dataset.splits["val"]):
        image = cv2.imread(str(path))[:64]
        boxes = base.predict(image, imgsz=IMGSZ, rect=False, conf=0.01, max_det=5, verbose=False)
        rows = zip(boxes[0].boxes.cls.tolist(), boxes[0].boxes.xywhn.tolist(), strict=True)
        lines = [f"{int(kind)} " + " ".join(map(str, box)) for kind, box in rows]
        for folder in ("images", "labels"):
            (tmp_path / "own" / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "own" / "images" / f"{number}.png"), image)
        (tmp_path / "own" / "labels" / f"{number}.txt").write_text("\n".join(lines))
    yaml = tmp_path / "own" / "data.yaml"
    yaml.write_text(f"train: images\nval: images\nnames: {list(NAMES.values())}\n")
    return yaml


def _run_stock(files: dict[Path, nn.Module], data_yaml: Path, folder: Path) -> dict[str, Any]:
    image = next((data_yaml.parent / "images").iterdir())
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


@pytest.mark.slow
def test_stock_ultralytics_loads_validates_and_predicts_without_us(
    files: dict[Path, nn.Module], agreeing: Path, tmp_path: Path
) -> None:
    stock = _run_stock(files, agreeing, tmp_path)
    assert stock["ours"] == []
    for path, model in files.items():
        found = stock["found"][str(path)]
        ours = evaluate(path if path.suffix == ".onnx" else model, agreeing, IMGSZ)
        assert found["map"] == pytest.approx([ours.map50, ours.map50_95], abs=1e-6)
        assert ours.map50 >= ours.map50_95 > 0
        assert {int(k): v for k, v in found["names"].items()} == NAMES
        assert found["boxes"] > 0
        if path.suffix == ".pt":
            assert found["params"] == count_params(model)
    maps = [stock["found"][str(path)]["map"][1] for path in files]
    base, pruned, quantized, graph = maps
    assert base > 2 * pruned
    assert quantized == pytest.approx(pruned, abs=1e-3)  # in float, ranges change nothing
    assert graph == pytest.approx(pruned, abs=1e-3)
    widths = {stock["found"][str(path)].get("params") for path in files}
    assert len(widths) == 3  # dense, pruned, none for ONNX
