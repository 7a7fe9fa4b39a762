"""Pictures as arrays, for all that handles them without torch."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""One picture ``[H, W, 3]``, or ``[H, W, 4]`` where it has transparency, in 0..255."""
