"""The chain of stages: each is run once for all tests of this folder, if any needs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stage_chain import Chain

    from compress.data.dataset import DataSet


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """24 of the pictures that the project draws itself, in 5 classes."""
    from compress.data.dataset import load_dataset
    from compress.data.sample import draw_sample

    folder = tmp_path_factory.mktemp("stages") / "sample"
    return load_dataset(draw_sample(folder, counts={"train": 16, "val": 8}))


@pytest.fixture(scope="session")
def chain(
    sample: DataSet, net_yaml: Path, wide_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Chain:
    from stage_chain import chain_of

    return chain_of(sample, net_yaml, wide_yaml, tmp_path_factory.mktemp("chain"))
