"""Nets of every task as exported files and as bundles."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from deploy_nets import Bundled

sys.path.append(str(Path(__file__).parents[1] / "models"))  # where the nets of all tasks are made


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundled]:
    """Head -> its bundle, made once."""
    from deploy_nets import make_bundle

    made: dict[str, Bundled] = {}

    def make(head: str) -> Bundled:
        if head not in made:
            made[head] = make_bundle(tmp_path_factory.mktemp("bundles"), head)
        return made[head]

    return make
