"""The files for a server: what they copy, run and read is there. Their syntax is checked by ``tools.check``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dynamicrafter.cli.parser import make_parser

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "compose.yaml").read_text(encoding="utf-8")
UNIT = (ROOT / "deploy" / "dynamicrafter.service").read_text(encoding="utf-8")


def instructions(name: str) -> list[str]:
    """What follows each instruction of the Dockerfile with this name."""
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)


def test_what_the_image_copies_is_there() -> None:
    sources = [source for line in instructions("COPY") for source in line.split()[:-1]]
    assert "dynamicrafter" in sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_torch_and_torchvision_come_from_one_index() -> None:
    (pattern,) = re.findall(r"grep --extended-regexp '(.+)' constraints.txt", DOCKERFILE)
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line.partition("==")[0] for line in constraints if re.match(pattern, line)] == [
        "torch",
        "torchvision",
    ]


def test_the_container_serves_without_the_rights_of_root() -> None:
    assert instructions("ENTRYPOINT") == ['["dynamicrafter"]']
    (command,) = instructions("CMD")
    given = make_parser("0").parse_args(json.loads(command))
    assert (given.command, given.host, str(given.results)) == ("serve", "0.0.0.0", "/results")
    assert instructions("USER") == ["1000"] and "--uid 1000 studio" in DOCKERFILE
    (volumes,) = instructions("VOLUME")
    assert set(json.loads(volumes)) == set(
        re.findall(r"\w+:(/\w+)", re.findall(r"volumes: \[(.+)\]", COMPOSE)[0])
    )


def test_the_health_check_asks_the_page_where_it_listens() -> None:
    (port,) = instructions("EXPOSE")
    assert make_parser("0").parse_args(["serve"]).port == int(port)
    assert f"http://127.0.0.1:{port}/health" in DOCKERFILE
    assert f'ports: ["127.0.0.1:{port}:{port}"]' in COMPOSE


@pytest.mark.parametrize("name", ["DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes"])
def test_the_unit_serves_in_a_sandbox(name: str) -> None:
    (command,) = re.findall(r"^ExecStart=\S+/dynamicrafter (.+)$", UNIT, re.MULTILINE)
    assert make_parser("0").parse_args(command.split()).command == "serve"
    assert name in UNIT.splitlines()
