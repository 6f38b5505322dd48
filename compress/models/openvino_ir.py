"""An exported ONNX file as the OpenVINO folder that ultralytics' validator reads."""

from __future__ import annotations

from pathlib import Path

import onnx
import yaml

from compress.errors import CompressError


def write_ir(file: Path, folder: Path) -> Path:
    """Convert ``file`` into ``folder``, weights in the precision that they have.

    Returns:
        The folder with the IR and a ``metadata.yaml`` of what the ONNX file says about itself.

    Raises:
        CompressError: openvino is missing, or cannot read the file.
    """
    try:
        import openvino
    except ImportError as error:
        raise CompressError(
            f"'openvino' is needed to run '{file.name}' and cannot be imported ({error}): "
            "pip install 'yolo-compress[openvino]'"
        ) from error
    target = folder / f"{file.stem}_openvino_model"
    target.mkdir()
    try:
        model = openvino.Core().read_model(str(file))
        openvino.save_model(model, str(target / f"{file.stem}.xml"), compress_to_fp16=False)
    except RuntimeError as error:
        raise CompressError(
            f"OpenVINO cannot read '{file}': {error} Export it again, or with a lower opset."
        ) from error
    properties = onnx.load(str(file), load_external_data=False).metadata_props
    facts = {entry.key: entry.value for entry in properties}
    (target / "metadata.yaml").write_text(yaml.safe_dump(facts), encoding="utf-8")
    return target
