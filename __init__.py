"""DynamiCrafter for ComfyUI: the file the host loads first.

A plain import, as tools do that find a Python file at the top of a checkout, does nothing at all.
"""

import importlib.util
import logging

HOST_IS_HERE = bool(__package__) and importlib.util.find_spec("comfy_api") is not None
"""Whether this folder was loaded as a package, and by a process in which ComfyUI can be imported."""

if HOST_IS_HERE:
    from .nodes import comfy_entrypoint as comfy_entrypoint

    WEB_DIRECTORY = "./web"
else:
    logging.getLogger(__name__).debug("ComfyUI is not importable here, so no nodes are offered")
