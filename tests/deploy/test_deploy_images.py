"""Readers of images: the same pixels as Pillow's, and clear words for what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.errors import DeployError
from deploy.images import find_images, read_image

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _stock_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """ultralytics replaces ``Image.open`` where another test imports it; no bundle ever does."""
    stock = getattr(Image.open, "__globals__", {}).get("_image_open", Image.open)
    monkeypatch.setattr(Image, "open", stock)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("suffix", [".ppm", ".bmp", ".npy", ".png"])
def test_pixels_come_back(tmp_path: Path, suffix: str, width: int) -> None:
    pixels = RANDOM.integers(0, 256, (5, width, 3), dtype=np.uint8)
    file = tmp_path / f"image{suffix}"
    if suffix == ".npy":
        np.save(file, pixels)
    else:
        Image.fromarray(pixels).save(file)
    assert (read_image(file) == pixels).all()


def test_bmp_from_the_top_and_with_a_fourth_channel(tmp_path: Path) -> None:
    pixels = RANDOM.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "four.bmp")
    assert (read_image(tmp_path / "four.bmp") == pixels).all()
    Image.fromarray(pixels[::-1]).save(tmp_path / "top.bmp")
    content = bytearray((tmp_path / "top.bmp").read_bytes())
    content[22:26] = (-4).to_bytes(4, "little", signed=True)
    (tmp_path / "top.bmp").write_bytes(content)
    assert (read_image(tmp_path / "top.bmp") == pixels).all()


def test_grey_and_palette_images_become_rgb(tmp_path: Path) -> None:
    grey = Image.fromarray(RANDOM.integers(0, 256, (4, 6), dtype=np.uint8))
    for name in ("grey.png", "grey.bmp"):
        grey.save(tmp_path / name)
        assert read_image(tmp_path / name).shape == (4, 6, 3)


def test_a_turned_photograph_is_turned_back(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (8, 4, 3)


def test_a_comment_in_a_ppm_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "c.ppm").write_bytes(b"P6\n# made by hand\n2 1\n255\n\x01\x02\x03\x04\x05\x06")
    assert read_image(tmp_path / "c.ppm").tolist() == [[[1, 2, 3], [4, 5, 6]]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.ppm", b"P6 9 9 255\n123"),
        ("deep.ppm", b"P6 1 1 65535\n123456"),
        ("text.ppm", b"hello"),
        ("empty.ppm", b"P6 0 0 255\n"),
        ("cut.bmp", b"BM"),
        ("text.bmp", b"hello"),
        ("none.png", b""),
        ("text.jpg", b"hello"),
        ("text.npy", b"hello"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DeployError, match=name):
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.array([{}], dtype=object)],
    ids=["flat", "float", "pickled"],
)
def test_arrays_of_another_kind_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "array.npy", array, allow_pickle=True)
    with pytest.raises(DeployError, match=r"array\.npy"):
        read_image(tmp_path / "array.npy")


def test_a_folder_gives_its_images_by_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.npy", "notes.txt"):
        (tmp_path / name).write_text("")
    assert [file.name for file in find_images(tmp_path)] == ["a.npy", "b.PNG"]
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
