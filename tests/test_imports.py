"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "ultralytics", "onnx", "onnxruntime", "matplotlib")
# modules of the pipeline that hold what is shared: types, the table, file helpers
SHARED = tuple(f"compress.pipeline.{name}" for name in ("contract", "stage_table", "files", "keys"))
# where torch may be imported as soon as the module is
EAGER = ("models", "prune", "distill", "quantize", "stages")


def modules(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def imports(file: Path, at_import_only: bool = False) -> set[str]:
    """Absolute names of all modules that ``file`` imports."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {name for node in _nodes(tree, at_import_only) for name in _names(node, file)}


def _nodes(tree: ast.AST, at_import_only: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if at_import_only and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        ):
            continue
        yield node
        yield from _nodes(node, at_import_only)


def _names(node: ast.AST, file: Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parts = file.relative_to(ROOT).with_suffix("").parts
        base = ".".join(parts[: len(parts) - node.level]) if node.level else ""
        source = ".".join(part for part in (base, node.module or "") if part)
        return [source, *(f"{source}.{alias.name}" for alias in node.names)]
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name | ast.Attribute)
        and (getattr(node.func, "id", "") or getattr(node.func, "attr", "")) == "import_module"
    ):
        return [str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)]
    return []


def belongs(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def wrong(files: list[Path], banned: tuple[str, ...], allowed: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in sorted(imports(file))
        if belongs(name, banned) and not belongs(name, allowed)
    ]


def test_the_walk_sees_imports_wherever_they_stand(tmp_path: Path) -> None:
    text = "import a.b\nif True:\n    from c import d\ndef f():\n    import_module('e')\n"
    probe = ROOT / "compress" / "pipeline" / "links.py"
    tree = ast.parse(text)
    found = {name for node in _nodes(tree, False) for name in _names(node, probe)}
    assert found == {"a.b", "c", "c.d", "e"}
    early = {name for node in _nodes(tree, True) for name in _names(node, probe)}
    assert early == {"a.b", "c", "c.d"}


def test_export_and_bench_know_nothing_of_compress() -> None:
    assert not wrong(modules("export", "bench"), ("compress",))


def test_a_bundles_runtime_needs_nothing_of_the_project() -> None:
    ours = ("compress", "export", "bench")
    assert not wrong(modules("deploy"), (*ours, "torch", "torchvision", "ultralytics", "onnx"))


def test_bench_runs_without_torch_and_ultralytics() -> None:
    assert not wrong(modules("bench"), ("torch", "torchvision", "ultralytics", "export"))


def test_ultralytics_is_imported_in_models_alone() -> None:
    models = ROOT / "compress" / "models"
    others = [file for file in modules("compress", "export", "bench") if models not in file.parents]
    assert not wrong(others, ("ultralytics",))


@pytest.mark.parametrize("library", ["prune", "distill", "quantize", "recipe", "data", "models"])
def test_libraries_know_no_pipeline(library: str) -> None:
    above = ("compress.pipeline", "compress.stages", "compress.cli", "compress.report")
    assert not wrong(modules(f"compress/{library}"), above, SHARED)


@pytest.mark.parametrize("library", ["prune", "distill", "quantize"])
def test_methods_know_no_recipe(library: str) -> None:
    assert not wrong(modules(f"compress/{library}"), ("compress.recipe", "compress.data"))


def test_pipeline_calls_stages_by_the_table_alone_and_nothing_calls_the_command_line() -> None:
    package = ROOT / "compress"
    commands = {*package.glob("*.py"), *modules("compress/commands")}
    below = [file for file in modules("compress") if file not in commands]
    assert not wrong(below, ("compress.cli", "compress.faults", "compress.output"))
    assert not wrong(modules("compress/pipeline"), ("compress.stages", "compress.report"))
    assert not wrong(modules("compress/stages", "compress/report"), ("compress.pipeline",), SHARED)


def test_heavy_libraries_wait_until_they_are_needed() -> None:
    eager = [ROOT / "compress" / name for name in EAGER]
    light = [file for file in modules("compress", "bench") if not set(eager) & set(file.parents)]
    early = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in light
        for name in sorted(imports(file, at_import_only=True))
        if belongs(name, HEAVY)
    ]
    assert not early


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_is_quick_because_it_imports_little(arguments: list[str]) -> None:
    heavy = (*HEAVY, "numpy", "compress.recipe")
    script = (
        "import sys, runpy\n"
        f"sys.argv = ['compress', *{arguments!r}]\n"
        "try:\n"
        "    runpy.run_module('compress', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print(sorted(set({heavy!r}) & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr.strip() == "[]"


def test_recipe_and_pipeline_load_no_heavy_library() -> None:
    script = (
        "import sys\n"
        "import compress.pipeline.runner, compress.recipe, compress.pipeline.plan\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
