"""A good recipe, and the faults of a bad one as a command line would print them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from compress.errors import RecipeError
from compress.recipe import LoadedRecipe, load_recipe

GOOD = """\
# a whole chain
version: 1
model: base.pt
teacher: big.pt
data: set.yaml
stages:
  - stage: prune
    target: {macs: 0.4}
    align: 4
  - stage: finetune
    train: {epochs: 30, lr0: 2e-3, mosaic: 0.5}
    distill: &kd
      teachers: [teacher]
      losses:
        - {kind: cwd, temperature: 2.0}
    accept: {map50_95: {max_drop: 0.01}}
  - stage: qat
    train: {epochs: 10}
    distill: *kd
    accept: {map50: {max_drop: 0.02, against: finetune}}
  - stage: export
  - stage: bench
    accept: {min_speedup: 2, map50_95: {max_drop: 0.02}}
"""


def load(folder: Path, text: str | bytes = GOOD, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """The recipe ``text``, as a file in ``folder``."""
    file = folder / "recipe.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_recipe(file, overrides)


def faults(folder: Path, text: str | bytes = GOOD, overrides: Sequence[str] = ()) -> list[str]:
    """The lines of the error that ``text`` gives, without the folder."""
    with pytest.raises(RecipeError) as caught:
        load(folder, text, overrides)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def edited(old: str, new: str) -> str:
    """``GOOD`` with its one ``old`` replaced."""
    assert GOOD.count(old) == 1, f"{old!r} stands {GOOD.count(old)} times in the good recipe"
    return GOOD.replace(old, new)
