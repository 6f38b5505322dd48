"""Channel multiples that devices want, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """What one device wants of channel counts.

    ``multiple``: channels that its kernels work on at once. ``why``: what happens to others.
    ``source``: where that is written. ``confirmed``: whether it is there in so many words, or a
    guess to begin with.
    """

    multiple: int
    why: str
    source: str
    confirmed: bool = True


_MLAS = "ONNX Runtime, mlas: platform.cpp, convsym.cpp"
_ROCKET = "Mesa, rkt_ml (open driver of the NPU)"
_UNKNOWN = "the width of its arrays is not published"
_TENSOR_CORES_INT8 = Profile(
    32, "INT8 tensor cores: other counts are padded to 32", "NVIDIA/TensorRT issue 1310"
)
_TENSOR_CORES_FP16 = Profile(
    8,
    "FP16 tensor cores: other counts are padded to 8, or copied to another layout",
    "NVIDIA, Convolutional Layers User's Guide; TensorRT issue 3876",
)

ALIGNMENTS: Mapping[str, Profile] = {
    "onnxruntime-x86": Profile(
        16, "FP32 and INT8 kernels take blocks of 16 (AVX-512) or 8 (AVX2)", _MLAS
    ),
    "onnxruntime-arm": Profile(16, "INT8 kernels with dot product take 16 output channels", _MLAS),
    "openvino": Profile(
        16,
        "x86 kernels lay channels in blocks of 16 (AVX-512) or 8 (AVX2)",
        "oneDNN, Understanding Memory Formats",
    ),
    "xnnpack": Profile(16, "INT8 kernels make 16 output channels at once", "XNNPACK, GEMM bench"),
    "cuda-int8": _TENSOR_CORES_INT8,
    "cuda-fp16": _TENSOR_CORES_FP16,
    "jetson-int8": _TENSOR_CORES_INT8,
    "jetson-fp16": _TENSOR_CORES_FP16,
    "jetson-dla": Profile(
        32, "INT8 tensors lie in vectors of 32 channels", "NVIDIA-AI-IOT/cuDLA-samples, README"
    ),
    "jetson-dla-fp16": Profile(
        16, "FP16 tensors lie in vectors of 16 channels", "NVIDIA-AI-IOT/cuDLA-samples, README"
    ),
    "jetson-nano": Profile(
        4, "no tensor cores; FP16 works on pairs", "NVIDIA, Jetson module table", confirmed=False
    ),
    "rockchip": Profile(32, "INT8 weights are padded to 32 channels (RK3588, RK356x)", _ROCKET),
    "rockchip-fp16": Profile(
        16, "FP16 weights lie in blocks of 16 outputs", "ggml, backend rknpu2"
    ),
    "hexagon": Profile(
        32, "channels are stored in groups of 32", "Qualcomm, HTP guide 80-63442-10"
    ),
    "ethos-u": Profile(
        16, "feature maps lie in bricks of 16 channels", "Arm, vela: architecture_features.py"
    ),
    "imx500": Profile(32, "32 multipliers side by side at 8 bits", "Sony, MCT: imx500_tpc"),
    "edge-tpu": Profile(16, _UNKNOWN, "", confirmed=False),
    "hailo": Profile(16, _UNKNOWN, "", confirmed=False),
    "horizon": Profile(16, _UNKNOWN, "", confirmed=False),
    "sophgo": Profile(16, _UNKNOWN, "", confirmed=False),
    "verisilicon": Profile(16, _UNKNOWN, "", confirmed=False),
    "apple-ane": Profile(32, _UNKNOWN, "", confirmed=False),
    "axelera": Profile(32, _UNKNOWN, "", confirmed=False),
}


def alignment_of(device: str) -> int:
    """The channel multiple of ``device``.

    Raises:
        ValueError: no such device; names those that are known.
    """
    try:
        return ALIGNMENTS[device].multiple
    except KeyError:
        known = ", ".join(ALIGNMENTS)
        raise ValueError(f"must be a whole number or one of {known}, got {device!r}") from None


def alignment_document() -> str:
    """The text of ``docs/alignment.md``."""
    rows = [
        f"| `{name}` | {profile.multiple} | {profile.why} | "
        f"{profile.source or '-'} | {'yes' if profile.confirmed else 'no: a guess'} |"
        for name, profile in ALIGNMENTS.items()
    ]
    return "\n".join([_DOCUMENT, *rows, ""])


_DOCUMENT = """\
# Channel multiples of devices

Kernels work on several channels at once. A layer with 33 channels where 32 go together takes as
long as one with 64, or is copied into another layout first: a pruned net can so become slower than
its parent. `align` keeps every width at a multiple: a number, or one of these names.

```
compress run recipes/quickstart.yaml prune.align=onnxruntime-x86
compress bench base.onnx pruned.onnx --align jetson-int8
```

The files themselves are read: ONNX, OpenVINO's `.xml`, and TensorRT engines through the inspector
(without TensorRT: the ONNX file beside the engine that it was built of). A miss ends with exit code
3 and a table of layers.

Exempt are what the task fixes: the image's 3 channels, the head's outputs and the DFL's bins. The
export stage's `pad_outputs` fills the head's outputs up too, and cuts the filling off again.

This file is written by `python -m bench.alignment.profiles > docs/alignment.md`.

| name | multiple | why | source | confirmed |
|-|-|-|-|-|"""


if __name__ == "__main__":
    print(alignment_document(), end="")
