"""The pack as people get it, by git clone and from the registry's archive, in folders of any name."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from comfyui_host import Host
    from comfyui_server import Server

REPOSITORY = Path(__file__).resolve().parents[2]
NODES = {page.stem for page in (REPOSITORY / "web" / "docs").glob("*.md")}
TEMPLATES = sorted(path.stem for path in (REPOSITORY / "workflows").glob("*.json"))


@pytest.mark.parametrize(
    ("folder", "archive"),
    [("DynamiCrafter.Studio-main_2", False), ("dynamicrafter-studio", True)],
    ids=["clone", "archive"],
)
def test_a_copy_offers_nodes_templates_and_help(
    start_server: Callable[..., Server], tmp_path: Path, folder: str, archive: bool
) -> None:
    from comfyui_server import copy_pack

    server = start_server(copy_pack(REPOSITORY, tmp_path / folder, archive))
    assert "(IMPORT FAILED)" not in server.log()
    assert (server.pack_folder / "tests").exists() is not archive
    with server.client() as client:
        found = client.object_info()
        assert {name for name in found if found[name]["python_module"].startswith("custom_nodes")} == NODES
        assert sorted(client.get("/workflow_templates")[folder]) == TEMPLATES
        place = urllib.parse.quote(folder)
        for name in TEMPLATES:
            path = f"/api/workflow_templates/{place}/{urllib.parse.quote(name)}.json"
            assert client.get(path)["version"] == 0.4
        for name in NODES:
            page = client.get_bytes(f"/extensions/{place}/docs/{name}.md").decode("utf-8")
            assert "DynamiCrafter" in page.splitlines()[0]
    server.stop()


def test_the_log_of_an_older_host_says_what_is_too_old_above_the_failure(
    comfyui_host: Host, tmp_path: Path
) -> None:
    from comfyui_host import Host
    from comfyui_server import Server, copy_pack

    older = tmp_path / "ComfyUI"
    older.mkdir()
    for entry in comfyui_host.folder.iterdir():
        if entry.name != "comfyui_version.py":
            (older / entry.name).symlink_to(entry)
    (older / "comfyui_version.py").write_text('__version__ = "0.7.0"\n', encoding="utf-8")
    pack = copy_pack(REPOSITORY, tmp_path / "pack")
    with Server(Host(older, "0.7.0"), tmp_path / "base", pack) as server:
        reason, failed, _ = server.log().partition("(IMPORT FAILED)")
    assert failed
    assert "need ComfyUI 0.8.0 or newer, but this is ComfyUI 0.7.0; update ComfyUI" in reason


def test_importing_the_pack_loads_nothing_the_host_has_not(comfyui_host: Host, tmp_path: Path) -> None:
    """What takes long or reaches for the network is imported where it is used."""
    from comfyui_host import run_in_host

    script = tmp_path / "question.py"
    script.write_text(
        "import importlib.util, json, sys\n"
        "sys.argv[1:], (root, result) = ['--cpu'], sys.argv[1:]\n"
        "import comfy.options\n"
        "comfy.options.enable_args_parsing()\n"
        "import comfy.sd, comfy.samplers, comfy.controlnet\n"
        "import comfy_api.latest, comfy_execution.graph_utils, comfyui_version\n"
        "import folder_paths\n"
        "before = set(sys.modules)\n"
        "spec = importlib.util.spec_from_file_location('pack', root + '/__init__.py',"
        " submodule_search_locations=[root])\n"
        "sys.modules['pack'] = pack = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(pack)\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before} - {'pack'}\n"
        "with open(result, 'w') as file:\n"
        "    json.dump(sorted(new - set(sys.stdlib_module_names)), file)\n",
        encoding="utf-8",
    )
    result = tmp_path / "new.json"
    run_in_host(comfyui_host, script, str(REPOSITORY), str(result))
    new = json.loads(result.read_text(encoding="utf-8"))
    assert set(new) <= {"einops", "safetensors"}
