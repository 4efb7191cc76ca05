"""Errors hold facts and a remedy, and each front end says the remedy in its own words."""

from __future__ import annotations

import ast
import pickle
import re
from pathlib import Path
from typing import get_args

import pytest

from dynamicrafter.cli.words import WORDS as COMMAND
from dynamicrafter.errors import PYTHON, CheckpointError, Remedy, RemedyKind, UsageError, Words

PACKAGE = Path(__file__).resolve().parents[2] / "dynamicrafter"
LIBRARY = [path for path in PACKAGE.rglob("*.py") if not {"cli", "page"} & set(path.parts)]
"""The front ends speak of the command: the page is started by it, and whoever runs it reads its errors there."""
OPTION = re.compile(r"(?<![\w-])--[a-z]|'dynamicrafter [a-z]")


@pytest.mark.parametrize("words", [PYTHON, COMMAND], ids=["python", "command"])
def test_python_and_the_command_have_words_for_every_remedy(words: Words) -> None:
    assert set(words) == set(get_args(RemedyKind))


@pytest.mark.parametrize(
    ("remedy", "python", "command"),
    [
        (
            Remedy("check_model"),
            "check the path, or pass a name from dyn",
            "use a name from 'dynamicrafter mod",
        ),
        (
            Remedy("choose_model"),
            "catalogue.RELEASES lists the models",
            "'dynamicrafter models' lists the mod",
        ),
        (Remedy("download", ("512",)), "download(find('512'))", "with 'dynamicrafter download 512'"),
        (Remedy("drop_variant"), "omit variant", "omit --variant or choose another file"),
        (
            Remedy("fetch", ("1 GB",)),
            "pass fetch=True to let the",
            "use --fetch to let the package download them (1",
        ),
        (Remedy("lower_cfg"), "pass a lower cfg", "use a lower --cfg"),
        (Remedy("name_encoder", ("text",)), "pass text_encoder=...", "pass --text-encoder FILE"),
        (
            Remedy("name_encoder", ("text", "image")),
            "pass text_encoder=... and pass image_encoder=...",
            "pass --text-encoder FILE and pass --image-encoder FILE",
        ),
        (Remedy("name_i3d", ("/a.pt",)), "pass i3d=... or place it at /a.pt", "--i3d or place it at /a.pt"),
        (
            Remedy("name_towers", ("towers",)),
            "or pass towers=...",
            "download towers' or specify a file with --tow",
        ),
        (
            Remedy("name_lora"),
            "the model and its adapters explicitly",
            "pass --model and --lora FILE instead",
        ),
        (Remedy("name_model"), "pass the model to use", "specify it with --model NAME or FILE"),
        (Remedy("name_output"), "choose another name for the clip", "for the clip with --output"),
        (Remedy("name_picture"), "pass the path of every image", "pass --picture FILE for every image"),
        (Remedy("name_variant", ("256_v1", "512_v1")), "pass variant=...", "specify it with --variant NAME"),
        (Remedy("skip_learned"), "and download them again", "or skip it with --plain"),
        (Remedy("widen_dtype"), 'dtype="float32" or "bfloat16"', "with --dtype float32 or bfloat16"),
    ],
    ids=lambda value: value.kind if isinstance(value, Remedy) else "",
)
def test_each_front_end_says_it_in_its_own_words(remedy: Remedy, python: str, command: str) -> None:
    problem = CheckpointError("it is not so", remedy)
    for said, words in ((str(problem), python), (problem.said(COMMAND), command)):
        assert said.startswith("it is not so; ") and words in said
        assert "{" not in said and said.count("; ") == 1
    assert not OPTION.search(str(problem))


def test_an_error_without_a_remedy_is_its_facts() -> None:
    assert str(UsageError("it is not so")) == UsageError("it is not so").said(COMMAND) == "it is not so"


def test_a_remedy_without_words_is_said_as_in_python() -> None:
    assert UsageError("no", Remedy("drop_variant")).said({}) == "no; omit variant or choose another file"


def test_an_error_survives_being_sent_to_another_process() -> None:
    problem = pickle.loads(pickle.dumps(UsageError("no", Remedy("download", ("512",)))))
    assert (problem.facts, problem.remedy) == ("no", Remedy("download", ("512",)))


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_library_names_no_option_of_the_command(path: Path) -> None:
    """Outside docstrings; accelerate's own options are no options of ours."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]
    assert [text for text in texts if OPTION.search(text) and "--use_fsdp" not in text] == []
