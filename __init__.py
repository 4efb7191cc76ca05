"""DynamiCrafter for ComfyUI: the file the host loads first.

A plain import, as tools do that find a Python file at the top of a checkout, does nothing at all.
"""

import importlib
import importlib.util
import logging
import re

OLDEST_HOST = "0.8.0"
"""The oldest ComfyUI that has everything our nodes ask of its inputs."""
HOST_IS_HERE = bool(__package__) and importlib.util.find_spec("comfy_api") is not None
"""Whether this folder was loaded as a package, and by a process in which ComfyUI can be imported."""


def require_host(version: str) -> None:
    """Raise ImportError if ``version`` of ComfyUI is older than the oldest that works.

    A version that is not three numbers, as forks may have, says nothing and is accepted.
    """
    found, oldest = (re.match(r"(\d+)\.(\d+)\.(\d+)", text) for text in (version, OLDEST_HOST))
    if found and oldest and [*map(int, found.groups())] < [*map(int, oldest.groups())]:
        raise ImportError(
            f"the DynamiCrafter nodes need ComfyUI {OLDEST_HOST} or newer, but this is ComfyUI {version}; update "
            f"ComfyUI"
        )


if HOST_IS_HERE:
    if importlib.util.find_spec("comfyui_version") is not None:
        require_host(importlib.import_module("comfyui_version").__version__)

    from .nodes import comfy_entrypoint as comfy_entrypoint

    WEB_DIRECTORY = "./web"
else:
    logging.getLogger(__name__).debug("ComfyUI is not importable here, so no nodes are offered")
