"""Help pages and translations hold everything the nodes have.

What the nodes have is read from ``locales/en``, which ``tests/comfyui`` compares with a running host.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dynamicrafter.weights.catalogue import RELEASES
from tools.make_preset_tables import PAGES as PRESET_PAGES
from tools.make_preset_tables import with_table

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "web" / "docs").glob("*.md"))
CJK = re.compile("[\u4e00-\u9fff]")
UNTRANSLATED = {"CFG", "VAE", "CLIP", "Latent", "eta"}
"""Names that Chinese users of ComfyUI know as they are."""


def words(language: str) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


TITLES = {
    "en": ("Inputs", "Outputs", "Example", "When something is not as it should be"),
    "zh": ("输入", "输出", "示例", "出现问题时"),
}
"""Sections of a help page: inputs, outputs, and the two of plain text."""
SHORTEST = {"en": 200, "zh": 80}
"""Characters of a section of plain text; Chinese needs fewer."""
ENGLISH = words("en")
NODES = sorted(ENGLISH)


def rows(page: str, title: str) -> dict[str, str]:
    """The table of a section: what each name in its first column is said to be."""
    section = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    found: dict[str, str] = {}
    for name, said in re.findall(r"^\| (`.+?) \| (.+) \|$", section, re.MULTILINE):
        found.update(dict.fromkeys(re.findall(r"`(\w+)`", name), said))
    return found


def page_of(node: str, language: str) -> Path:
    """The help page of a node; the host falls back to the English one for languages without a page."""
    folder = ROOT / "web" / "docs"
    return folder / f"{node}.md" if language == "en" else folder / node / f"{language}.md"


def test_every_node_has_a_page_and_no_page_is_left_over() -> None:
    assert [page.stem for page in PAGES] == NODES
    assert len(NODES) == 32
    translated = sorted((ROOT / "web" / "docs").glob("*/*.md"))
    assert translated == [page_of(node, "zh") for node in NODES]


@pytest.mark.parametrize("language", list(TITLES))
@pytest.mark.parametrize("node", NODES)
def test_a_page_explains_every_input_and_output(node: str, language: str) -> None:
    page = page_of(node, language).read_text(encoding="utf-8")
    inputs, outputs, *others = TITLES[language]
    assert page.startswith(f"# {words(language)[node]['display_name']}\n\n")
    assert set(rows(page, inputs)) == set(ENGLISH[node]["inputs"])
    assert list(rows(page, outputs)) == [output["name"] for output in ENGLISH[node]["outputs"].values()]
    for title in others:
        assert len(page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]) > SHORTEST[language]


@pytest.mark.parametrize("node", NODES)
def test_a_chinese_page_says_what_the_english_one_says(node: str) -> None:
    """As many paragraphs, rows and points; the same templates, values and messages."""
    english, chinese = (page_of(node, language).read_text(encoding="utf-8") for language in ("en", "zh"))
    for kind in (r"^## ", r"^- \*\*", r"^\d\. ", r"^\| "):
        assert len(re.findall(kind, chinese, re.M)) == len(re.findall(kind, english, re.M)), kind
    # Templates and messages; prompts and picture names in tables too.
    for kind in (r"(?<!\*)\*(\w+_\w+)\*(?!\*)", r"[\"“]([a-z][^\"”]{8,}?)(?: \.\.\.)?[\"”]", r"`([\w.-]+)`"):
        assert set(re.findall(kind, chinese)) == set(re.findall(kind, english)), kind
    paragraphs = [part for part in chinese.split("\n\n") if not part.startswith("#")]
    assert [part for part in paragraphs if not CJK.search(part) and not part.startswith("| model |")] == []


def template_names() -> set[str]:
    """What the docs call the templates: the name of a file up to its dash."""
    return {path.stem.partition(" - ")[0] for path in (ROOT / "workflows").glob("*.json")}


@pytest.mark.parametrize("language", list(TITLES))
@pytest.mark.parametrize("node", NODES)
def test_a_page_names_only_templates_that_exist(node: str, language: str) -> None:
    page = page_of(node, language).read_text(encoding="utf-8")
    named = re.findall(r"(?:template|模板)\s+\*(.+?)\*", page)
    assert set(named) <= template_names()


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_pictures_of_a_page_lie_beside_it(page: Path) -> None:
    for target in re.findall(r"!\[.*?\]\((.+?)\)", page.read_text(encoding="utf-8")):
        assert not re.match(r"\w+:|/", target)
        assert (page.parent / target).is_file()


@pytest.mark.parametrize("page", PRESET_PAGES, ids=["/".join(page.parts[-2:]) for page in PRESET_PAGES])
def test_pages_list_the_presets_as_they_are(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert with_table(text) == text, "python -m tools.make_preset_tables"


def test_a_table_of_presets_that_is_old_or_lost_is_noticed() -> None:
    text = PRESET_PAGES[0].read_text(encoding="utf-8")
    old = text.replace("| 256_v1 | 50 |", "| 256_v1 | 51 |")
    assert old != text == with_table(old)
    with pytest.raises(ValueError, match="has no table of presets"):
        with_table("# A page\n")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_leaves_a_number_to_the_model_is_said(language: str) -> None:
    """On the tooltip of the field, and on the help page."""
    nodes = words(language)
    marks = {"steps": "0 ", "cfg": "-1 ", "eta": "-1 ", "image_cfg": "-1 ", "guidance_rescale": "-1 "}
    for node in ("DynamiCrafterAnimate", "DynamiCrafterSampler"):
        page = rows(page_of(node, language).read_text(encoding="utf-8"), TITLES[language][0])
        for name in marks.keys() & nodes[node]["inputs"].keys():
            assert marks[name] in nodes[node]["inputs"][name]["tooltip"], name
            assert marks[name] in page[name], name


def shape(value: Any) -> Any:
    """The keys of nested objects, without their texts."""
    return {key: shape(part) for key, part in value.items()} if isinstance(value, dict) else None


def leaves(value: Any) -> list[str]:
    return [text for part in value.values() for text in leaves(part)] if isinstance(value, dict) else [value]


def test_chinese_has_everything_english_has() -> None:
    assert shape(words("zh")) == shape(ENGLISH)


def test_chinese_is_chinese() -> None:
    assert {text for text in leaves(words("zh")) if not CJK.search(text)} <= UNTRANSLATED


@pytest.mark.parametrize("language", ["en", "zh"])
def test_texts_mean_nothing_special_to_the_editor(language: str) -> None:
    """Braces, bars and at signs are commands in its translation files."""
    assert [text for text in leaves(words(language)) if not text.strip() or re.search(r"[{}|@]", text)] == []


def test_no_translation_is_left_over() -> None:
    known = json.loads((ROOT / "tools" / "chinese.json").read_text(encoding="utf-8"))
    used = set(leaves(words("zh")))
    assert {text for group in known.values() for text in group.values()} <= used
    english = set(leaves(ENGLISH))
    assert {text for group in known.values() for text in group} == english


def test_the_guide_names_what_there_is() -> None:
    """Addresses are the catalogue's, and its table of templates is whole."""
    guide = (ROOT / "docs" / "comfyui.md").read_text(encoding="utf-8")
    known = {release.url for release in RELEASES}
    addresses = re.findall(r"https://huggingface\.co/\S+", guide)
    assert addresses
    assert set(addresses) <= known
    table = guide.partition("| template | shows |")[2].partition("\n\n")[0]
    named = re.findall(r"DynamiCrafter [\w ]*\w", "\n".join(re.findall(r"^\| (.+?) \|", table, re.M)))
    assert sorted(named) == sorted(template_names())


@pytest.mark.parametrize("name", ["comfyui.md", "from_other_packs.md"])
def test_links_inside_the_docs_lead_somewhere(name: str) -> None:
    page = ROOT / "docs" / name
    for target in re.findall(r"\]\(([\w./]+\.md)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).is_file(), target
