"""Read YAML into a ``Tree``: values with the line and column of each, faults as problems."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.reader import ReaderError

from compress.errors import Problem
from compress.recipe.tree import KeyPath, Place, Tree, dotted

# Far above any recipe; they bound what a hostile file can cost.
MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_VALUES = 10_000

_PREFIX = "tag:yaml.org,2002:"
_MERGE = f"{_PREFIX}merge"
_KNOWN_TAGS = {
    yaml.ScalarNode: {f"{_PREFIX}{name}" for name in ("str", "int", "float", "bool", "null")},
    yaml.SequenceNode: {f"{_PREFIX}seq"},
    yaml.MappingNode: {f"{_PREFIX}map"},
}
_EXPONENT = re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")


def read_tree(source: bytes) -> tuple[Tree | None, list[Problem]]:
    """The recipe's mapping and the faults of its YAML; no tree where it cannot be read at all."""
    try:
        tree, problems = _read(_decoded(source))
    except _UnreadableError as error:
        return None, [error.place.problem(str(error))]
    if tree.value is None:
        return None, [Problem(1, 1, "the recipe is empty; it begins with `version: 1`")]
    if not isinstance(tree.value, dict):
        place = tree.place(())
        return None, [place.problem("a recipe is a mapping that begins with `version: 1`")]
    return tree, problems


def read_value(text: str) -> Any:
    """The value of an override: ``[..]``, ``{..}`` and quoted text are YAML, the rest is plain.

    Plain text is a number, true, false or null where it reads as one; nothing else in it is
    special, so a path may hold ``#``, ``*`` or ``: ``.

    Raises:
        ValueError: the text is not valid YAML.
    """
    text = text.strip()
    if text[:1] in {"[", "{", '"', "'"}:
        try:
            tree, problems = _read(text)
        except _UnreadableError as error:
            raise ValueError(f"{text!r} is not valid YAML; quote it to mean text") from error
        if problems:
            raise ValueError(problems[0].message)
        return tree.value
    loader = _Loader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    node = yaml.ScalarNode(tag, text)
    return _scalar(loader, node) if node.tag in _KNOWN_TAGS[yaml.ScalarNode] else text


