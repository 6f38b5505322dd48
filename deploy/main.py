"""The command line of a bundle: ``python detect.py IMAGE_OR_FOLDER``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.detector import Detector
from deploy.errors import DeployError
from deploy.files import detect_files
from deploy.images import find_images
from deploy.manifest import read_bundle


def main(folder: Path, arguments: Sequence[str] | None = None) -> int:
    """Run the bundle in ``folder`` as the arguments (of the process) say; gives the exit code.

    0: all images were read; 2: one was not, or something else is wrong.
    """
    options = _parser().parse_args(arguments)
    try:
        detector = Detector(read_bundle(folder), options.score, options.iou)
        files = find_images(options.source)
        # the document alone goes to stdout
        stream = sys.stderr if options.json else sys.stdout
        found = detect_files(detector, files, options.out, lambda line: print(line, file=stream))
    except DeployError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json.dumps(found.document(detector)))
    return DeployError.exit_code if found.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Find objects in images.")
    parser.add_argument(
        "source", type=Path, help="an image (.npy, .ppm, .bmp, .jpg ...) or a folder"
    )
    parser.add_argument("--out", type=Path, help="folder for drawn copies")
    parser.add_argument("--score", type=float, help="least score [default: the bundle's]")
    parser.add_argument("--iou", type=float, help="overlap limit [default: the bundle's]")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser
