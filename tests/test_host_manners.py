"""The nodes leave memory to the host: no device by name, nothing kept, nothing thrown out, no settings of their own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "nodes").rglob("*.py")) + [ROOT / "__init__.py"]

FORBIDDEN = {
    "a device by name": r"""\.cuda\(|torch\.cuda|["']cuda|["']mps["']|autocast""",
    "everything thrown out": r"unload_all_models|gc\.collect|empty_cache\b(?<!soft_empty_cache)",
    "something kept between runs": r"lru_cache|functools\.cache\b|^\s*global\s|WeakValueDictionary|WeakKeyDictionary",
    "settings of the whole process": r"set_default_dtype|set_default_device|backends\.cudnn|manual_seed_all"
    r"|torch\.manual_seed|set_num_threads|set_grad_enabled\(",
    "pickles": r"torch\.load\(|weights_only\s*=\s*False",
    "talk on the console": r"\bprint\(|basicConfig",
}


def found(pattern: str, text: str) -> list[str]:
    return [match.group() for match in re.finditer(pattern, text, re.MULTILINE)]


def test_there_are_nodes_to_look_at() -> None:
    assert len(FILES) > 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
@pytest.mark.parametrize("what", list(FORBIDDEN))
def test_memory_is_the_hosts(path: Path, what: str) -> None:
    assert found(FORBIDDEN[what], path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_at_module_level_can_fill_up(path: Path) -> None:
    """A module's names hold constants; an empty container would be a cache."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    empty: list[int] = []
    for statement in tree.body:
        value = getattr(statement, "value", None)
        literal = (
            isinstance(value, ast.Dict) and not value.keys or isinstance(value, ast.List) and not value.elts
        )
        made = isinstance(value, ast.Call) and ast.unparse(value.func) in {
            "dict",
            "list",
            "set",
            "defaultdict",
        }
        if isinstance(statement, ast.Assign | ast.AnnAssign) and (literal or made and not value.args):
            empty.append(statement.lineno)
    assert empty == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a device by name", 'x.to("cuda")'),
        ("a device by name", "x.cuda()"),
        ("a device by name", "torch.cuda.synchronize()"),
        ("a device by name", "with torch.autocast('cuda'):"),
        ("everything thrown out", "management.unload_all_models()"),
        ("everything thrown out", "torch.cuda.empty_cache()"),
        ("everything thrown out", "gc.collect()"),
        ("something kept between runs", "@functools.lru_cache"),
        ("something kept between runs", "    global models"),
        ("settings of the whole process", "torch.manual_seed(1)"),
        ("pickles", "torch.load(path)"),
        ("talk on the console", "print(x)"),
    ],
)
def test_what_is_forbidden_is_recognised(what: str, text: str) -> None:
    assert found(FORBIDDEN[what], text) != []


def test_the_hosts_own_way_is_allowed() -> None:
    allowed = (
        "management.soft_empty_cache()\ngenerator = torch.Generator().manual_seed(seed)\nx.to(vae.device)"
    )
    assert not [what for what, pattern in FORBIDDEN.items() if found(pattern, allowed)]
