"""What the C library does with memory that was given back.

A merge asks for the same few buffers thousands of times. glibc returns large ones to the
kernel each time, which clears their pages again before the next use: that can cost more
than the arithmetic. Here it is told to keep some; other C libraries are left as they are.
"""

import ctypes
from typing import Final

# The names and numbers of <malloc.h>.
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3

KEPT_BYTES: Final = 2**27
LARGEST_KEPT: Final = 2**25
"""glibc takes no larger one."""


def keep_freed_buffers() -> bool:
    """Let buffers up to 32 MiB be reused, and up to 128 MiB be kept; for this process.

    Returns:
        Whether the C library could be told.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
    return bool(kept and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
