"""C's allocator, told to keep memory. No torch here: `varmini --help` goes through it."""

import ctypes
import platform


def keep_memory() -> bool:
    """Lets this process keep freed memory for the next step: blocks of up to 64 MiB, 1 GiB in all.

    By default large blocks go back to the system at once, and the next step waits for it to hand
    them out again, page by page, filled with zeros (data/bench/forms.csv). Larger blocks still go
    back, as fragments of those would take too much. For a process of our own, such as a command's.

    Returns:
        Whether it took: it does where the C library is glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_threshold = -1, -3  # names in malloc.h
    # In this order: where an old glibc refuses the one, the other alone would do harm.
    return bool(set_option(mmap_threshold, 2**26) and set_option(trim_threshold, 2**30))
