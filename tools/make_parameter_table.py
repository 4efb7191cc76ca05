"""Write the table of everything that can be chosen for a clip into the page about Python.

Usage, in the top folder, after ``dynamicrafter/parameters.py`` has changed: ``python -m tools.make_parameter_table``
"""

from __future__ import annotations

import re
from pathlib import Path

from dynamicrafter.parameters import PARAMETERS, Parameter

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"
HEAD = "| choice | values | default | meaning |\n|---|---|---|---|\n"
_TABLE = re.compile(re.escape(HEAD) + r"(?:\|.*\n)*")


def row(parameter: Parameter) -> str:
    """One line of the table; width and height are given as one value."""
    name, meaning, wanted = parameter.name, parameter.meaning, parameter.wanted
    if name == "width":
        name, meaning = "size=(width, height)", "size of the clip"
    if parameter.choices:
        wanted = ", ".join(f'`"{choice}"` ({does})' for choice, does in parameter.choices.items())
    default = parameter.own if parameter.default is None else f"`{parameter.default!r}`".replace("'", '"')
    values = f"{wanted} {parameter.unit}".strip()
    hint = f"; {parameter.hint}" if parameter.hint else ""
    return f"| `{name}` | {values} | {default} | {meaning}{hint} |\n"


def with_table(page: str) -> str:
    """The text of a page with its table as it is now; raises ValueError for a page that has none."""
    if not _TABLE.search(page):
        raise ValueError("the page has no table of parameters")
    rows = [row(parameter) for name, parameter in PARAMETERS.items() if name not in ("prompt", "height")]
    return _TABLE.sub(lambda _: HEAD + "".join(rows), page)


def main() -> None:
    """Write the page."""
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
