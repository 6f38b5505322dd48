"""Build a TensorRT engine from an ONNX file, and say which of its layers stayed float.

An engine holds for one TensorRT version and one GPU: build it where it will run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.engine_audit import EngineLayer, read_layers
from export.errors import ExportError
from export.tensorrt_api import TensorRT, complaints, gpu_name, load_tensorrt
from export.tensorrt_source import Source, read_source

SCHEMA = 1
_GIB = 1 << 30


@dataclass(frozen=True)
class EngineSettings:
    """How to build.

    ``fp16``: layers that are not INT8 may run in FP16. ``workspace_gb``: limit of scratch memory in
    GiB, None for all there is. ``timing_cache``: a file that is read if it is there, and written.
    ``dla``: number of a DLA core; what it cannot run goes to the GPU. ``shape``: of an input that
    the file leaves open; an engine has fixed shapes.
    """

    fp16: bool = True
    workspace_gb: float | None = None
    timing_cache: Path | None = None
    dla: int | None = None
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what no build can have."""
        if self.workspace_gb is not None and not self.workspace_gb > 0:
            raise ExportError(f"a workspace of {self.workspace_gb} GB: give more than 0.")
        if self.dla is not None and self.dla < 0:
            raise ExportError(f"DLA core {self.dla}: they count from 0.")


@dataclass(frozen=True)
class Engine:
    """What was built. ``strongly_typed``: precisions were those of the file, no flags were set."""

    path: Path
    tensorrt: str
    gpu: str | None
    strongly_typed: bool
    layers: tuple[EngineLayer, ...]
    notes: tuple[str, ...]

    @property
    def facts_file(self) -> Path:
        """The JSON beside the engine."""
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def float_layers(self) -> tuple[EngineLayer, ...]:
        """The layers that compute on floats alone."""
        return tuple(layer for layer in self.layers if layer.stayed_float)


def build_engine(source: Path, output: Path, settings: EngineSettings | None = None) -> Engine:
    """``build_from`` the ONNX file ``source``; what it lacks is found before TensorRT is asked.

    Raises:
        ExportError: also where the file cannot be read.
    """
    return build_from(read_source(source), output, settings)


def build_from(file: Source, output: Path, settings: EngineSettings | None = None) -> Engine:
    """Build ``file`` for this machine's GPU into ``output``, with ``output.json`` beside it.

    Raises:
        ExportError: TensorRT is missing or too old, no GPU is there, the file does not fit it, or
            the build fails. Nothing is written then.
    """
    settings = settings or EngineSettings()
    api = load_tensorrt()
    _check_shapes(file, settings.shape)
    strong = _strongly_typed(api, file, settings.fp16)
    logger = api.logger()
    builder = _builder(api, logger)
    if settings.dla is not None:
        _check_dla(api, file, builder, settings)
    network = api.network(builder, strong)
    parser = _parsed(api, network, logger, file)
    config = _config(api, builder, file, settings, strong)
    cache, cache_notes = _timing_cache(config, settings.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"{file.path}: TensorRT cannot build an engine. {complaints(logger)}")
    del parser  # until here it holds the weights that the network reads
    content = bytes(plan)
    if settings.timing_cache is not None:
        _write(settings.timing_cache, bytes(cache.serialize()))
    layers, audit_notes = _audited(api, logger, content, file, settings.dla)
    engine = Engine(
        path=output,
        tensorrt=api.version_text,
        gpu=gpu_name(),
        strongly_typed=strong,
        layers=tuple(layers),
        notes=(*cache_notes, *_notes(api, file, settings, strong), *audit_notes),
    )
    _write(output, content)
    facts = json.dumps(engine_facts(engine, file, settings, content), indent=1)
    _write(engine.facts_file, f"{facts}\n".encode())
    return engine


def engine_facts(
    engine: Engine, source: Source, settings: EngineSettings, content: bytes
) -> dict[str, Any]:
    """What stands in the JSON beside an engine, schema 1."""
    cache = None if settings.timing_cache is None else settings.timing_cache.name
    return {
        "schema": SCHEMA,
        "engine": engine.path.name,
        "engine_sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "onnx": source.path.name,
        "onnx_sha256": source.sha256,
        "metadata": dict(source.metadata),
        "tensorrt": engine.tensorrt,
        "gpu": engine.gpu,
        "strongly_typed": engine.strongly_typed,
        "settings": {**asdict(settings), "timing_cache": cache},
        "notes": list(engine.notes),
        "layers": len(engine.layers),
        "float_layers": [asdict(layer) for layer in engine.float_layers],
    }


def _strongly_typed(api: TensorRT, source: Source, fp16: bool) -> bool:
    """Where flags exist, only they turn the float layers of an FP32 file into FP16."""
    return api.strong_only or (api.can_be_strong and (source.half or not fp16))


