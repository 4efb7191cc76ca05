"""The only package that imports ComfyUI's internals; nodes import from it and from comfy_api."""
