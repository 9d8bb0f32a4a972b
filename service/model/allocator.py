"""The C library's allocator, set for a process that allocates and frees megabytes at every forward."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
MMAP_THRESHOLD = 32 << 20  # the most that glibc takes
TRIM_THRESHOLD = 512 << 20


def tune_allocator() -> bool:
    """Keep freed blocks for the next forward; true if the C library took it.

    Called once the model is loaded: what loading freed is given back first, since later nothing would be.

    By default glibc maps each block above 128 KiB (a bound that it raises by and by) anew and gives it back when it is
    freed, and every forward then pays for the page faults. `MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_` in
    the environment would do the same, but only if whoever starts the process knows. See mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        mallopt, trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):  # another C library, musl for one
        return False
    trim(0)
    return bool(mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)) and bool(mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD))
