"""Weights, model yamls and data yamls are found, or the error says where they were looked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from compress.data.dataset import list_images, load_dataset
from compress.errors import CompressError
from compress.models import download, shipped
from compress.recipe.references import (
    resolve_data,
    resolve_images,
    resolve_model,
    resolve_modules,
)

MODEL_YAML = "backbone: []\nhead: []\n"
DATA = {"train": "images/train", "val": "images/val", "names": {0: "cell"}}


real_folder = shipped.ultralytics_folder


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``here`` is the current folder, ``recipes`` the recipe's, ``sets`` ultralytics'."""
    for name in ("here", "recipes", "sets", "config/Ultralytics"):
        (tmp_path / name).mkdir(parents=True)
    settings = tmp_path / "config" / "Ultralytics" / "settings.json"
    settings.write_text(json.dumps({"datasets_dir": str(tmp_path / "sets")}))
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for ultralytics' own folder: one model yaml and one data yaml."""
    folder = tmp_path / "ultralytics"
    (folder / "cfg" / "models" / "v8").mkdir(parents=True)
    (folder / "cfg" / "datasets").mkdir()
    (folder / "cfg" / "models" / "v8" / "yolov8.yaml").write_text(MODEL_YAML)
    text = yaml.safe_dump({"path": "Fly", **DATA}) + "download: |\n  raise SystemExit('was run')\n"
    (folder / "cfg" / "datasets" / "Fly.yaml").write_text(text)
    monkeypatch.setattr(shipped, "ultralytics_folder", lambda: folder)
    return folder


def make_images(root: Path) -> Path:
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        (root / "images" / split / "a.png").write_bytes(b"")
        (root / "labels" / split / "a.txt").write_text("")
    return root


def failure(function: Callable[[], object]) -> str:
    with pytest.raises(CompressError) as caught:
        function()
    return str(caught.value)


def test_weights_are_found_here_then_beside_the_recipe(places: Path) -> None:
    (places / "recipes" / "a.pt").write_bytes(b"recipe's")
    found = resolve_model("a.pt", places / "recipes")
    assert found.path == places / "recipes" / "a.pt"
    assert found.sha256 == hashlib.sha256(b"recipe's").hexdigest()
    Path("a.pt").write_bytes(b"here")
    assert resolve_model("a.pt", places / "recipes").path == places / "here" / "a.pt"
    absolute = str(places / "recipes" / "a.pt")
    assert resolve_model(absolute, places).path == places / "recipes" / "a.pt"


def test_missing_weights_say_where_they_were_looked_for_and_what_to_do(places: Path) -> None:
    message = failure(lambda: resolve_model("yolov8n.pt", places / "recipes"))
    assert "'yolov8n.pt'" in message
    assert str(places / "here" / "yolov8n.pt") in message
    assert str(places / "recipes" / "yolov8n.pt") in message
    assert "copy the file" in message
    assert "`model=PATH`" in message
    assert "--download" in message
    assert "--download" not in failure(lambda: resolve_model("w/yolov8n.pt", places))


@pytest.mark.parametrize("name", ["yolov8.yaml", "yolov8n.yaml", "yolov8x.yaml"])
def test_a_model_yaml_of_ultralytics_keeps_its_name(places: Path, name: str) -> None:
    assert resolve_model(name, places).path == Path(name)


def test_the_hash_of_a_model_yaml_covers_its_scale_and_its_text(places: Path) -> None:
    def digest(name: str) -> str:
        return resolve_model(name, places / "recipes").sha256

    nano = digest("yolov8n.yaml")
    assert nano != digest("yolov8s.yaml")
    assert nano == digest("yolov8n.yaml")
    Path("yolov8n.yaml").write_text(MODEL_YAML + "nc: 3\n")
    assert nano != digest("yolov8n.yaml")


def test_a_model_yaml_of_the_user_wins_and_may_be_scaled(places: Path) -> None:
    (places / "recipes" / "yolov8.yaml").write_text(MODEL_YAML)
    found = resolve_model("yolov8s.yaml", places / "recipes")
    assert found.path == places / "recipes" / "yolov8s.yaml"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("yolo8n.yaml", "did you mean 'yolov8n.yaml'?"),
        ("nets/mine.yaml", "nets/mine.yaml"),
        ("a.onnx", "neither weights (.pt) nor a model yaml"),
        ("known", "did you mean 'known.pt'?"),
        ("https://example.org/a.pt", "not there"),
        ("~/none.pt", "not there"),
    ],
)
def test_a_model_that_is_not_there(places: Path, name: str, words: str) -> None:
    Path("known.pt").write_bytes(b"")
    assert words in failure(lambda: resolve_model(name, places))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"train: x\nval: y\n", "m.yaml: not a model yaml"),
        (b"a: [\n", "m.yaml:2:1: not valid YAML"),
        (b"- 1\n", "m.yaml: expected `key: value`"),
        (b"\xff", "m.yaml: not UTF-8"),
    ],
)
def test_a_model_yaml_that_is_none(places: Path, text: bytes, words: str) -> None:
    Path("m.yaml").write_bytes(text)
    assert words in failure(lambda: resolve_model("m.yaml", places))


