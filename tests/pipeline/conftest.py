from __future__ import annotations

from pathlib import Path

import pytest
from pipeline_fakes import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk.at(tmp_path)
