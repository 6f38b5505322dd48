"""What makes an account on this machine a Jetson: its tree of files, and TensorRT made of paper.

The fakes of the builder and of the runtime are those of the other tests; here they come into the
processes that a command starts on the board, by a folder on the board's PYTHONPATH.
"""

from __future__ import annotations

from pathlib import Path

from board_trees import make_board

VERSION = "10.3.0"
_TESTS = Path(__file__).parents[1]
_SITE = """\
import sys
sys.path += {tests!r}
try:
    from bench import energy
    from bench.devices import choose
except ImportError:  # the agent runs before there is a bench
    pass
else:
    from pathlib import Path
    choose.device_of.__defaults__ = (0, Path({tree!r}))
    energy._IDLE_SECONDS = 0.0
"""
_TENSORRT = """\
import json, os, sys
if "board_build" in sys.argv[0]:
    from fake_tensorrt import fake
    from fake_tensorrt_runtime import plan
    module = fake({version!r})
    module.unreadable.extend(filter(None, [os.environ.get("UNREADABLE")]))
    build = module.Builder.build_serialized_network
    def build_both(self, network, config):  # an engine that the fake runtime reads, too
        memory = build(self, network, config)
        both = {{**json.loads(memory._content), **json.loads(plan())}}
        memory._content = json.dumps(both).encode()
        return memory
    module.Builder.build_serialized_network = build_both
else:
    from fake_cuda import FakeCuda
    from fake_tensorrt_runtime import fake
    from pytest import MonkeyPatch
    module = fake(FakeCuda(MonkeyPatch()).launch, {version!r})
sys.modules[__name__] = module
"""


def simulated_jetson(folder: Path, name: str) -> dict[str, str]:
    """The environment of an account on the board ``name`` of ``board_trees``."""
    folder.mkdir()
    tree = make_board(folder / "tree", name)
    tests = [str(_TESTS / "export"), str(_TESTS / "bench")]
    site = _SITE.format(tests=tests, tree=str(tree))
    (folder / "sitecustomize.py").write_text(site)
    (folder / "tensorrt.py").write_text(_TENSORRT.format(version=VERSION))
    return {"PYTHONPATH": str(folder)}
