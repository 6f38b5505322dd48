"""The export stage's padded outputs: every file of the chain, float and INT8."""

from __future__ import annotations

from pathlib import Path

from small_nets import settled_net
from stage_chain import artifact, run_stage
from torch import Tensor

from bench.alignment.convs import HEAD, conv_sides
from compress.data.dataset import DataSet
from compress.models.checkpoint import save_checkpoint


def test_padded_files_compute_what_their_checkpoint_does(
    net_yaml: Path, images: Tensor, dataset: DataSet, tmp_path: Path
) -> None:
    model = settled_net(net_yaml, images)
    for branch in [*model.model[-1].cv2, *model.model[-1].cv3]:
        branch[-1].weight.data *= 0.05  # far from chaotic: INT8 stays close
    save_checkpoint(model, tmp_path / "net.pt")
    net = artifact(tmp_path / "net.pt")
    ptq = {"stage": "ptq", "calibration": {"images": 8}}
    ranges = run_stage(ptq, {"checkpoint": net}, dataset, tmp_path / "ptq").artifact("ranges")
    config = {"stage": "export", "pad_outputs": 48, "parity_images": 2}
    inputs = {"checkpoint.ptq": net, "ranges": ranges}
    ran = run_stage(config, inputs, dataset, tmp_path / "export")
    assert ran.files.keys() == {"ptq", "int8-onnxruntime"}
    for name, path in ran.files.items():
        heads = [side.channels for side in conv_sides(path) if side.exempt == HEAD]
        assert sorted(heads) == [48] * 3 + [96] * 3
        assert ran.metrics["parity"][name]["cells"] > 50
        assert ran.metrics["parity"][name]["score"] < 0.02
