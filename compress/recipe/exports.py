"""Rules between quantization, export and what reads the exported files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from compress.recipe.outline import StageOutline
from compress.recipe.tree import Fault, Tree

_QUANTIZED = ("ptq", "qat")
_DEFAULT = "onnxruntime"


def export_faults(tree: Tree, stages: list[StageOutline]) -> Iterator[Fault]:
    """Exports that what stands before them cannot give, or what stands behind them cannot read."""
    del tree
    quantized: Mapping[str, Any] | None = None
    export: StageOutline | None = None
    for stage in stages:
        if stage.kind in _QUANTIZED:
            quantized = stage.raw
        elif stage.kind == "export":
            export = stage
            yield from _unlike(stage, quantized) if quantized is not None else ()
        elif stage.kind == "bundle" and export is not None and export.raw.get("head") == "raw":
            yield Fault(stage.path, "a bundle decodes no raw maps: export with another `head`")


def _unlike(export: StageOutline, quantized: Mapping[str, Any]) -> Iterator[Fault]:
    rounded, wanted = _names(quantized.get("target", _DEFAULT)), _names(export.raw.get("targets"))
    if _DEFAULT in wanted and _DEFAULT not in rounded:
        yield Fault(
            (*export.path, "targets"),
            f"{_DEFAULT} rounds behind more operators than the quantization's `target:` "
            f"({', '.join(rounded)}) has ranges for; list it there, too",
        )
    if quantized.get("quantize_head") and export.raw.get("pad_outputs") is not None:
        yield Fault(
            (*export.path, "pad_outputs"),
            "widens the head's last convolutions, which `quantize_head` has made INT8; leave out "
            "one of the two",
        )


def _names(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
