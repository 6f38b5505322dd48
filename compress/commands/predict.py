"""``compress predict``: what a deployment bundle finds in images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress import output
from compress.errors import CompressError
from compress.faults import guarded

if TYPE_CHECKING:
    from rich.table import Table

    from deploy.files import Found


@guarded
def predict(
    context: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder")],
    source: Annotated[Path, typer.Argument(help="An image, or a folder of images")],
    out: Annotated[Path | None, typer.Option(help="Folder for drawn copies")] = None,
    score: Annotated[
        float | None, typer.Option(help="Least score, 0 to 1 [default: the bundle's]")
    ] = None,
    iou: Annotated[
        float | None, typer.Option(help="Overlap limit, 0 to 1 [default: the bundle's]")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress")] = False,
) -> None:
    """Run a bundle on images, as it would run on the device."""
    from compress.progress import ConsoleProgress
    from deploy.detector import Detector
    from deploy.files import detect_files
    from deploy.images import find_images
    from deploy.manifest import read_bundle

    with output.stdout_for_results():
        detector = Detector(read_bundle(bundle), score, iou)
        files = find_images(source)
        with ConsoleProgress(quiet).task("detecting", len(files)) as bar:
            found = detect_files(detector, files, out, lambda line: bar.advance(1))
    if as_json:
        output.show_json(found.document(detector))
    else:
        output.show(_table(found))
    for message in found.failed.values():
        typer.echo(message, err=True)
    if found.failed:
        typer.echo(f"{len(found.failed)} of {len(files)} images could not be read", err=True)
        raise typer.Exit(CompressError.exit_code)


def _table(found: Found) -> Table:
    """One row an image, and all together where there are several."""
    from rich.table import Table

    table = Table("Image", "Objects", "Classes")
    total: Counter[str] = Counter()
    for row in found.images:
        classes = Counter(str(each["name"]) for each in row["detections"])
        total += classes
        table.add_row(row["image"], *_counted(classes))
    if len(found.images) > 1:
        table.add_section()
        table.add_row(f"{len(found.images)} images", *_counted(total))
    return table


def _counted(classes: Counter[str]) -> tuple[str, str]:
    each = ", ".join(f"{count} {name}" for name, count in classes.most_common())
    return str(classes.total()), each
