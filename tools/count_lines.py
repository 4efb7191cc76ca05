"""Count the logical lines of code of each folder.

Usage: ``python -m tools.count_lines [--against CHECKOUT]``. One statement, or the head of a compound one, is one line
however it is wrapped; comments, blank lines and docstrings (strings that stand alone) are none. A folder's number
includes its subfolders. With ``--against``, a second column counts another checkout.
"""

from __future__ import annotations

import argparse
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("dynamicrafter", "nodes", "tools", "benchmarks", "tests")
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.STRING}


def logical_lines(path: Path) -> int:
    """The logical lines of a file."""
    count, code = 0, False
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.NEWLINE:
                count, code = count + code, False
            elif token.type not in _NO_CODE:
                code = True
    return count


def count(checkout: Path) -> Counter[Path]:
    """The logical lines of each folder of a checkout, and of all at ``Path(".")``."""
    lines: Counter[Path] = Counter()
    for folder in FOLDERS:
        for path in (checkout / folder).rglob("*.py"):
            of_file = logical_lines(path)
            for parent in path.relative_to(checkout).parents:
                lines[parent] += of_file
    return lines


def table(columns: dict[str, Counter[Path]]) -> str:
    """One row for each folder in any column, subfolders indented, and the sums."""
    rows = [f"{'folder':<28}" + "".join(f"{name:>12}" for name in columns)]
    whole = Path()
    folders = sorted({folder for lines in columns.values() for folder in lines} - {whole})
    folders.sort(key=lambda folder: FOLDERS.index(folder.parts[0]))
    for folder in [*folders, whole]:
        name = "  " * (len(folder.parts) - 1) + folder.name if folder.parts else "all"
        rows.append(f"{name:<28}" + "".join(f"{lines[folder]:>12}" for lines in columns.values()))
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="tools.count_lines", description=__doc__)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    other: Path | None = parser.parse_args(arguments).against
    columns = {"here": count(ROOT)}
    if other is not None:
        columns["there"] = count(other)
    print(table(columns))


if __name__ == "__main__":
    main()
