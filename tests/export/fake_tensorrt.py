"""TensorRT's bindings of 8.6, 10 and 11, as strict as the real ones, with a builder made of paper.

Members and parameter names are those of the official bindings (the contract test compares them
where these are installed). Like pybind11 classes these take no attribute that they do not declare.
"""

from __future__ import annotations

import enum
import json
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import onnx

FLAGS_8 = "FP16 INT8 DEBUG GPU_FALLBACK STRICT_TYPES REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS"
FLAGS_8 += " SAFETY_SCOPE OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS DIRECT_IO"
FLAGS_10 = FLAGS_8.replace("STRICT_TYPES ", "").replace("FP16", "FP16 BF16")
FLAGS_11 = (
    "DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS SAFETY_SCOPE DIRECT_IO"
)
NETWORKS = {8: ("EXPLICIT_BATCH", "EXPLICIT_PRECISION"), 10: ("EXPLICIT_BATCH", "STRONGLY_TYPED")}
NETWORKS[11] = ("STRONGLY_TYPED",)
INT8 = "Thirty-two wide channel vectorized row major Int8 format where channel % 32 == 0"
QUANTIZED = "DequantizeLinear"


def fake(version: str, dla_cores: int = 0, gpu: bool = True) -> Any:
    """The module ``tensorrt`` of ``version``; ``built`` lists the configurations it has built.

    ``unreadable``: names of operators that the parser refuses. ``kept_float``: those that the
    builder runs in float although they are quantized.
    """
    major = int(version.split(".")[0])
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = version
    trt.built, trt.unreadable, trt.kept_float = [], [], []
    trt.BuilderFlag = _enum("BuilderFlag", {8: FLAGS_8, 10: FLAGS_10, 11: FLAGS_11}[major].split())
    trt.NetworkDefinitionCreationFlag = _enum("NetworkDefinitionCreationFlag", NETWORKS[major])
    trt.MemoryPoolType = _enum("MemoryPoolType", ["WORKSPACE", "DLA_MANAGED_SRAM"])
    trt.ProfilingVerbosity = _enum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "DETAILED", "NONE"])
    trt.DeviceType = _enum("DeviceType", ["GPU", "DLA"])
    trt.LayerInformationFormat = _enum("LayerInformationFormat", ["ONELINE", "JSON"])
    stamp = f"{version} times:".encode()

    class ILogger:
        Severity = _enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

        def __init__(self) -> None:
            self._made = True  # pybind11 refuses a subclass that does not call this

        def log(self, severity: Any, msg: str) -> None:
            raise RuntimeError('Tried to call pure virtual function "ILogger::log"')

    def complain(logger: Any, text: str) -> None:
        assert logger._made
        logger.log(ILogger.Severity.INFO, "this is no error")
        logger.log(ILogger.Severity.ERROR, text)

    class IHostMemory:
        __slots__ = ("_content",)

        def __bytes__(self) -> bytes:  # the real one is a buffer, which bytes() reads alike
            return self._content

    class ITimingCache:
        __slots__ = ("__weakref__", "_known")

        def serialize(self) -> Any:
            return _with(IHostMemory, _content=stamp + b"+" * (1 + self._known))

    class INetworkDefinition:
        __slots__ = ("__weakref__", "_flags", "_model", "_parser")

    class ParserError:
        __slots__ = ("_index", "_name")

        def desc(self) -> str:
            return "no importer registered for it"

        def node(self) -> int:
            return self._index

        if major >= 10:

            def node_name(self) -> str:
                return self._name

    class OnnxParser:
        __slots__ = ("__weakref__", "_errors", "_network")

        def __init__(self, network: Any, logger: Any) -> None:
            assert isinstance(network, INetworkDefinition)
            assert isinstance(logger, ILogger)
            self._network, self._errors = network, []

        def parse(self, model: bytes, path: str | None = None) -> bool:
            assert isinstance(model, bytes)
            assert path is None or isinstance(path, str)
            self._network._model = onnx.load_from_string(model)
            self._network._parser = weakref.ref(self)
            self._errors = [
                _with(ParserError, _index=index, _name=node.name)
                for index, node in enumerate(self._network._model.graph.node)
                if node.name in trt.unreadable
            ]
            return not self._errors

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> Any:
            return self._errors[index]

    class IOptimizationProfile:
        __slots__ = ("_shapes",)

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            self._shapes[input] = [tuple(min), tuple(opt), tuple(max)]

    class IBuilderConfig:
        __slots__ = ("DLA_core", "_cache", "_flags", "_pools", "_profiles")
        __slots__ += ("default_device_type", "profiling_verbosity")

        def set_flag(self, flag: Any) -> None:
            assert isinstance(flag, trt.BuilderFlag)
            self._flags.add(flag.name)

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            assert isinstance(pool_size, int)
            self._pools[pool.name] = pool_size

        def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
            known = serialized_timing_cache
            if known and b" times:" not in known:
                return None
            same = known.startswith(stamp)
            return _with(ITimingCache, _known=len(known) - len(stamp) if same else -bool(known))

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            assert isinstance(ignore_mismatch, bool)
            fits = cache._known >= 0 or ignore_mismatch
            if fits:
                self._cache = weakref.ref(cache)
            return bool(fits)

        def add_optimization_profile(self, profile: Any) -> int:
            self._profiles.append(profile)
            return len(self._profiles) - 1

    class Builder:
        __slots__ = ("_logger", "_networks")

        def __init__(self, logger: Any) -> None:
            if not gpu:
                complain(logger, "CUDA initialization failure with error: 100")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        @property
        def num_DLA_cores(self) -> int:
            return dla_cores

        def create_network(self, flags: int = 0) -> Any:
            assert type(flags) is int
            assert not flags >> len(trt.NetworkDefinitionCreationFlag)
            return _with(INetworkDefinition, _flags=flags)

        def create_builder_config(self) -> Any:
            gpu_only = trt.DeviceType.GPU
            names = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
            config = _with(IBuilderConfig, _flags=set(), _pools={}, _profiles=[], _cache=None)
            config.default_device_type, config.profiling_verbosity = gpu_only, names
            config.DLA_core = -1
            return config

        def create_optimization_profile(self) -> Any:
            return _with(IOptimizationProfile, _shapes={})

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            assert network._parser() is not None, "the parser holds the weights"
            assert config._cache is None or config._cache() is not None, "the cache is in use"
            kinds = {k.name for k in trt.NetworkDefinitionCreationFlag if network._flags >> k & 1}
            why = _unbuildable(major, network._model, kinds, config)
            if why:
                complain(self._logger, why)
                return None
            trt.built.append(_record(kinds, config))
            layers = list(_layers(trt, network._model, config))
            return _with(IHostMemory, _content=json.dumps({"Layers": layers}).encode())

    class EngineInspector:
        __slots__ = ("_text",)

        def get_engine_information(self, format: Any) -> str:
            return self._text if format.name == "JSON" else "one line"

    class ICudaEngine:
        __slots__ = ("_text",)

        def create_engine_inspector(self) -> Any:
            return _with(EngineInspector, _text=self._text)

    class Runtime:
        __slots__ = ("DLA_core", "_logger")

        def __init__(self, logger: Any) -> None:
            self._logger = logger
            self.DLA_core = -1

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
            assert self.DLA_core == trt.built[-1]["dla"]
            return _with(ICudaEngine, _text=serialized_engine.decode())

    for kind in (ILogger, IHostMemory, ITimingCache, INetworkDefinition, ParserError, OnnxParser):
        setattr(trt, kind.__name__, kind)
    for kind in (IOptimizationProfile, IBuilderConfig, Builder, EngineInspector, ICudaEngine):
        setattr(trt, kind.__name__, kind)
    trt.Runtime = Runtime
    return trt


