"""Small data sets on disk: nothing in here is a picture, only the names and bytes matter."""

from __future__ import annotations

from pathlib import Path

YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
ROW = "0 0.5 0.5 0.2 0.2\n"


def make_data(root: Path, text: str = YAML, images: int = 3) -> Path:
    """A data set with ``images`` labelled images in each of train and val; gives its yaml."""
    for split in ("train", "val"):
        for number in range(images):
            add_image(root, f"images/{split}/{number}.jpg", ROW)
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text(text)
    return root / "data.yaml"


def add_image(root: Path, path: str, label: str | None = None) -> Path:
    """An image with bytes of its own, and its label file unless ``label`` is None."""
    image = root / path
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(f"image {path}".encode())
    if label is not None:
        file = root / path.replace("images/", "labels/", 1).replace(".jpg", ".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(label)
    return image
