"""One small net exported in all forms, for every test of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from export_nets import Exported
    from torch import Tensor


@pytest.fixture(scope="session")
def exported(net_yaml: Path, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    from export_nets import export_all
    from small_nets import settled_net

    return export_all(settled_net(net_yaml, images), images, tmp_path_factory.mktemp("exported"))