def _enum(name: str, members: Any) -> Any:
    return enum.IntEnum(name, {member: number for number, member in enumerate(members)})


def _with(kind: Any, **state: Any) -> Any:
    """An object of a class that Python cannot make, only TensorRT."""
    made = kind.__new__(kind)
    for name, value in state.items():
        setattr(made, name, value)
    return made


def _record(kinds: set[str], config: Any) -> dict[str, Any]:
    return {
        "network": kinds,
        "flags": set(config._flags),
        "pools": dict(config._pools),
        "shapes": [profile._shapes for profile in config._profiles],
        "dla": config.DLA_core,
        "device": config.default_device_type.name,
        "known_times": 0 if config._cache is None else config._cache()._known,
    }


def _unbuildable(major: int, model: Any, kinds: set[str], config: Any) -> str:
    quantized = any(node.op_type == QUANTIZED for node in model.graph.node)
    strong = major >= 11 or "STRONGLY_TYPED" in kinds
    sizes = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    if major == 8 and "EXPLICIT_BATCH" not in kinds:
        return "the parser needs an explicit batch"
    if strong and config._flags & {"INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"}:
        return "precision flags in a strongly typed network"
    if quantized and not strong and "INT8" not in config._flags:
        return "Q/DQ without the INT8 flag"
    if 0 in sizes and not config._profiles:
        return "a dynamic input without an optimization profile"
    if config.default_device_type.name == "DLA" and "GPU_FALLBACK" not in config._flags:
        return "DLA cannot run Concat, and GPU fallback is off"
    return ""


def _layers(trt: Any, model: Any, config: Any) -> Iterator[Any]:
    """A layer for each convolution, as 8.6 and newer list it, and what the head ends in."""
    detailed = config.profiling_verbosity.name == "DETAILED"
    quantized = {n.output[0] for n in model.graph.node if n.op_type == QUANTIZED}
    rest = "Row major linear FP16 format" if "FP16" in config._flags else "Row major linear FP32"
    for node in model.graph.node:
        if node.op_type not in {"Conv", "Concat"}:
            continue
        name = f"{node.name} + PWN({node.name}_act)"
        is_int8 = node.input[0] in quantized and node.name not in trt.kept_float
        row = {
            "Name": name,
            "LayerType": "CaskConvolution" if node.op_type == "Conv" else "Shuffle",
            "Inputs": [{"Name": node.input[0], "Format/Datatype": INT8 if is_int8 else rest}],
            "Outputs": [{"Name": node.output[0], "Format/Datatype": rest}],
            "Metadata": f"[ONNX Layer: {node.name}]\x1e[ONNX Layer: other]",
        }
        yield row if detailed else name
