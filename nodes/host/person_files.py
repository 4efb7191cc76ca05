"""Where models of AnimateAnyone are: a file with all of one, or a folder with the original's files."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePath

import folder_paths

from ...dynamicrafter.animate_anyone.weights import BUILT_IN_FILE
from ...dynamicrafter.weights.formats.files import SUFFIXES
from .files import KINDS, checkpoint_path

BUILT_IN = "tiny_person (built in)"
"""The built-in model's name in the list."""
_SIGN = "denoising_unet"
"""What the name of a file begins with by which a folder with the original's files is known."""
_TELLING = ("person", "anyone")


def list_people() -> list[str]:
    """The built-in model, then folders with the original's files, whose names end in "/", then all files.

    A file with a telling name comes before others; only its contents tell whether it is a model of AnimateAnyone.
    """
    names: list[str] = []
    for kind in KINDS:
        names += [name for name in folder_paths.get_filename_list(kind) if name not in names]
    folders = {
        PurePath(name).parent.as_posix() for name in names if PurePath(name).name.startswith(_SIGN)
    } - {"."}
    # The files in such a folder are parts of one model.
    names = [name for name in names if not any(PurePath(name).is_relative_to(one) for one in folders)]
    names.sort(key=lambda name: not any(word in name.lower() for word in _TELLING))
    return [BUILT_IN, *(f"{folder}/" for folder in sorted(folders)), *names]


def person_path(name: str) -> Path:
    """The file or folder of a name from :func:`list_people`; raises FileNotFoundError if it no longer exists."""
    if name == BUILT_IN:
        return BUILT_IN_FILE
    if not name.endswith("/"):
        return checkpoint_path(name)
    for kind in KINDS:
        for root in folder_paths.get_folder_paths(kind):
            # A folder of the same name may be in another place.
            if any((Path(root) / name).glob(f"{_SIGN}*")):
                return Path(root) / name
    raise FileNotFoundError(f"the folder {name} no longer exists; press R to reload the list of files")


def fingerprint_person(name: str) -> str:
    """Changes when a file of a model does; a hash, because the host stores it in the files that it saves."""
    path = person_path(name)
    inside = (one for one in path.rglob("*") if one.suffix in SUFFIXES)
    seen = [
        (str(one), one.stat().st_size, one.stat().st_mtime_ns)
        for one in (sorted(inside) if path.is_dir() else [path])
    ]
    return hashlib.sha256(str(seen).encode("utf-8", "replace")).hexdigest()
