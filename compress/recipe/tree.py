"""A recipe as plain values, where every key and value knows its place in the file.

An alias (``*kd``) is a copy here, so changing one use leaves the others alone. A fault inside an
alias is shown at the anchor when the anchor has it too, else where the alias is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from compress.errors import Problem

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """Line and column, from 1; or the override that a value comes from (then both are 0)."""

    line: int
    column: int
    override: str = ""

    def __str__(self) -> str:
        return f"override '{self.override}'" if self.override else f"line {self.line}"

    def problem(self, message: str) -> Problem:
        """The fault ``message`` at this place."""
        return Problem(self.line, self.column, f"{self}: {message}" if self.override else message)


@dataclass(frozen=True)
class Fault:
    """What is wrong at ``path``; ``at_key`` when the key is to blame and not its value."""

    path: KeyPath
    message: str
    at_key: bool = False


@dataclass
class Tree:
    """``value`` and the places of its keys and values; ``uses`` says where aliases stand."""

    value: Any
    keys: dict[KeyPath, Place] = field(default_factory=dict)
    values: dict[KeyPath, Place] = field(default_factory=dict)
    uses: dict[KeyPath, Place] = field(default_factory=dict)

    def get(self, path: KeyPath) -> Any:
        """The value at ``path``; None where there is none."""
        value = self.value
        for key in path:
            inside = isinstance(value, dict if isinstance(key, str) else list)
            known = inside and (key in value if isinstance(key, str) else key < len(value))
            if not known:
                return None
            value = value[key]
        return value

    def put(self, path: KeyPath, value: Any, place: Place) -> None:
        """Set what is at ``path``, whose parent exists, and forget the places of what was there."""
        self.get(path[:-1])[path[-1]] = value
        for places in (self.keys, self.values, self.uses):
            for old in [known for known in places if known[: len(path)] == path]:
                del places[old]
        self.keys[path] = self.values[path] = place

    def place(self, path: KeyPath, at_key: bool = False) -> Place:
        """Where ``path`` stands, or the nearest thing around it that is in the file."""
        if not at_key and path in self.values:
            return self.values[path]
        while path and path not in self.keys and path not in self.values:
            path = path[:-1]
        return self.keys.get(path) or self.values[path]

    def problems(self, faults: Iterable[Fault]) -> list[Problem]:
        """The faults at their places, each fault of an anchor once."""
        placed = [(fault, self.place(fault.path, fault.at_key)) for fault in faults]
        direct = {
            (place, fault.message) for fault, place in placed if self._use(fault, place) is None
        }
        found = []
        for fault, place in placed:
            use = self._use(fault, place)
            if use is None or (place, fault.message) not in direct:
                found.append((use or place).problem(f"{dotted(fault.path)}: {fault.message}"))
        return found

    def _use(self, fault: Fault, place: Place) -> Place | None:
        if place.override:
            return None
        prefixes = (fault.path[:length] for length in range(len(fault.path) + 1))
        return next((self.uses[prefix] for prefix in prefixes if prefix in self.uses), None)


def dotted(path: KeyPath) -> str:
    """``("stages", 0, "train")`` as ``stages[0].train``."""
    parts = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return "".join(parts).removeprefix(".") or "recipe"
