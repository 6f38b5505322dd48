"""A recipe is found by its path, or by its name among those that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.errors import CompressError
from compress.recipe import catalogue, find_recipe, list_recipes, load_recipe


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "package" / "recipes"
    folder.mkdir(parents=True)
    (folder / "quickstart.yaml").write_text("#\n# A first try, 5 minutes\n# more\nversion: 1\n")
    (folder / "bare.yaml").write_text("version: 1\n")
    (folder / "README.md").write_text("# no recipe\n")
    monkeypatch.setattr(catalogue, "_folder", lambda: folder)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return folder


def test_the_catalogue_has_names_and_first_lines(shipped: Path) -> None:
    listed = [(recipe.name, recipe.summary, recipe.path.parent) for recipe in list_recipes()]
    assert listed == [("bare", "", shipped), ("quickstart", "A first try, 5 minutes", shipped)]


@pytest.mark.parametrize(
    "name", ["quickstart", "quickstart.yaml", "recipes/quickstart", "recipes/quickstart.yaml"]
)
def test_a_shipped_recipe_is_found_from_any_folder(shipped: Path, name: str) -> None:
    assert find_recipe(name) == shipped / "quickstart.yaml"


def test_a_file_of_the_user_wins(shipped: Path) -> None:
    Path("quickstart.yaml").write_text("version: 1\n")
    assert find_recipe("quickstart.yaml") == Path("quickstart.yaml")
    assert find_recipe("quickstart") == shipped / "quickstart.yaml"


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("name", ["quikstart", "recipes/quikstart.yaml", "other/quickstrt.yaml"])
def test_a_recipe_that_is_not_there_has_a_near_one_and_the_list(name: str) -> None:
    with pytest.raises(CompressError) as caught:
        find_recipe(name)
    assert f"no recipe '{name}'" in str(caught.value)
    assert "did you mean 'quickstart'?" in str(caught.value)
    assert "bare, quickstart" in str(caught.value)


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b", "/", "~nobody/x"])
def test_odd_names_have_a_message_too(name: str) -> None:
    with pytest.raises(CompressError):
        find_recipe(name)


@pytest.mark.usefixtures("shipped")
def test_a_folder_is_no_recipe() -> None:
    Path("mine").mkdir()
    with pytest.raises(CompressError, match="'mine' is a folder"):
        find_recipe("mine")
    with pytest.raises(CompressError, match="cannot read the recipe"):
        load_recipe(Path("mine"))


def test_shipped_recipes_are_valid() -> None:
    for recipe in list_recipes():
        assert load_recipe(recipe.path).name == recipe.name
        assert recipe.summary
