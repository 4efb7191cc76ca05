"""Make everything that is made from the nodes and the models: tables, translations, templates, cards.

Usage, in the top folder, with what the tests of the node pack need: ``python -m tools.make_all``. It starts a ComfyUI
of its own, the same one as the tests, and stops it at the end.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path

from . import (
    make_locales,
    make_parameter_table,
    make_preset_tables,
    make_templates,
    make_thumbnails,
    make_training_table,
)

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Make all of it, one after the other."""
    make_preset_tables.main()
    make_parameter_table.main()
    make_training_table.main()
    # The tests' own server; their folder is no package.
    sys.path.insert(0, str(ROOT / "tests" / "comfyui"))
    host = importlib.import_module("comfyui_host")
    server = importlib.import_module("comfyui_server")
    # Networks this small gain nothing from more threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "comfyui").mkdir()
        pack = server.copy_pack(ROOT, folder / "dynamicrafter-studio")
        with server.Server(host.find_host(), folder / "comfyui", pack) as running:
            make_locales.main(running.url)
            make_templates.main(running.url)
            make_thumbnails.main(running.url)


if __name__ == "__main__":
    main()
