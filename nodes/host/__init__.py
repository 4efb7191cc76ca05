"""The only door to ComfyUI's inner modules; nodes import from here and from comfy_api."""
