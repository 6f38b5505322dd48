"""A net whose norms keep their statistics, so that images do not see each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn
from ultralytics.nn import tasks

from compress.models.custom_modules import custom_modules

# a layer of the user's own: processes that are started must find it too
_STILL = """\
from torch import nn

class StillNorm(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(False)
"""


@contextmanager
def still(net: nn.Module, folder: Path) -> Iterator[nn.Module]:
    """``net`` with such norms, in place; they are known inside the block."""
    file = folder / "still_norms.py"
    file.write_text(_STILL)
    with custom_modules(file):
        for norm in [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]:
            norm.__class__ = tasks.StillNorm
        yield net
