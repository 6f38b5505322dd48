"""The stages of a raw recipe, as far as they can be told before it is validated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compress.recipe.schema import default_name
from compress.recipe.tree import KeyPath, Tree


@dataclass(frozen=True)
class StageOutline:
    """One entry of ``stages:``; ``kind`` is its ``stage:``, as the user wrote it."""

    index: int
    kind: str
    name: str
    raw: Mapping[str, Any]

    @property
    def path(self) -> KeyPath:
        """Where the stage stands in the recipe."""
        return ("stages", self.index)

    @property
    def role(self) -> str:
        """``base`` or ``teacher`` for a train stage, nothing for the others."""
        return default_name(self.raw) if self.kind == "train" else ""

    def sections(self, name: str) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
        """The mappings under ``name`` in the stage itself and in its ``recover:``, with paths."""
        recover = self.raw.get("recover")
        holders = ((self.path, self.raw), ((*self.path, "recover"), recover))
        for path, holder in holders:
            section = holder.get(name) if isinstance(holder, Mapping) else None
            if isinstance(section, Mapping):
                yield (*path, name), section


def outline(tree: Tree) -> list[StageOutline]:
    """Every entry of ``stages:``, in order; one that is no mapping has neither kind nor name."""
    stages = tree.get(("stages",))
    entries = stages if isinstance(stages, list) else []
    return [_stage(i, raw if isinstance(raw, dict) else {}) for i, raw in enumerate(entries)]


def _stage(index: int, raw: Mapping[str, Any]) -> StageOutline:
    name = raw.get("name")
    return StageOutline(
        index=index,
        kind=str(raw.get("stage", "")),
        name=name if isinstance(name, str) and name else default_name(raw),
        raw=raw,
    )
