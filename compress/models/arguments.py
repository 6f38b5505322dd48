"""Training arguments of ultralytics: which there are, of what type, and which are not a recipe's.

They are read from ultralytics' own list of defaults, without importing it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from compress.models.shipped import default_arguments_file

# why a recipe cannot set them -> the arguments
_OWNERS = {
    "set it at the top of the recipe": "model data imgsz seed device workers",
    "the pipeline names and keeps the files of a run; see --out and --cache": (
        "project name exist_ok save save_dir save_period"
    ),
    "a run goes on by itself when the same command is given again": "resume",
    "the stage starts from the checkpoint that the chain hands it": "pretrained",
    "the stage decides it": "mode task cfg",
    "every checkpoint is measured on the val split with fixed settings, so that stages compare": (
        "val split conf iou max_det augment agnostic_nms dnn nms save_json profile"
    ),
    "the report draws the plots": "plots visualize",
    "the command line decides what is printed": "verbose",
    "runs are always deterministic, so that they can be repeated": "deterministic",
    "it ends a training by the clock, which cannot be repeated; set `epochs`": "time",
    "one optimizer step is taken a batch; set `batch`": "nbs",
    "the classes are those of the data yaml; change them there": "classes single_cls",
    "distillation is the stage's `distill:` section": "distill_model dis",
    "quantization is a stage of its own, `stage: qat` or `stage: ptq`": "quantize half int8",
    "distillation and quantization need the uncompiled model": "compile",
    "export is a stage of its own, `stage: export`": (
        "format optimize dynamic simplify opset workspace"
    ),
    "it is an argument of prediction, not of training": (
        "source vid_stride stream_buffer retina_masks embed show save_frames save_txt save_conf "
        "save_crop show_labels show_conf show_boxes line_width tracker"
    ),
}
OWNED: Mapping[str, str] = {key: why for why, keys in _OWNERS.items() for key in keys.split()}

# What ultralytics only finds out when the training starts.
_SHARES = (
    "lrf momentum weight_decay warmup_momentum warmup_bias_lr dropout cls_pw hsv_h hsv_s hsv_v "
    "translate scale perspective flipud fliplr bgr mosaic mixup cutmix copy_paste erasing "
    "multi_scale dlam"
)
SHARES = frozenset(_SHARES.split())
_LEAST = {"patience": 0, "close_mosaic": 0, "mask_ratio": 1, "warmup_epochs": 0}
_WORDS = {
    "amp": ("fp16", "bf16", "fp32"),
    "cache": ("ram", "disk"),
    "copy_paste_mode": ("flip", "mixup"),
}

_LINE = re.compile(r"^(\w+):.*?#\s*\(([^)]*)\)", re.MULTILINE)
_CHECKS: dict[str, tuple[Callable[[object], bool], str]] = {
    "int": (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
    "float": (
        lambda value: isinstance(value, int | float) and not isinstance(value, bool),
        "a number",
    ),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "str": (lambda value: isinstance(value, str), "text"),
    "list": (lambda value: isinstance(value, list), "a list"),
    "tuple": (lambda value: isinstance(value, list), "a list"),
}


@dataclass(frozen=True)
class ArgumentFault:
    """What is wrong with a training argument: its value, or that it is there at all."""

    key: str
    message: str
    at_key: bool = False
    unknown: bool = False


def known_arguments() -> dict[str, tuple[str, ...]]:
    """Every argument of ultralytics with the names of its types; empty if it is not installed.

    An argument whose types its list does not tell has none.
    """
    file = default_arguments_file()
    if file is None:
        return {}
    text = file.read_text(encoding="utf-8")
    typed = {key: tuple(_types(types)) for key, types in _LINE.findall(text)}
    return {key: typed.get(key, ()) for key in re.findall(r"^(\w+):", text, re.MULTILINE)}


def argument_faults(
    given: Mapping[str, object], known: Mapping[str, tuple[str, ...]]
) -> Iterator[ArgumentFault]:
    """Arguments that the pipeline owns, that ultralytics does not know, or of a wrong type.

    ``known`` is what ``known_arguments`` gives; where it is empty only the first are found.
    """
    for key, value in given.items():
        if key in OWNED:
            yield ArgumentFault(key, f"cannot be set here: {OWNED[key]}", at_key=True)
        elif known and key not in known:
            yield ArgumentFault(key, "ultralytics has no such training argument", True, True)
        elif message := _value_fault(key, value, known.get(key, ())):
            yield ArgumentFault(key, message)


def trainable(known: Iterable[str]) -> list[str]:
    """Those of ``known`` that a recipe may give."""
    return sorted(key for key in known if key not in OWNED)


def _types(text: str) -> Iterator[str]:
    for name in re.split(r"[|,]", text):
        bare = re.sub(r"\[.*", "", name).strip()
        if bare in _CHECKS or bare == "optional":
            yield bare


def _value_fault(key: str, value: object, types: tuple[str, ...]) -> str:
    checks = [_CHECKS[name] for name in types if name != "optional"]
    if value is None:
        return "" if "optional" in types or not checks else f"must be {_either(checks)}, not empty"
    if checks and not any(fits(value) for fits, _ in checks):
        return f"must be {_either(checks)}, got {value!r}"
    if key == "fraction" and isinstance(value, list):
        return "must be one number, the share of the train split; val is always measured whole"
    if isinstance(value, str) and key in _WORDS and value.lower() not in _WORDS[key]:
        return f"must be one of {', '.join(_WORDS[key])}, got {value!r}"
    return _number_fault(key, value) if isinstance(value, int | float) else ""


def _number_fault(key: str, value: float) -> str:
    if not math.isfinite(value):
        return f"must be a finite number, got {value}"
    if key in SHARES and not 0 <= value <= 1:
        return f"must be from 0 to 1, got {value}"
    if key in _LEAST and value < _LEAST[key]:
        return f"must be at least {_LEAST[key]}, got {value}"
    if key == "fraction" and not (0 < value <= 1 or (isinstance(value, int) and value > 1)):
        return f"must be above 0 and at most 1, or a number of images, got {value}"
    return ""


def _either(checks: list[tuple[Callable[[object], bool], str]]) -> str:
    return " or ".join(dict.fromkeys(text for _, text in checks))
