"""The lines by which a worker on a board is heard, among whatever its libraries print."""

from __future__ import annotations

PROGRESS = "@progress "  # and new percent points
FAULT = "@fault "  # and a JSON document: error, exit_code
