"""Start ComfyUI's `main.py` in this process, and end when the process that started this one is gone.

So no server outlives its tests, however these end (killed, power button of an editor, closed terminal).
Usage: `python comfyui_launch.py PARENT_PID MAIN_PY [ARGUMENT ...]`.
"""

import os
import runpy
import sys
import threading
import time
from pathlib import Path

import psutil


def end_with(parent: psutil.Process) -> None:
    """Return never; end this process within a second of the end of `parent`."""
    # Asked for by pid and start time, since not every system tells a child of its parent's end.
    while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.5)
    os._exit(1)


def watch(parent: psutil.Process) -> None:
    """`end_with`, also when the parent disappears between two questions about it."""
    try:
        end_with(parent)
    except psutil.Error:
        os._exit(1)


if __name__ == "__main__":
    main = Path(sys.argv[2])
    threading.Thread(target=watch, args=(psutil.Process(int(sys.argv[1])),), daemon=True).start()
    sys.argv = sys.argv[2:]
    sys.path[0] = str(main.parent)
    runpy.run_path(str(main), run_name="__main__")
