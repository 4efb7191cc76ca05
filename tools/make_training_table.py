"""Write the table of all settings of a training config into the page about training.

Usage, in the top folder, after a setting has changed: ``python -m tools.make_training_table``
"""

from __future__ import annotations

import re
from dataclasses import MISSING, is_dataclass
from pathlib import Path

from dynamicrafter.training.config import FinetuneConfig
from dynamicrafter.training.options import Setting, settings_of
from dynamicrafter.training.printing import toml_value

PAGE = Path(__file__).resolve().parents[1] / "docs" / "training.md"
HEAD = "| setting | values | default | meaning |\n|---|---|---|---|\n"
_TABLE = re.compile(re.escape(HEAD) + r"(?:\|.*\n)*")


def row(setting: Setting) -> str:
    """One line of the table."""
    default = "required" if setting.default is MISSING else "absent"
    if setting.default is not MISSING and setting.default is not None:
        default = f"`{toml_value(setting.default)}`"
    meaning = setting.option.meaning + (f"; {setting.option.hint}" if setting.option.hint else "")
    return f"| `{setting.name}` | {setting.values} | {default} | {meaning} |\n"


def with_table(page: str) -> str:
    """The text of a page with its table as it is now; raises ValueError for a page that has none."""
    if not _TABLE.search(page):
        raise ValueError("the page has no table of settings")
    rows = [row(setting) for setting in settings_of(FinetuneConfig) if not is_dataclass(setting.hint)]
    return _TABLE.sub(lambda _: HEAD + "".join(rows), page)


def main() -> None:
    """Write the page."""
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
