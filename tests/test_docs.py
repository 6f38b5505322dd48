"""The documents say what the code does: tables, commands, links, recipes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compress.cli import app
from compress.recipe import list_recipes, load_recipe

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*.md")])
COMMANDS = {"run", "plan", "validate", "report", "recipes", "doctor", "bench", "bundle", "predict"}
COMMANDS |= {"engine"}


def _code_lines(text: str) -> list[str]:
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line.strip().removeprefix("$ ") for line in joined.splitlines() if line.strip()]


def _commands(start: str) -> list[tuple[str, str]]:
    return [
        (path.name, line)
        for path in DOCUMENTS
        for line in _code_lines(path.read_text())
        if line.startswith(start)
    ]


def test_tables_are_those_of_the_recorded_runs() -> None:
    script = ROOT / "docs" / "results" / "tables.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("document", "line"), _commands("compress "))
def test_documented_runs_are_valid_recipes(document: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    assert words[1] in COMMANDS, f"{document}: {line}"
    if words[1] == "run":
        overrides = [word for word in words[3:] if "=" in word]
        recipe = load_recipe(ROOT / words[2], overrides).recipe
        assert recipe.stages


@pytest.mark.parametrize(("document", "line"), _commands("make "))
def test_documented_make_targets_exist(document: str, line: str) -> None:
    target = shlex.split(line, comments=True)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), document


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_every_command_is_documented() -> None:
    readme = (ROOT / "README.md").read_text()
    listed = CliRunner().invoke(app, ["--help"]).output
    for command in COMMANDS:
        assert command in listed
        assert f"compress {command}" in readme


@pytest.mark.parametrize("recipe", list_recipes(), ids=lambda recipe: recipe.name)
def test_shipped_recipes_are_valid_and_say_what_they_do(recipe) -> None:
    assert load_recipe(recipe.path).recipe.stages
    assert len(recipe.summary) > 20
