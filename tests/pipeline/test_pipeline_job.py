"""A recipe's weights, data and splits are all looked for before anything is said or done."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.errors import CompressError, RecipeError
from compress.pipeline.job import Job, prepare, read_only
from compress.recipe import load_recipe

RECIPE = """\
version: 1
model: n.pt
teacher: s.pt
data: d/data.yaml
stages:
  - stage: prune
    target: {macs: 0.4}
  - stage: finetune
    train: {epochs: 3}
    distill: {teachers: [teacher, far.pt], losses: [{kind: cwd}]}
  - stage: export
  - stage: bench
    splits: [val, test]
"""
DATA = "train: images/train\nval: images/val\ntest: images/test\nnames: [a]\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where everything is in place."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    for name in ("n.pt", "s.pt", "far.pt"):
        (tmp_path / name).write_text(name)
    for split in ("train", "val", "test"):
        for kind, suffix in (("images", "jpg"), ("labels", "txt")):
            file = tmp_path / "d" / kind / split / f"a.{suffix}"
            file.parent.mkdir(parents=True)
            file.write_text("")
    (tmp_path / "d" / "data.yaml").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepared(home: Path, *overrides: str) -> Job:
    return prepare(load_recipe(Path("r.yaml"), overrides), home / "cache")


def faults(home: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        prepared(home, *overrides)
    return [line for line in str(caught.value).splitlines() if line.startswith("r.yaml")]


def test_everything_found_is_no_fault(home: Path) -> None:
    assert set(prepared(home).named) == {"n.pt", "s.pt", "far.pt"}


def test_all_that_is_missing_is_told_at_once_with_its_line(home: Path) -> None:
    for name in ("n.pt", "s.pt", "far.pt", "d/data.yaml"):
        (home / name).unlink()
    assert [line[:60] for line in faults(home)] == [
        line[:60]
        for line in (
            "r.yaml:2:8: the weights 'n.pt' are not there. Looked for:",
            "r.yaml:3:10: the weights 's.pt' are not there. Looked for:",
            "r.yaml:4:7: the data yaml 'd/data.yaml' is not there. Looked for:",
            "r.yaml:10:35: the weights 'far.pt' are not there. Looked for:",
        )
    ]


def test_a_missing_split_and_missing_weights_are_told_together(home: Path) -> None:
    (home / "n.pt").unlink()
    (home / "d/data.yaml").write_text(DATA.replace("test:", "# test:"))
    first, second = faults(home)
    assert first.startswith("r.yaml:2:8: the weights 'n.pt'")
    assert second.startswith("r.yaml:13:19: 'bench' measures mAP on the test split, but ")
    assert "has none" in second


def test_an_override_is_named_as_the_place(home: Path) -> None:
    (home / "d/data.yaml").write_text(DATA.replace("test:", "# test:"))
    (fault,) = faults(home, "bench.splits=[test]")
    assert "override 'bench.splits=[test]'" in fault
    assert "the test split" in fault


def test_unlabeled_images_are_found_or_told_at_their_line(home: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    given = "finetune.distill.unlabeled.images=extra"
    (fault,) = faults(home, given)
    assert f"override '{given}': the unlabeled images 'extra' are not there" in fault
    text = RECIPE.replace("losses: [{kind: cwd}]", "losses: [{kind: cwd}], unlabeled: {images: x}")
    (home / "r.yaml").write_text(text)
    (fault,) = faults(home)
    assert fault.startswith("r.yaml:10:87: the unlabeled images 'x' are not there")
    (home / "x").mkdir()
    pillow.new("RGB", (16, 16)).save(home / "x" / "a.png")
    assert prepared(home).named["x"].path == home / "x"


def test_own_layers_are_found_but_nothing_of_them_is_run(home: Path) -> None:
    (home / "layers.py").write_text("from pathlib import Path\nPath('it-ran').touch()\n")
    (fault,) = faults(home, "modules=layers.py")
    assert f"{home / 'layers.py'} holds layers of your own" in fault
    loaded = load_recipe(Path("r.yaml"), ["modules=layers.py"])
    job = prepare(loaded, home / "cache", trust_modules=True)
    assert job.modules is not None
    assert job.modules.path == home / "layers.py"
    assert not (home / "it-ran").exists()
    assert prepared(home).modules is None


def test_a_split_that_is_not_measured_may_be_missing(home: Path) -> None:
    (home / "d/data.yaml").write_text(DATA.replace("test:", "# test:"))
    assert "test" not in prepared(home, "bench.splits=[val]").data.splits


def test_a_measured_split_needs_labels(home: Path) -> None:
    (home / "d/labels/test/a.txt").unlink()
    (fault,) = faults(home)
    assert fault.startswith("r.yaml:13:19: ")
    assert "data.yaml:3:1: no image of the test split has a label file" in fault
    prepared(home, "bench.splits=[val]")


def test_a_fault_inside_the_data_has_both_places(home: Path) -> None:
    (home / "d/data.yaml").write_text(DATA.replace("images/val", "images/gone"))
    (fault,) = faults(home)
    assert fault.startswith("r.yaml:4:7: ")
    assert "data.yaml:2:1: no such folder" in fault


def test_a_command_that_only_looks_writes_in_a_folder_that_goes_away(home: Path) -> None:
    with read_only(home / "cache") as folder:
        assert folder != home / "cache"
        (folder / "x").write_text("")
    assert not folder.exists()
    assert not (home / "cache").exists()
    (home / "cache").mkdir()
    with read_only(home / "cache") as folder:
        assert folder == home / "cache"
    assert not list((home / "cache").iterdir())


def test_a_folder_that_cannot_be_written_is_not_used(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "cache").mkdir()

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("compress.pipeline.files._try_to_write", refuse)
    with read_only(home / "cache") as folder:
        assert folder != home / "cache"


def test_a_fault_inside_the_block_comes_through(home: Path) -> None:
    (home / "cache").mkdir()
    with pytest.raises(CompressError, match="mine"), read_only(home / "cache"):
        raise CompressError("mine")
