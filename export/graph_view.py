"""What the operators of a float graph mean: convolutions, movers, modules that compute tensors."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

# operators that move values without changing them: their inputs and outputs share one scale
MOVING = frozenset({"Concat", "MaxPool", "Resize", "Split"})
_FIRST_INPUT_ONLY = frozenset({"Resize", "Split", "MaxPool", "Conv"})


class GraphView:
    """A float graph as ``export_float`` writes it, with module names in its node names."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.nodes = list(graph.node)
        self._initializers = {tensor.name for tensor in graph.initializer}
        self._producers = {tensor: node for node in self.nodes for tensor in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for tensor in node.input:
                self._readers.setdefault(tensor, []).append(node)
        self._convs = {
            node.name: str(node.input[1]).removesuffix(".weight")
            for node in self.nodes
            if node.op_type == "Conv" and node.input[1] in self._initializers
        }

    @property
    def conv_names(self) -> list[str]:
        """Module names of all convolutions with weights of their own, in the graph's order."""
        return list(self._convs.values())

    def conv(self, node: onnx.NodeProto | None) -> str | None:
        """The module of a convolution with a weight of its own; None of other operators."""
        return None if node is None else self._convs.get(node.name)

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The operator that gives ``tensor``; None of the graph's inputs."""
        return self._producers.get(tensor)

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """The operators that read ``tensor``."""
        return self._readers.get(tensor, [])

    def data_inputs(self, node: onnx.NodeProto) -> list[str]:
        """Inputs that carry activations: not weights, and not shapes, sizes or axes."""
        inputs = [name for name in node.input if name and name not in self._initializers]
        return inputs[:1] if node.op_type in _FIRST_INPUT_ONLY else inputs

    def moved_from(self, tensor: str) -> tuple[list[str], list[str]]:
        """Where the values of ``tensor`` come from.

        Returns:
            The tensors in which they were computed, and all that movers read and give on the way,
            ``tensor`` among them.
        """
        sources: dict[str, None] = {}
        passed: dict[str, None] = {}
        left = [tensor]
        while left:
            name = left.pop()
            if name in passed:
                continue
            passed[name] = None
            node = self.producer(name)
            if node is None or node.op_type not in MOVING:
                sources[name] = None
                continue
            passed.update(dict.fromkeys(node.output))
            left.extend(self.data_inputs(node))
        return list(sources), list(passed)

    def block_of(self, tensor: str) -> str | None:
        """The convolution's module whose result, or activated result, ``tensor`` is."""
        node = self.producer(tensor)
        own = self.conv(node)
        if own is not None or node is None:
            return own
        scope = scope_of(node)
        # an activation belongs to the convolution before it; SiLU's product reads it, too
        for source in node.input:
            before = self.conv(self.producer(source))
            if before is not None and scope.startswith(f"{block_name(before)}."):
                return before
        return None

    def module_of(self, tensor: str) -> str | None:
        """The module, other than a convolution's block, that gives ``tensor`` out.

        None where the tensor lies in the middle of a module, so that PyTorch has no name for it.
        """
        node = self.producer(tensor)
        scope = scope_of(node) if node is not None else ""
        inner = any(
            f"{scope_of(reader)}.".startswith(f"{scope}.") for reader in self.readers(tensor)
        )
        return scope if scope and not inner else None

    def movers(self) -> Iterator[onnx.NodeProto]:
        """Operators whose inputs and outputs share one scale."""
        return (node for node in self.nodes if node.op_type in MOVING)


def block_name(conv: str) -> str:
    """``model.0`` for ``model.0.conv``; a bare convolution is its own block."""
    return conv.removesuffix(".conv")


def scope_of(node: onnx.NodeProto) -> str:
    """``/model.22/cv2.1/cv2.1.1/act/Mul`` -> ``model.22.cv2.1.1.act``."""
    path: list[str] = []
    for part in node.name.split("/")[1:-1]:
        if path and part.startswith(path[-1] + "."):
            path[-1] = part  # a container's child repeats its parent's name
        else:
            path.append(part)
    return ".".join(path)