class _UnreadableError(Exception):
    """Nothing after this place can be read."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader that remembers where aliases stand and bounds its work."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.alias_places: dict[tuple[int, int], Place] = {}
        self._depth = 0
        self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        place = _place(event.start_mark)
        self._depth += 1
        self._count += 1
        _bound(place, self._depth, self._count)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent) and index is not None:
            self.alias_places[_slot(parent, index)] = place
        return node


# YAML 1.1 as PyYAML has it, but 1e-4 is a number and 2024-01-01 is text.
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in {f"{_PREFIX}timestamp", f"{_PREFIX}value"}]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{_PREFIX}float", _EXPONENT, list("-+.0123456789"))


def _slot(parent: yaml.Node | None, index: yaml.Node | int) -> tuple[int, int]:
    return id(parent), index if isinstance(index, int) else id(index)


def _place(mark: yaml.Mark) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _scalar(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    try:
        value = loader.construct_object(node)
        if not isinstance(value, int) or value.bit_length() < 64:
            return value
    except (ValueError, KeyError):
        pass
    kind = node.tag.removeprefix(_PREFIX)
    raise ValueError(f"'{node.value[:40]}' cannot be read as {kind}; quote it to mean text")


def _shown(node: yaml.Node) -> str:
    return repr(str(node.tag).replace(_PREFIX, "!!"))


def _bound(place: Place, depth: int, count: int) -> None:
    if depth > MAX_DEPTH:
        raise _UnreadableError(place, f"nested deeper than {MAX_DEPTH} levels")
    if count > MAX_VALUES:
        raise _UnreadableError(place, f"more than {MAX_VALUES} values, aliases expanded")


def _decoded(source: bytes) -> str:
    if len(source) > MAX_BYTES:
        raise _UnreadableError(Place(1, 1), f"larger than {MAX_BYTES // 1024} KiB: not a recipe")
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = source[: error.start]
        place = Place(before.count(b"\n") + 1, len(before) - before.rfind(b"\n"))
        found = f"byte 0x{source[error.start]:02x}"
        message = f"not UTF-8 text ({found}); save the file as UTF-8"
        raise _UnreadableError(place, message) from error


def _read(text: str) -> tuple[Tree, list[Problem]]:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except ReaderError as error:
        before = text[: error.position]
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        character = f"U+{ord(text[error.position]):04X}"
        message = f"character {character} is not allowed in YAML; remove it"
        raise _UnreadableError(place, message) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = _place(mark) if mark else Place(1, 1)
        raise _UnreadableError(place, _syntax_fault(error)) from error
    builder = _Builder(loader)
    if node is not None:
        builder.tree.value = builder.build(node, (), None)
    return builder.tree, builder.problems


def _syntax_fault(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "cannot be read"
    began = f"line {error.context_mark.line + 1}" if error.context_mark else ""
    if "'\\t'" in problem:
        return "a tab where YAML wants spaces; indent with spaces"
    if "another document" in problem:
        return "a second YAML document begins here; a recipe is one document"
    if "mapping values are not allowed" in problem:
        return "not valid YAML: unexpected ': '; check the indentation, quote text that holds it"
    if "second occurrence" in problem:
        return f"an anchor of this name is defined already ({began})"
    if "expected <block end>" in problem:
        return f"wrong indentation or a missing ':' in the block that begins at {began}"
    context = f", {error.context}" if error.context else ""
    return f"not valid YAML: {problem}{context}" + (f" that begins at {began}" if began else "")


class _Builder:
    """Turns nodes into plain values and collects the places and the faults that stop nothing."""

    def __init__(self, loader: _Loader) -> None:
        self.tree = Tree(None)
        self.problems: list[Problem] = []
        self._loader = loader
        self._count = 0
        self._open: set[int] = set()
        self._seen: set[int] = set()

    def build(self, node: yaml.Node, path: KeyPath, use: Place | None) -> Any:
        self._enter(node, use, len(path))
        self.tree.values[path] = _place(node.start_mark)
        if use:
            self.tree.uses[path] = use
        try:
            if node.tag not in _KNOWN_TAGS[type(node)]:
                return self._fault(node, path, f"the tag {_shown(node)} is not known in a recipe")
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [
                    self.build(child, (*path, i), self._loader.alias_places.get(_slot(node, i)))
                    for i, child in enumerate(node.value)
                ]
            return self._plain(node, path)
        finally:
            self._open.discard(id(node))

    def _enter(self, node: yaml.Node, use: Place | None, depth: int) -> None:
        place = use or _place(node.start_mark)
        self._count += 1
        _bound(place, depth, self._count)
        if id(node) in self._open:
            raise _UnreadableError(place, "this alias stands inside its own anchor")
        self._open.add(id(node))

    def _fault(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        if id(node) not in self._seen:  # an anchor's fault is told once, not at each alias
            self._seen.add(id(node))
            self.problems.append(_place(node.start_mark).problem(f"{dotted(path)}: {message}"))

    def _plain(self, node: yaml.Node, path: KeyPath) -> Any:
        try:
            return _scalar(self._loader, node)
        except ValueError as error:
            return self._fault(node, path, str(error))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        out: dict[str, Any] = {}
        own = [(key, child) for key, child in node.value if key.tag != _MERGE]
        for key, child in own:
            if not isinstance(key, yaml.ScalarNode):
                self._fault(key, path, "a key must be plain text")
            elif key.value in out:
                child_path = (*path, key.value)
                first = self.tree.keys[child_path]
                self._fault(key, child_path, f"duplicate key; it is given first at {first}")
            else:
                use = self._loader.alias_places.get(_slot(node, key))
                out[key.value] = self._member(key, child, path, use)
        for key, child, use in self._merged(node, path):
            if key.value not in out:
                out[key.value] = self._member(key, child, path, use)
        return out

    def _member(
        self, key: yaml.ScalarNode, child: yaml.Node, path: KeyPath, use: Place | None
    ) -> Any:
        child_path = (*path, key.value)
        self.tree.keys[child_path] = _place(key.start_mark)
        return self.build(child, child_path, use)

    def _merged(
        self, node: yaml.MappingNode, path: KeyPath
    ) -> Iterator[tuple[yaml.ScalarNode, yaml.Node, Place | None]]:
        """What ``<<`` brings in, nearest first, each with the place of the alias it came by."""
        for source, use in self._sources(node):
            if not isinstance(source, yaml.MappingNode):
                self._fault(source, path, "'<<' takes a mapping, such as `<<: *name`")
                continue
            self._enter(source, use, len(path))
            for key, child in source.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                    alias = self._loader.alias_places.get(_slot(source, key))
                    yield key, child, use or alias
            for key, child, inner in self._merged(source, path):
                yield key, child, use or inner
            self._open.discard(id(source))

    def _sources(self, node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, Place | None]]:
        places = self._loader.alias_places
        for key, value in node.value:
            if key.tag == _MERGE and isinstance(value, yaml.SequenceNode):
                for i, source in enumerate(value.value):
                    yield source, places.get(_slot(value, i)) or places.get(_slot(node, key))
            elif key.tag == _MERGE:
                yield value, places.get(_slot(node, key))