def test_weights_are_downloaded_only_when_asked(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(name: str, folder: Path) -> Path:
        (folder / name).write_bytes(b"fetched")
        return folder / name

    monkeypatch.setattr(download, "fetch_weights", fetch)
    failure(lambda: resolve_model("yolov8n.pt", places))
    assert resolve_model("yolov8n.pt", places, download=True).path == Path.cwd() / "yolov8n.pt"
    assert resolve_model("yolov8n.pt", places).sha256 == hashlib.sha256(b"fetched").hexdigest()
    failure(lambda: resolve_model("sub/yolov8n.pt", places, download=True))


def test_a_data_yaml_that_means_the_same_everywhere_is_taken_as_it_is(places: Path) -> None:
    root = make_images(places / "recipes" / "cells")
    (root / "cells.yaml").write_text(yaml.safe_dump(DATA))
    cache = places / "cache"
    assert resolve_data("cells/cells.yaml", places / "recipes", cache) == root / "cells.yaml"
    absolute = {"path": str(root), **DATA}
    Path("far.yaml").write_text(yaml.safe_dump(absolute))
    assert resolve_data("far.yaml", places, cache) == Path.cwd() / "far.yaml"
    assert not cache.exists()


@pytest.mark.parametrize("base", ["recipes/yamls", "here", "recipes", "sets"])
def test_a_relative_folder_is_found_and_written_out(places: Path, base: str) -> None:
    root = make_images(places / base / "Fly")
    (places / "recipes" / "yamls").mkdir(exist_ok=True)
    own = places / "recipes" / "yamls" / "mine.yaml"
    own.write_text(yaml.safe_dump({"path": "Fly", **DATA}, sort_keys=False))
    found = resolve_data("yamls/mine.yaml", places / "recipes", places / "cache")
    assert found.name == "mine.yaml"
    assert found.is_relative_to(places / "cache")
    assert load_dataset(found).splits["train"] == (root / "images" / "train" / "a.png",)
    again = resolve_data("yamls/mine.yaml", places / "recipes", places / "cache")
    assert again == found


def test_the_copy_of_a_data_yaml_keeps_its_lines_and_loses_its_script(places: Path) -> None:
    make_images(Path("Fly"))
    script = "download: |\n  exit()\n\n  exit()\n"
    text = f"# mine\npath: Fly  # here\n{script}names: [a]\ntrain: images/train\nval: images/val\n"
    Path("mine.yaml").write_text(text)
    copy = resolve_data("mine.yaml", places, places / "cache").read_text()
    values = yaml.safe_load(copy)
    assert values.pop("path") == str(Path("Fly").resolve())
    assert not values.pop("download")
    assert values == {"names": ["a"], "train": "images/train", "val": "images/val"}
    kept = [line for line in text.splitlines() if line.startswith(("names", "train", "val"))]
    assert [copy.splitlines().index(line) for line in kept] == [
        text.splitlines().index(line) for line in kept
    ]


def test_a_data_yaml_of_ultralytics_needs_its_images(places: Path) -> None:
    message = failure(lambda: resolve_data("Fly.yaml", places / "recipes", places / "cache"))
    for place in ("here", "recipes", "sets"):
        assert str(places / place / "Fly") in message
    assert "images/train and images/val" in message
    assert "`data=PATH`" in message
    assert "--download" in message
    root = make_images(places / "sets" / "Fly")
    found = resolve_data("Fly.yaml", places / "recipes", places / "cache")
    assert yaml.safe_load(found.read_text())["path"] == str(root)
    assert "was run" not in found.read_text()


def test_images_of_ultralytics_are_downloaded_only_when_asked(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(file: Path) -> Path:
        assert file.name == "Fly.yaml"
        return make_images(places / "fetched")

    monkeypatch.setattr(download, "fetch_dataset", fetch)
    failure(lambda: resolve_data("Fly.yaml", places, places / "cache"))
    found = resolve_data("Fly.yaml", places, places / "cache", download=True)
    assert yaml.safe_load(found.read_text())["path"] == str(places / "fetched")


def test_the_script_of_a_users_yaml_is_never_run(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "fetch_dataset", lambda file: pytest.fail(f"fetched {file}"))
    (places / "here" / "Fly.yaml").write_text("path: Fly\ntrain: a\nval: b\ndownload: exit()\n")
    message = failure(lambda: resolve_data("Fly.yaml", places, places / "cache", download=True))
    assert "--download" not in message


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("fly.yaml", "did you mean 'Fly.yaml'?"),
        ("sampel", "did you mean 'sample'?"),
        ("deep/fly.yaml", "deep/fly.yaml"),
        ("folder", "'folder' is a folder; name a data yaml (in it: cells.yaml)"),
    ],
)
def test_a_data_yaml_that_is_not_there(places: Path, ref: str, words: str) -> None:
    Path("folder").mkdir()
    Path("folder/cells.yaml").write_text("")
    assert words in failure(lambda: resolve_data(ref, places, places / "cache"))


