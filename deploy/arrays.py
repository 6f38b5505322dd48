"""Names of the kinds of arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]  # (H, W, 3), RGB
    Floats = NDArray[np.float32]
    Indices = NDArray[np.int64]
    Flags = NDArray[np.bool_]
else:  # NumPy before 1.20, which boards have, knows no types of arrays
    Image = Floats = Indices = Flags = np.ndarray
