"""Memory that a step has freed is kept for the next one, where the C library lets a program say so (glibc).

glibc gives large blocks back to the system as soon as they are freed. A network frees and asks for the same tensors at every
step, and each time the kernel has to map and clear their pages anew.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Names of mallopt(3)."""


def keep_freed_memory(most: int = 2**31 - 1, pad: int = 2**28) -> bool:
    """Keep up to ``most`` bytes of freed memory in this process, grown ``pad`` bytes at a time; False where it cannot be said."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError, OSError):
        return False
    return all([mallopt(M_MMAP_THRESHOLD, most), mallopt(M_TRIM_THRESHOLD, most), mallopt(M_TOP_PAD, pad)])
