"""What the tests of the ML library share: a drawn data set, small nets, the context of a stage.

Nothing heavy is imported until a fixture is asked for, so that the other tests stay fast.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.dataset import DataSet
    from compress.pipeline.contract import Context

# ultralytics reads this when it is first imported, and writes its settings there
os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp(prefix="yolo-config-")
# on nets this small a second thread costs more than it gives
os.environ.setdefault("OMP_NUM_THREADS", "1")
atexit.register(shutil.rmtree, os.environ["YOLO_CONFIG_DIR"], ignore_errors=True)

# a busy machine is no fault of the code, and whether tests pass is no matter of luck
settings.register_profile(
    "patient",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def data_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 train, 8 val and 4 test images of 96 px with squares, discs and bars."""
    from small_nets import draw_data

    return draw_data(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="session")
def dataset(data_yaml: Path) -> DataSet:
    from compress.data.dataset import load_dataset

    return load_dataset(data_yaml)


@pytest.fixture(scope="session")
def net_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLOv8 of width 0.125 as a model yaml."""
    from small_nets import write_net_yaml

    return write_net_yaml(tmp_path_factory.mktemp("yaml") / "small.yaml", width=0.125)


@pytest.fixture(scope="session")
def wide_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same net at width 0.1875: a teacher whose features need projectors."""
    from small_nets import write_net_yaml

    return write_net_yaml(tmp_path_factory.mktemp("yaml") / "wide.yaml", width=0.1875)


@pytest.fixture(scope="session")
def images(dataset: DataSet) -> Tensor:
    """(8, 3, 64, 64): train images as the nets see them."""
    import torch

    from compress.models.images import load_image

    return torch.cat([load_image(path, 64) for path in dataset.splits["train"][:8]])


@pytest.fixture(scope="session")
def _settled(net_yaml: Path, images: Tensor) -> nn.Module:
    from small_nets import settled_net

    return settled_net(net_yaml, images)


@pytest.fixture
def net(_settled: nn.Module) -> nn.Module:
    """A small net in eval mode: random weights, BatchNorms that fit the images, busy scores."""
    return deepcopy(_settled)


@pytest.fixture
def make_context(dataset: DataSet, tmp_path: Path) -> Callable[[str], Context]:
    """The context of a stage of this name, in folders of its own."""
    from small_nets import Silent

    from compress.pipeline.contract import Context

    def make(name: str) -> Context:
        out, scratch = tmp_path / name / "out", tmp_path / name / "scratch"
        out.mkdir(parents=True)
        scratch.mkdir()
        return Context(dataset, 64, 0, "cpu", 0, out, scratch, scratch, Silent())

    return make
