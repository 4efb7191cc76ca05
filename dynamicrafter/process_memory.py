"""The memory of this process and of the machine, as the operating system counts it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


def peak_resident() -> int:
    """Bytes of main memory that this process has occupied at its peak so far."""
    if sys.platform == "win32":
        return _peak_on_windows()
    if sys.platform == "linux":
        # Not getrusage: on Linux it also counts the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    import resource

    # macOS counts in bytes, all others in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def limited_memory(more: int) -> Generator[None]:
    """Inside, this process can get at most ``more`` bytes of address space; what asks for more raises MemoryError.

    Only Linux enforces such a limit; elsewhere there is none.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    found = re.search(r"^VmSize:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = more + (int(found[1]) * 1024 if found is not None else 0)
    lower = [limit for limit in (before, most, wanted) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(lower), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


def free_memory() -> int:
    """Bytes of main memory that programs could still use; on macOS all that there is, because it does not say."""
    if sys.platform == "win32":
        return _memory_on_windows()[2]
    if sys.platform == "linux":
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    return main_memory()


def main_memory() -> int:
    """The machine's memory in bytes."""
    if sys.platform == "win32":
        return _memory_on_windows()[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _memory_on_windows() -> list[int]:
    assert sys.platform == "win32"
    import ctypes

    # MEMORYSTATUSEX: 64 bytes, its own length in the first four; then in 8 bytes each all memory and what is free.
    status = (ctypes.c_ulonglong * 8)(64)
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return list(status)


def _peak_on_windows() -> int:
    assert sys.platform == "win32"
    import ctypes

    # PROCESS_MEMORY_COUNTERS: its own length and the page faults, 4 bytes each, then the peak in a size_t.
    counters = (ctypes.c_size_t * 9)(ctypes.sizeof(ctypes.c_size_t) * 9)
    itself = ctypes.c_void_p(-1)
    ctypes.windll.kernel32.K32GetProcessMemoryInfo(itself, counters, ctypes.sizeof(counters))
    return counters[1]
