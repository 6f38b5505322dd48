"""What a user can get wrong with a bundle."""

from __future__ import annotations


class DeployError(Exception):
    """A fault that the user can mend. ``exit_code`` is what a command line exits with."""

    exit_code = 2
