"""What travels to a board holds to Python 3.8, the standard library and numpy."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from bench.remote.parcels import code_archive, code_files

ROOT = Path(__file__).parents[2]
OLDEST = (3, 8)
AGENT = ROOT / "bench" / "remote" / "agent.py"
TRAVELS = [*code_files(deploy=True, builder=True), AGENT]
# no import but these, as on a board; numpy 1.17 has no numpy.typing
HOOK = """\
import sys
class OnlyTheBase:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        known = {"bench", "deploy", "export", "numpy", *sys.stdlib_module_names}
        if top not in known or name == "numpy.typing":
            raise ImportError(f"a board has no {name}")
import numpy
for name in [name for name in sys.modules if name.startswith("numpy.typing")]:
    del sys.modules[name]
sys.meta_path.insert(0, OnlyTheBase())
"""


GENERIC = {"dict", "frozenset", "list", "set", "tuple", "type"}


def evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """What is run: neither annotations nor what only type checkers read."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.AST):
                yield child
                yield from evaluated(child)


def newer_generics(source: str) -> list[str]:
    """``list[int]`` and ``collections.abc.Callable[...]`` where they are run: 3.9 and newer."""
    tree = ast.parse(source)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    abc = {a.name for node in imports if node.module == "collections.abc" for a in node.names}
    return [
        node.value.id
        for node in evaluated(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id in GENERIC | abc
    ]


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", TRAVELS, ids=name_of)
def test_each_file_is_python_3_8(file: Path) -> None:
    vermin = pytest.importorskip("vermin")
    source = file.read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=OLDEST)
    # else annotations such as `int | None` would be evaluated
    future = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert len(tree.body) < 2 or "__future__" in {node.module for node in future}
    needed = vermin.detect(source)[1]
    assert needed is not None
    assert needed <= OLDEST, f"{name_of(file)} needs Python {needed}"
    assert not newer_generics(source)


@pytest.mark.parametrize(
    "source",
    [
        "zip([], [], strict=True)",
        "'ab'.removeprefix('a')",
        "import zoneinfo",
        "match 1:\n    case 1: pass",
        "from math import lcm",
        "x = {} | {}",
        "names = list[int]",
        "from collections.abc import Mapping\nKind = Mapping[str, int]",
        "with (open('a') as a, open('b') as b): pass",
    ],
)
def test_the_check_sees_what_is_newer(source: str) -> None:
    vermin = pytest.importorskip("vermin")
    try:
        ast.parse(source, feature_version=OLDEST)
    except SyntaxError:
        return
    assert vermin.detect(source)[1] > OLDEST or newer_generics(source)


def test_annotations_may_be_newer() -> None:
    source = "from collections.abc import Mapping\ndef f(x: list[int]) -> Mapping[str, int]: ..."
    assert not newer_generics(source)


def test_all_of_it_can_be_imported_on_a_board(tmp_path: Path) -> None:
    archive = tmp_path / "code.zip"
    archive.write_bytes(code_archive(code_files(deploy=True, builder=True)))
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in code_files(deploy=True, builder=True)
        if file.name != "__init__.py"
    ]
    script = f"{HOOK}\nimport importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    script += "import bench; assert 'code.zip' in bench.__file__\n"
    # without site: an editable install would lend what is missing in the archive
    paths = f"import sys; sys.path = ['code.zip', *sys.path, {str(Path(np.__file__).parents[1])!r}]"
    command = [sys.executable, "-I", "-S", "-c", f"{paths}\n{script}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def test_the_archive_is_the_same_for_the_same_sources() -> None:
    files = code_files(deploy=False, builder=True)
    assert code_archive(files) == code_archive(files)
    with zipfile.ZipFile(BytesIO(code_archive(files))) as archive:
        names = set(archive.namelist())
    assert {"bench/__main__.py", "bench/run.py", "export/board_build.py"} <= names
    assert not [name for name in names if name.startswith(("bench/remote/", "deploy/"))]