def test_the_sample_is_drawn_in_the_cache(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.data.sample.draw_sample", lambda folder: folder / "sample.yaml")
    cache = places / "cache"
    assert resolve_data("sample", places, cache) == cache / "data" / "sample" / "sample.yaml"


def test_no_settings_of_ultralytics_are_no_fault(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(places / "nowhere"))
    assert shipped.datasets_folder() == places / "here" / "datasets"


@pytest.mark.skipif(real_folder() is None, reason="ultralytics is not installed")
@pytest.mark.parametrize(
    "name", ["yolov8n", "yolov8s-p2", "yolo11m", "yolov10b", "yolov5l", "yolo26n"]
)
def test_the_real_ultralytics_has_the_usual_yamls(
    places: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(shipped, "ultralytics_folder", real_folder)
    assert resolve_model(f"{name}.yaml", places).path == Path(f"{name}.yaml")
    assert "images/train" in failure(
        lambda: resolve_data("VisDrone.yaml", places, places / "cache")
    )


LISTS = {
    "one list": "train: lists/train.txt\nval: images/val\nnames: [a]\n",
    "several": "names: [a]\ntrain:\n- lists/train.txt\n- images/extra\nval: images/val\n",
    "with a root": "path: .\ntrain: lists/train.txt\nval: images/val\nnames: [a]\n",
    "an alias": "train: &all lists/train.txt\nval: *all\nnames: [a]\n",
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_plain_lines_of_a_list_mean_the_same_to_ultralytics_from_any_folder(
    places: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    utils = pytest.importorskip("ultralytics.data.utils")
    base = pytest.importorskip("ultralytics.data.base")
    root = make_images(places / "recipes" / "cells")
    (root / "images" / "extra").mkdir()
    (root / "images" / "extra" / "e.png").write_bytes(b"")
    (root / "lists").mkdir()
    (root / "lists" / "train.txt").write_text("../images/train/a.png\n\n  ./../images/val/a.png \n")
    (root / "cells.yaml").write_text(text)
    found = resolve_data("cells/cells.yaml", places / "recipes", places / "cache")
    ours = load_dataset(found).splits
    monkeypatch.chdir(places)
    theirs = utils.check_det_dataset(str(found), autodownload=False)
    read = base.BaseDataset.get_img_files
    listed = type("Reader", (), {"prefix": "", "fraction": 1.0})()
    for split in ("train", "val"):
        files = [Path(file).resolve() for file in read(listed, theirs[split])]
        assert files == [file.resolve() for file in ours[split]]
        assert all(file.is_file() for file in files)


def test_a_list_that_means_the_same_everywhere_is_taken_as_it_is(places: Path) -> None:
    root = make_images(places / "recipes" / "cells")
    (root / "train.txt").write_text(f"./images/train/a.png\n{root / 'images/val/a.png'}\n")
    (root / "cells.yaml").write_text("train: train.txt\nval: images/val\nnames: [a]\n")
    cache = places / "cache"
    assert resolve_data("cells/cells.yaml", places / "recipes", cache) == root / "cells.yaml"


def test_a_lost_image_is_told_with_the_users_own_list(places: Path) -> None:
    root = make_images(places / "recipes" / "cells")
    (root / "train.txt").write_text("images/train/a.png\nimages/train/lost.png\n")
    (root / "cells.yaml").write_text("train: train.txt\nval: images/val\nnames: [a]\n")
    found = resolve_data("cells/cells.yaml", places / "recipes", places / "cache")
    assert f"{root / 'train.txt'}:2: no such image" in failure(lambda: load_dataset(found))


@pytest.mark.parametrize("name", ["best.pt", "yolov8q.pt", "yolov8n-mine.pt", "sub/yolov8n.pt"])
def test_a_download_is_offered_only_for_what_there_is(places: Path, name: str) -> None:
    assert "--download" not in failure(lambda: resolve_model(name, places))


def test_names_with_an_offer_are_released(places: Path) -> None:
    downloads = pytest.importorskip("ultralytics.utils.downloads")
    families = {"yolov8": "nsmlx", "yolo11": "nsmlx", "yolo12": "nsmlx", "yolov9": "tsmce"}
    named = {f"{family}{scale}.pt" for family, scales in families.items() for scale in scales}
    named |= {f"yolov5{scale}{size}u.pt" for scale in "nsmlx" for size in ("", "6")}
    named |= {f"yolov3{kind}u.pt" for kind in ("", "-spp", "-tiny")} | {"yolov8n-oiv7.pt"}
    offered = {name for name in named if "--download" in failure(_finding(name, places))}
    assert offered == named
    assert offered <= downloads.GITHUB_ASSETS_NAMES


def _finding(name: str, folder: Path) -> Callable[[], object]:
    return lambda: resolve_model(name, folder)


def test_images_that_ultralytics_cannot_fetch_are_not_offered(places: Path, package: Path) -> None:
    (package / "cfg" / "datasets" / "Own.yaml").write_text(yaml.safe_dump({"path": "Own", **DATA}))
    for download_asked in (False, True):
        message = failure(
            lambda asked=download_asked: resolve_data("Own.yaml", places, places / "c", asked)
        )
        assert "--download" not in message
        assert "are not there" in message


def pictures(folder: Path, *names: str) -> Path:
    pillow = pytest.importorskip("PIL.Image")
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pillow.new("RGB", (16, 16), (number, 0, 0)).save(folder / name)
    return folder


@pytest.mark.parametrize("home", ["here", "recipes"])
def test_unlabeled_images_are_found_from_here_and_from_the_recipe(places: Path, home: str) -> None:
    folder = pictures(places / home / "extra", "a.png", "deep/b.jpg")
    (folder / "notes.txt").write_text("none")
    found = resolve_images("extra", places / "recipes", places / "memo.json")
    assert found.path == folder
    assert [image.name for image in list_images(folder)] == ["a.png", "b.jpg"]


def test_the_hash_of_unlabeled_images_is_of_names_and_contents(places: Path) -> None:
    def of(folder: str) -> str:
        return resolve_images(folder, places, places / "memo.json").sha256

    pictures(places / "here" / "one", "a.png", "deep/b.png")
    pictures(places / "here" / "two", "a.png", "deep/b.png")
    first = of("one")
    assert of("two") == first
    (places / "here/two/a.png").rename(places / "here/two/c.png")
    assert of("two") != first
    pictures(places / "here" / "one", "deep/b.png")  # another shade
    assert of("one") != first


def test_a_list_of_images_counts_from_its_folder(places: Path) -> None:
    pictures(places / "far", "a.png", "b.png")
    listing = places / "far" / "some.txt"
    listing.write_text("\nb.png\n./a.png\n")
    assert [image.name for image in list_images(listing)] == ["a.png", "b.png"]
    found = resolve_images("far/some.txt", places, places / "memo.json")
    assert found.path == listing
    listing.write_text("a.png\ngone.png\n")
    words = failure(lambda: resolve_images("far/some.txt", places, places / "memo.json"))
    assert words.startswith(f"{listing}:2: no such image: {places / 'far' / 'gone.png'}. ")


def test_unlabeled_images_that_are_not_there_are_told(places: Path) -> None:
    def told(ref: str) -> str:
        return failure(lambda: resolve_images(ref, places / "recipes", places / "memo.json"))

    assert told("extra").startswith("the unlabeled images 'extra' are not there. Looked for:\n")
    assert str(places / "recipes" / "extra") in told("extra")
    (places / "here" / "extra").mkdir()
    assert told("extra").startswith(f"no image in {places / 'here' / 'extra'}: ")
    (places / "here" / "extra" / "a.png").write_text("no picture")
    assert told("extra").startswith("none of the 1 images in ")
    assert "a.png: not an image" in told("extra")
    pictures(places / "here" / "extra", "b.png")
    resolve_images("extra", places / "recipes", places / "memo.json")  # one is enough


def test_a_file_of_layers_is_looked_for_beside_the_recipe_first(places: Path) -> None:
    for home in ("here", "recipes"):
        (places / home / "blocks.py").write_text(f"raise SystemExit('{home} was run')")
    found = resolve_modules("blocks.py", places / "recipes")
    assert found.path == places / "recipes" / "blocks.py"
    assert found.sha256 == hashlib.sha256(found.path.read_bytes()).hexdigest()
    found.path.unlink()
    assert resolve_modules("blocks.py", places / "recipes").path == places / "here" / "blocks.py"
    assert failure(lambda: resolve_modules("blocks", places)) == "'blocks' is no Python file (.py)"
