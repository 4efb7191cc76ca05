"""Named profiles of language models: an address, a model, and the key that belongs to that address and no other.

They are in ``language_models.toml`` in the user's folder for settings, a table for each::

    [gemini]
    url = "https://generativelanguage.googleapis.com/v1beta/openai"
    model = "gemini-flash-latest"
    key_variable = "GEMINI_API_KEY"
    pictures = true

A key is never part of a workflow, a clip, a log or an error: what names a language model elsewhere is a profile's name.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import urllib.parse
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from ..atomic import replacing
from ..errors import UsageError
from ..forms import shortened
from ..toml_text import parse_toml
from ..user_folders import settings_folder

VARIABLE = "DYNAMICRAFTER_LANGUAGE_MODELS"
"""The environment variable with the path of the file, where it is another."""
_BYTES = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Profile:
    """A language model behind an address that speaks OpenAI's chat completions. Shown without its key."""

    name: str
    """Letters, digits, hyphens and underscores."""
    url: str
    """The address that ``/chat/completions`` is appended to."""
    model: str
    """As the server names it."""
    key: str = field(default="", repr=False)
    key_variable: str = ""
    """The environment variable with the key, instead of ``key``."""
    proxy: str = ""
    """The address of an HTTP proxy; those of the environment are not used."""
    pictures: bool = False
    """Whether the person agreed that pictures are sent to this host. Needless for this machine."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def host(self) -> str:
        """The host's name and, if it is given, the port."""
        parts = urllib.parse.urlsplit(self.url)
        return parts.netloc

    @property
    def is_local(self) -> bool:
        """Whether requests stay on this machine: the address and the proxy, if any, are its own."""
        addresses = (self.url, *([self.proxy] if self.proxy else []))
        return all(urllib.parse.urlsplit(address).hostname in _LOCAL for address in addresses)

    def secret(self) -> str:
        """The key, empty if there is none. Raises UsageError if the environment variable is not set."""
        if not self.key_variable:
            return self.key
        key = os.environ.get(self.key_variable, "")
        if not key:
            raise UsageError(
                f"profile {self.name} takes its key from the environment variable {self.key_variable}, which is not "
                f"set; set it to the key"
            )
        return key


def _check(profile: Profile) -> None:
    if not _NAME.fullmatch(profile.name):
        raise UsageError(
            f"{shortened(profile.name)!r} is not a profile's name; use letters, digits, hyphens and underscores"
        )
    if not profile.model:
        raise UsageError(
            f"profile {profile.name} names no model; add the name under which the server knows it"
        )
    if profile.key and profile.key_variable:
        raise UsageError(f"profile {profile.name} has both a key and a key_variable; keep only one")
    for what, address in (("url", profile.url), ("proxy", profile.proxy)):
        if (what == "url" or address) and not _is_address(address):
            raise UsageError(
                f"{what} of profile {profile.name} is {shortened(address)!r}, which is not an address; use one such as "
                f"https://api.example.com/v1, without a user's name, a question mark or a hash"
            )
    encrypted = profile.url.startswith("https:")
    if (profile.key or profile.key_variable) and not (encrypted or profile.is_local):
        raise UsageError(
            f"profile {profile.name} would send its key to {profile.host} unencrypted; use an https:// address"
        )


def _is_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return known and url.isascii() and url.isprintable() and not any(sign in url for sign in "?#@ \\")


def profiles_file() -> Path:
    """Where profiles are: :data:`VARIABLE`, else ``language_models.toml`` in the user's folder for settings."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen).expanduser() if chosen else settings_folder(sys.platform) / "language_models.toml"


def read_profiles() -> dict[str, Profile]:
    """All profiles by name; none if there is no file.

    Raises UsageError for a file that others may read although there is a key in it, and for an invalid one; the
    message contains no key.
    """
    place = profiles_file()
    try:
        with place.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > _BYTES:
                raise UsageError(f"{place} is not a file of profiles; move it away")
            table = parse_toml(file.read(_BYTES).decode("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as problem:
        raise UsageError(
            f"{place} could not be read ({problem.strerror}); check its permissions"
        ) from problem
    except ValueError:
        # What the parser says may quote a line, and that line may be a key.
        raise UsageError(f"{place} is not a valid TOML file; correct it") from None
    profiles = {name: _profile(name, values, place) for name, values in table.items()}
    if os.name == "posix" and status.st_mode & 0o077 and any(profile.key for profile in profiles.values()):
        raise UsageError(f"{place} contains a key but others may read it; run chmod 600 on it")
    return profiles


def _profile(name: str, values: object, place: Path) -> Profile:
    kinds = {
        one.name: bool if one.name == "pictures" else str for one in fields(Profile) if one.name != "name"
    }
    if not isinstance(values, dict):
        raise UsageError(
            f"{shortened(name)} in {place} is not a table; write its settings below [{shortened(name)}]"
        )
    table = cast(dict[str, Any], values)
    for key, value in table.items():
        if key not in kinds:
            raise UsageError(
                f"profile {shortened(name)} in {place} has an unknown setting {shortened(key)}; use "
                f"{', '.join(kinds)}"
            )
        if not isinstance(value, kinds[key]):
            wanted = "true or false" if kinds[key] is bool else "a string"
            raise UsageError(f"{key} of profile {shortened(name)} in {place} is not {wanted}; correct it")
    known: dict[str, Any] = {"url": "", "model": ""} | table
    return Profile(name, **known)


def find_profile(name: str) -> Profile:
    """The profile of this name; raises UsageError naming those that exist."""
    profiles = read_profiles()
    if name in profiles:
        return profiles[name]
    known = ", ".join(profiles) or "none"
    raise UsageError(
        f"there is no profile {shortened(name)} of a language model (there are: {known}); add it with "
        f"`dynamicrafter language-model add`"
    )


def write_profile(profile: Profile) -> Path:
    """Add or replace a profile; nobody else may read the file. Raises UsageError if it cannot be written."""
    return _write({**read_profiles(), profile.name: profile})


def remove_profile(name: str) -> Path:
    """Remove a profile and its key; raises UsageError if there is none of this name."""
    find_profile(name)
    return _write({key: profile for key, profile in read_profiles().items() if key != name})


def agree_to_pictures(name: str) -> Profile:
    """Remember that pictures may be sent to a profile's host."""
    profile = replace(find_profile(name), pictures=True)
    write_profile(profile)
    return profile


def _write(profiles: dict[str, Profile]) -> Path:
    place = profiles_file()
    lines: list[str] = []
    for name, profile in profiles.items():
        lines.append(f"[{name}]")
        for one in fields(profile):
            value = getattr(profile, one.name)
            if one.name != "name" and value:
                # A JSON string is a TOML string as well.
                lines.append(f"{one.name} = {json.dumps(value, ensure_ascii=False)}")
        lines.append("")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as part:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write("\n".join(lines))
    except OSError as problem:
        raise UsageError(
            f"{place} could not be written ({problem.strerror or problem}); free some space or check its permissions"
        ) from problem
    return place
