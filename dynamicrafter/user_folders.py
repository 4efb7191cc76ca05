"""The folder for a user's settings."""

from __future__ import annotations

import os
from pathlib import Path


def settings_folder(platform: str) -> Path:
    """This program's folder for settings on ``platform``, as in ``sys.platform``; it need not exist.

    It is ``dynamicrafter`` in ``%APPDATA%`` on Windows, in ``~/Library/Application Support`` on macOS, and in
    ``XDG_CONFIG_HOME`` or ``~/.config`` elsewhere.
    """
    return _folder_of_settings(platform) / "dynamicrafter"


def _folder_of_settings(platform: str) -> Path:
    if platform == "win32":
        folder = os.environ.get("APPDATA")
        return Path(folder) if folder else Path.home() / "AppData" / "Roaming"
    if platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    folder = os.environ.get("XDG_CONFIG_HOME")
    return Path(folder) if folder else Path.home() / ".config"
