"""Fetch what ultralytics offers, only when the user asks for it (``--download``)."""

from __future__ import annotations

from pathlib import Path

from compress.errors import CompressError


def fetch_weights(name: str, folder: Path) -> Path:
    """Download one of ultralytics' released checkpoints into ``folder``.

    Raises:
        CompressError: there is no such release, or it cannot be had.
    """
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

    if name not in GITHUB_ASSETS_NAMES:
        raise CompressError(f"'{name}' is not among the weights that ultralytics has released")
    try:
        file = Path(attempt_download_asset(str(folder / name)))
    except Exception as error:  # whatever the network or the disk raises
        raise _failed(name, error) from error
    if not file.is_file():
        raise _failed(name, "nothing arrived")
    return file


def fetch_dataset(yaml: Path) -> Path:
    """Download the images of a data yaml that ships with ultralytics; gives their folder.

    Such a yaml may run a script of its own, so never call this with a yaml of the user's.

    Raises:
        CompressError: they cannot be had.
    """
    from ultralytics.data.utils import check_det_dataset

    try:
        return Path(check_det_dataset(yaml, autodownload=True)["path"])
    except Exception as error:  # whatever the network, the disk or the yaml's script raises
        raise _failed(yaml.name, error) from error


def _failed(name: str, reason: object) -> CompressError:
    return CompressError(
        f"'{name}' could not be downloaded: {str(reason).rstrip('. ')}. "
        "Check the network, or fetch it elsewhere and copy it here"
    )
