"""Fit the preview colours of the built-in model again; its tensors stay as they are.

Usage, in the top folder, after ``dynamicrafter/model/preview.py`` has changed: ``python -m tools.fit_preview``
"""

from __future__ import annotations

from dynamicrafter.api import find_model
from dynamicrafter.model.variants import TINY
from dynamicrafter.toy.tiny import refit_preview

if __name__ == "__main__":
    refit_preview(find_model(TINY.name).weights)
