"""Where a file that a recipe names may be, and what to say when it is nowhere."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from compress.errors import CompressError


def places(reference: str, recipe_folder: Path) -> list[Path]:
    """Where ``reference`` may be: an absolute path there, others from here or from the recipe."""
    path = Path(reference).expanduser()
    return list(dict.fromkeys((Path.cwd() / path, recipe_folder.absolute() / path)))


def first_file(candidates: Iterable[Path]) -> Path | None:
    """The first of ``candidates`` that is a file."""
    return next((place for place in candidates if _mode(place, stat.S_ISREG)), None)


def first_folder(candidates: Iterable[Path]) -> Path | None:
    """The first of ``candidates`` that is a folder."""
    return next((place for place in candidates if _mode(place, stat.S_ISDIR)), None)


def _mode(place: Path, check: Callable[[int], bool]) -> bool:
    try:
        return check(place.stat().st_mode)
    except (OSError, ValueError):  # also what the system cannot have as a name at all
        return False


def is_bare(reference: str) -> bool:
    """Whether ``reference`` is a name without a folder."""
    return Path(reference).name == reference


def missing(what: str, looked: Sequence[Path], remedy: str) -> CompressError:
    """What is missing, every place where it was looked for, and how to go on."""
    lines = "".join(f"\n  {place}" for place in looked)
    stop = "" if what.endswith("?") else "."
    return CompressError(f"{what}{stop} Looked for:{lines}\nTwo ways on: {remedy}.")


def read_yaml(file: Path) -> tuple[str, dict[str, Any]]:
    """The text and the mapping of a yaml that a recipe names.

    Raises:
        CompressError: it cannot be read, or holds no mapping.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        values = yaml.safe_load(text)
    except OSError as error:
        raise CompressError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CompressError(f"{file}: not UTF-8 text (byte {error.start})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise CompressError(f"{file}{place}: not valid YAML: {problem}") from error
    if not isinstance(values, dict):
        raise CompressError(f"{file}: expected `key: value` lines, found none")
    return text, values
