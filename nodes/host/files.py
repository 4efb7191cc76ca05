"""Where weights lie: the host's folders, our own, and those of earlier packs."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...dynamicrafter.api import RANDOM, find_model, provide
from ...dynamicrafter.model.variants import TINY
from ...dynamicrafter.weights.formats.files import SUFFIXES

OWN_FOLDER = "dynamicrafter"
"""Our kind of model folder; extra_model_paths.yaml may add places to it."""
_EARLIER_FOLDER = "dynamicrafter_models"
"""Where an earlier native pack keeps its files."""
_KINDS = (OWN_FOLDER, "checkpoints", "diffusion_models")

BUILT_IN = {"tiny (built in)": TINY.name, "random (built in)": RANDOM}
"""Models that come with the pack, by the name in the list."""


def register_folders() -> None:
    """Make our model folders known to the host, keeping what its configuration already put there."""
    models = Path(folder_paths.models_dir)
    known = folder_paths.folder_names_and_paths
    paths = list(known[OWN_FOLDER][0]) if OWN_FOLDER in known else []
    for path in (str(models / OWN_FOLDER), str(models / _EARLIER_FOLDER)):
        if path not in paths:
            paths.append(path)
    known[OWN_FOLDER] = (paths, set(SUFFIXES))


def list_checkpoints() -> list[str]:
    """Built-in models, then all files that may be checkpoints; those that say so in their name come first."""
    names: list[str] = []
    for kind in _KINDS:
        names += [name for name in folder_paths.get_filename_list(kind) if name not in names]
    telling = ("dynami", "dynacrafter", "tooncrafter")
    names.sort(key=lambda name: not any(word in name.lower() for word in telling))
    return [*BUILT_IN, *names]


def checkpoint_path(name: str) -> Path:
    """The file behind a name of :func:`list_checkpoints`; raises FileNotFoundError when it is gone."""
    if name in BUILT_IN:
        return provide(find_model(BUILT_IN[name])).weights
    for kind in _KINDS:
        path = folder_paths.get_full_path(kind, name)
        if path is not None:
            return Path(path)
    raise FileNotFoundError(f"there is no weights file {name} any more; press R to read the folders again")


def fingerprint(name: str) -> str:
    """Changes when the file behind a name does."""
    path = checkpoint_path(name)
    status = path.stat()
    return f"{path}|{status.st_size}|{status.st_mtime_ns}"
