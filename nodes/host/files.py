"""Where weights are: the host's folders, our own, and those of earlier packs."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePath

import folder_paths

from ...dynamicrafter.api import RANDOM, exported_files, find_model, provide
from ...dynamicrafter.backends.openvino.manifest import MANIFEST
from ...dynamicrafter.model.variants import TINY
from ...dynamicrafter.weights.catalogue import TOWERS, find
from ...dynamicrafter.weights.formats.files import SUFFIXES

OWN_FOLDER = "dynamicrafter"
"""Our kind of model folder; extra_model_paths.yaml may add paths to it."""
_EARLIER_FOLDER = "dynamicrafter_models"
"""Where an earlier native pack keeps its files."""
KINDS = (OWN_FOLDER, "checkpoints", "diffusion_models")
_ENCODER_KINDS = ("text_encoders", "clip_vision", *KINDS)

BUILT_IN = {"tiny (built in)": TINY.name, "random (built in)": RANDOM}
"""Models that ship with the pack, by their name in the list."""


EXPORTED = " (OpenVINO)"
"""How the name of a checkpoint ends whose export is to run."""


def register_folders() -> None:
    """Register our model folders with the host, keeping the paths that its configuration added."""
    models = Path(folder_paths.models_dir)
    known = folder_paths.folder_names_and_paths
    paths = list(known[OWN_FOLDER][0]) if OWN_FOLDER in known else []
    for path in (str(models / OWN_FOLDER), str(models / _EARLIER_FOLDER)):
        if path not in paths:
            paths.append(path)
    known[OWN_FOLDER] = (paths, set(SUFFIXES))


def list_checkpoints() -> list[str]:
    """Built-in models, then all files that may be checkpoints; those with a telling name come first.

    Those in the weights folder's exports for OpenVINO are there once more, with :data:`EXPORTED` after the name.
    """
    names: list[str] = []
    for kind in KINDS:
        names += [name for name in folder_paths.get_filename_list(kind) if name not in names]
    telling = ("dynami", "dynacrafter", "tooncrafter")
    names.sort(key=lambda name: not any(word in name.lower() for word in telling))
    every = [*BUILT_IN, *names]
    exported = exported_files()
    return every + [name + EXPORTED for name in every if _file_name(name) in exported]


def _file_name(name: str) -> str:
    return find_model(BUILT_IN[name]).weights.name if name in BUILT_IN else PurePath(name).name


def checkpoint_path(name: str) -> Path:
    """The file of a name from :func:`list_checkpoints`; raises FileNotFoundError if it no longer exists."""
    name = name.removesuffix(EXPORTED)
    if name in BUILT_IN:
        return provide(find_model(BUILT_IN[name])).weights
    for kind in KINDS:
        path = folder_paths.get_full_path(kind, name)
        if path is not None:
            return Path(path)
    raise FileNotFoundError(f"the weights file {name} no longer exists; press R to reload the list of files")


def encoders_path() -> Path | None:
    """The released file with both CLIP encoders in any of the folders that may contain it, or None."""
    wanted = find(TOWERS).saved_as
    for kind in _ENCODER_KINDS:
        for name in folder_paths.get_filename_list(kind):
            if PurePath(name).name == wanted:
                path = folder_paths.get_full_path(kind, name)
                # A link to a file that is gone is listed too.
                if path is not None:
                    return Path(path)
    return None


def fingerprint(name: str) -> str:
    """Changes when the file of a name does, its export, or the file with the encoders that a pruned one needs.

    It is a hash, because the host stores it in the files that it saves.
    """
    encoders = None if name.removesuffix(EXPORTED) in BUILT_IN else encoders_path()
    seen: list[tuple[str, int, int]] = []
    export = (
        exported_files().get(_file_name(name.removesuffix(EXPORTED))) if name.endswith(EXPORTED) else None
    )
    for path in (checkpoint_path(name), encoders, None if export is None else export / MANIFEST):
        if path is not None:
            status = path.stat()
            seen.append((str(path), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(str(seen).encode("utf-8", "replace")).hexdigest()