def _check_shapes(source: Source, shape: Sequence[int] | None) -> None:
    for name, sizes in source.inputs.items():
        if shape is None and None in sizes:
            raise ExportError(
                f"{source.path}: the input '{name}' leaves sizes open, {_shown(sizes)}, and an "
                "engine has fixed ones. Give --shape, such as 1,3,640,640, or export fixed sizes."
            )
        if shape is not None and not _fits(sizes, shape):
            raise ExportError(
                f"{source.path}: the input '{name}' is {_shown(sizes)}, which {list(shape)} does "
                "not fit."
            )


def _fits(sizes: Sequence[int | None], shape: Sequence[int]) -> bool:
    return len(sizes) == len(shape) and all(
        shape[axis] >= 1 and size in (None, shape[axis]) for axis, size in enumerate(sizes)
    )


def _shown(sizes: Sequence[int | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in sizes)}]"


def _builder(api: TensorRT, logger: Any) -> Any:
    try:
        return api.module.Builder(logger)
    except TypeError as error:  # what the bindings make of a null pointer
        raise ExportError(
            f"TensorRT {api.version_text} finds no NVIDIA GPU that it can use: build on the "
            f"machine that will run the engine. {complaints(logger)}"
        ) from error


def _check_dla(api: TensorRT, source: Source, builder: Any, settings: EngineSettings) -> None:
    why = api.why_no_dla(source.quantized, source.half, settings.fp16)
    if why is None and not (settings.dla or 0) < builder.num_DLA_cores:
        why = f"this machine has {builder.num_DLA_cores} DLA cores, counted from 0"
    if why:
        raise ExportError(f"{source.path}: cannot run on DLA core {settings.dla}: {why}.")


def _parsed(api: TensorRT, network: Any, logger: Any, source: Source) -> Any:
    parser = api.module.OnnxParser(network, logger)
    if parser.parse(source.content, path=str(source.path)):
        return parser
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    listed = "; ".join(
        f"'{api.node_of(error, source.nodes) or 'the file'}': {error.desc()}" for error in errors
    )
    raise ExportError(
        f"{source.path}: TensorRT {api.version_text} cannot read it: "
        f"{listed or complaints(logger)} A lower opset (export.opset: 13), or float_layers for the "
        "named module, may help."
    )


def _config(
    api: TensorRT, builder: Any, source: Source, settings: EngineSettings, strong: bool
) -> Any:
    trt = api.module
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else layers have no types
    if settings.workspace_gb is not None:
        limit = int(settings.workspace_gb * _GIB)
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit)
    if not strong:
        api.allow(config, int8=source.quantized, fp16=settings.fp16)
    if settings.dla is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = settings.dla
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if source.open_inputs:
        profile = builder.create_optimization_profile()
        for name in source.open_inputs:
            profile.set_shape(name, settings.shape, settings.shape, settings.shape)
        config.add_optimization_profile(profile)
    return config


def _timing_cache(config: Any, file: Path | None) -> tuple[Any, list[str]]:
    """The cache in use, to be kept through the build, and what there is to say about it."""
    if file is None:
        return None, []
    known = file.read_bytes() if file.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is not None and config.set_timing_cache(cache, False):
        return cache, []
    cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)
    return cache, [
        f"the timing cache '{file.name}' is of another GPU or TensorRT version, or damaged: it was "
        "not used, and written anew"
    ]


def _audited(
    api: TensorRT, logger: Any, content: bytes, source: Source, dla: int | None
) -> tuple[list[EngineLayer], list[str]]:
    """The engine's layers, and what could not be learnt: no reason to throw the engine away."""
    runtime = api.module.Runtime(logger)
    if dla is not None:
        runtime.DLA_core = dla
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise ExportError(f"{source.path}: the engine cannot be loaded. {complaints(logger)}")
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(api.module.LayerInformationFormat.JSON)
    try:
        layers = read_layers(text, source.modules, source.int8)
    except ExportError as error:
        return [], [str(error)]
    untold = sum(layer.untold for layer in layers)
    return layers, [f"TensorRT does not tell the types of {untold} layers"] if untold else []


def _notes(api: TensorRT, source: Source, settings: EngineSettings, strong: bool) -> list[str]:
    notes = []
    if strong and settings.fp16 and not source.half:
        notes.append(
            f"TensorRT {api.version_text} takes all types from the file, whose float layers are "
            "FP32: --fp16 changes nothing. Convert them first (modelopt.onnx.autocast)"
        )
    if settings.dla is not None and source.quantized:
        notes.append("INT8 by Q/DQ on DLA is new in TensorRT 11.4.1 and not confirmed here")
    return notes


def _write(path: Path, content: bytes) -> None:
    """Into place in one step: a file that is there is whole."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ExportError(f"{path}: cannot be written: {error.strerror}.") from error
