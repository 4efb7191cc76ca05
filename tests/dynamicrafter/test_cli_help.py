"""The help of every command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any, cast

import pytest

from dynamicrafter.cli.parser import make_parser


def commands(parser: Any = None, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its parser, those inside another included."""
    parser = parser or make_parser("0")
    for action in parser._actions:
        if action.dest in ("command", "subject", "action"):
            for word, inner in cast(dict[str, Any], action.choices).items():
                yield f"{name} {word}".strip(), inner
                yield from commands(inner, f"{name} {word}".strip())


ALL = dict(commands())


def test_there_are_commands() -> None:
    assert {"animate", "again", "evaluate", "evaluate toy", "doctor"} <= ALL.keys()


@pytest.mark.parametrize("name", ALL)
def test_help_has_a_line_and_two_examples_that_can_be_parsed(name: str) -> None:
    parser = ALL[name]
    assert re.fullmatch(r"[A-Z][^\n]{10,110}\.", parser.description)
    title, *examples = parser.epilog.splitlines()
    assert title == "examples:"
    assert len(examples) == 2
    for example in examples:
        program, *words = shlex.split(example.partition(" > ")[0])
        assert program == "dynamicrafter"
        assert " ".join(words).startswith(name)
        make_parser("0").parse_args(words)


@pytest.mark.parametrize("name", ALL)
def test_every_option_has_a_help_and_those_of_all_commands_come_last(name: str) -> None:
    parser = ALL[name]
    options = [action for action in parser._actions if action.option_strings]
    assert all(action.help for action in options)
    if not any(other.startswith(f"{name} ") for other in ALL):
        group = parser._action_groups[-1]
        assert group.title == "general"
        assert {"-q", "--quiet", "--json", "--debug"} <= {
            word for action in group._group_actions for word in action.option_strings
        }
