"""The command that prints a script for completing words in a shell: completion."""

from __future__ import annotations

from argparse import PARSER, Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..model.variants import VARIANTS
from ..weights.catalogue import ALL_RELEASES
from .parser import make_parser

_BUILT_IN = ("tiny", "random")
_MODELS = (*_BUILT_IN, *(release.name for release in ALL_RELEASES))
_KNOWN = {
    "model": _MODELS,
    "between_model": _MODELS,
    "names": _MODELS,
    "a": _MODELS,
    "b": _MODELS,
    "variant": tuple(VARIANTS),
    "device": ("auto", "cpu", "cuda", "mps"),
    "backend": ("torch", "openvino", "openvino:CPU", "openvino:GPU", "openvino:NPU"),
}
"""Words for options and arguments whose other values, such as paths, are not listed."""


@dataclass(frozen=True)
class _Command:
    """What may follow a command; the names of the program itself and of its commands are one string."""

    name: str
    words: tuple[tuple[str, str], ...]
    """Subcommands and options, each with its help."""
    values: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    """The names of options that take a value, and the values that are known."""
    arguments: tuple[str, ...]
    """Known words for its arguments."""


def run(given: Namespace) -> dict[str, str]:
    """Run ``completion`` and return what ``--json`` prints."""
    script = _fish() if given.shell == "fish" else _bash(given.shell == "zsh")
    if not given.json:
        print(script, end="")
    return {"shell": given.shell, "script": script}


def _commands(parser: Any, name: str = "") -> Iterator[_Command]:
    """The program, its commands and their subcommands."""
    words: list[tuple[str, str]] = []
    values: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    arguments: tuple[str, ...] = ()
    inner: list[_Command] = []
    expanded = parser._get_formatter()._expand_help
    for action in parser._actions:
        known = _KNOWN.get(action.dest, ())
        if action.nargs == PARSER:
            for choice in action._choices_actions:
                words.append((choice.dest, expanded(choice)))
                inner += _commands(action.choices[choice.dest], f"{name} {choice.dest}".strip())
        elif not action.option_strings:
            arguments += tuple(action.choices or known)
        else:
            words += ((option, expanded(action)) for option in action.option_strings)
            if action.nargs != 0:
                values.append((tuple(action.option_strings), tuple(action.choices or known)))
    yield _Command(name, tuple(words), tuple(values), arguments)
    yield from inner


def _bash(zsh: bool) -> str:
    """A script for bash, or for zsh, which has the same functions after ``bashcompinit``."""
    enter: list[str] = []
    value: list[str] = []
    other: list[str] = []
    for command in _commands(make_parser("")):
        if command.name:
            outer, _, last = command.name.rpartition(" ")
            enter.append(f'            "{outer} {last}") command="{command.name}" ;;')
        for names, known in command.values:
            pattern = "|".join(f'"{command.name} {name}"' for name in names)
            value.append(f'        {pattern}) words="{" ".join(known)}" ;;')
        options = [word for word, _ in command.words if word.startswith("-")]
        words = [word for word, _ in command.words if not word.startswith("-")] + [*command.arguments]
        other.append(
            f'                "{command.name}") options="{" ".join(options)}" words="{" ".join(words)}" ;;'
        )
    start = (
        "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" if zsh else ""
    )
    return "\n".join(
        [
            f"{start}_dynamicrafter() {{",
            '    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"',
            '    local command="" words="" options="" index',
            "    for ((index = 1; index < COMP_CWORD; index++)); do",
            '        case "$command ${COMP_WORDS[index]}" in',
            *enter,
            "        esac",
            "    done",
            '    case "$command $previous" in',
            *value,
            "        *)",
            '            case "$command" in',
            *other,
            "            esac",
            '            [[ "$current" == -* ]] && words="$options" ;;',
            "    esac",
            "    # Without words, the names of files are completed.",
            '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o default -F _dynamicrafter dynamicrafter",
            "",
        ]
    )


def _fish() -> str:
    """A script for fish, with the help of each word."""
    lines: list[str] = []
    for command in _commands(make_parser("")):
        inner = [word for word, _ in command.words if not word.startswith("-")]
        seen = "; and ".join(f"__fish_seen_subcommand_from {name}" for name in command.name.split())
        missing = f"not __fish_seen_subcommand_from {' '.join(inner)}" if inner else ""
        where = "; and ".join(filter(None, (seen, missing)))
        begin = f"complete -c dynamicrafter -n {_quoted(where)}"
        values = {name: known for names, known in command.values for name in names}
        for word, text in command.words:
            described = f"-d {_quoted(text.partition(';')[0])}"
            if not word.startswith("-"):
                lines.append(f"{begin} -f -a {word} {described}")
                continue
            name = f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}"
            known = values.get(word)
            takes = "" if known is None else f" -r -a {_quoted(' '.join(known))}" if known else " -r"
            lines.append(f"{begin} {name}{takes} {described}")
        if command.arguments:
            lines.append(f"{begin} -a {_quoted(' '.join(command.arguments))}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """In single quotes, as fish reads them."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
