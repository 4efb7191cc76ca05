"""The peak of this process's resident memory, as the operating system counts it."""

from __future__ import annotations

import re
import sys
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


def _peak_on_windows() -> int:
    assert sys.platform == "win32"
    import ctypes

    # PROCESS_MEMORY_COUNTERS: its own length and the page faults, 4 bytes each, then the peak in a size_t.
    counters = (ctypes.c_size_t * 9)(ctypes.sizeof(ctypes.c_size_t) * 9)
    itself = ctypes.c_void_p(-1)
    ctypes.windll.kernel32.K32GetProcessMemoryInfo(itself, counters, ctypes.sizeof(counters))
    return counters[1]
