"""The translations beside the words a real host gives for our nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tools.make_locales import FOLDER, rendered

if TYPE_CHECKING:
    from comfyui_client import Client
    from comfyui_server import Server

HELP = Path(__file__).resolve().parents[2] / "web" / "docs"


def test_the_files_say_what_the_schemas_say(client: Client) -> None:
    """An English file overrides what the Python code says, so an old one would hide every change."""
    made = rendered(client.object_info())
    again = "python -m tools.make_locales URL"
    assert sorted(made) == sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("*/*.json"))
    for name, text in made.items():
        assert json.loads((FOLDER / name).read_text(encoding="utf-8")) == json.loads(text), again
        assert (FOLDER / name).read_text(encoding="utf-8") == text, again


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_host_serves_them(client: Client, language: str) -> None:
    served = client.get("/i18n")[language]["nodeDefs"]
    ours = json.loads((FOLDER / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert {name: served[name] for name in ours} == ours


def test_the_host_serves_the_chinese_help_pages(client: Client, pack_server: Server) -> None:
    """Where the editor looks for the page of a language."""
    pages = sorted(HELP.glob("*/zh.md"))
    assert pages
    for page in pages:
        address = f"/extensions/{pack_server.pack_name}/docs/{page.parent.name}/zh.md"
        assert client.get_bytes(address) == page.read_bytes()
