"""The one-node start asks for a variant only where neither the weights nor what is wanted of them tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from comfyui_host import Host

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def told(comfyui_host: Host) -> dict[str, str]:
    from comfyui_host import run_in_host

    script = Path(__file__).with_name("variant_in_host.py")
    return json.loads(run_in_host(comfyui_host, script, str(REPOSITORY)).splitlines()[-1])


@pytest.mark.parametrize(
    ("case", "variant"),
    [
        ("512 animate", "512_v1"),
        ("512 interpolate", "512_interp_v1"),
        ("512 loop", "512_interp_v1"),
        ("pruned loop", "512_interp_v1"),
    ],
)
def test_what_is_wanted_tells_where_the_weights_cannot(told: dict[str, str], case: str, variant: str) -> None:
    assert told[case] == variant


@pytest.mark.parametrize("case", ["alone", "1024 loop", "nothing"])
def test_the_loader_decides_where_it_can_or_where_nothing_fits(told: dict[str, str], case: str) -> None:
    assert told[case] == "auto"


def test_the_choices_are_named_where_nothing_tells(told: dict[str, str]) -> None:
    message = told["pruned animate"]
    assert message.startswith("error: ") and "choose it in the variant input" in message
    assert "512_v1" in message and "1024_v1" in message and "512_interp_v1" not in message
