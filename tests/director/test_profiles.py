"""Profiles of language models: where keys are, who may read them, and where they may be sent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynamicrafter.director.profiles import (
    VARIABLE,
    Profile,
    agree_to_pictures,
    find_profile,
    read_profiles,
    remove_profile,
    write_profile,
)
from dynamicrafter.errors import UsageError

CLOUD = "https://api.example.com/v1"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of profiles, which does not exist yet."""
    place = tmp_path / "settings" / "models.toml"
    monkeypatch.setenv(VARIABLE, str(place))
    return place


def test_profiles_are_kept_for_their_owner_alone(place: Path) -> None:
    assert read_profiles() == {}
    cloud = Profile("cloud", CLOUD, 'a "model" of 日本', key="sk-1")
    local = Profile("local", "http://127.0.0.1:11434/v1", "qwen")
    write_profile(cloud)
    write_profile(local)
    assert read_profiles() == {"cloud": cloud, "local": local}
    if os.name == "posix":
        assert place.stat().st_mode & 0o777 == 0o600
    assert not find_profile("cloud").pictures
    assert agree_to_pictures("cloud").pictures
    assert find_profile("cloud").pictures
    remove_profile("cloud")
    assert list(read_profiles()) == ["local"]
    assert "sk-1" not in place.read_text("utf-8")


def test_a_key_is_shown_nowhere(place: Path) -> None:
    assert "sk-1" not in repr(Profile("cloud", CLOUD, "any", key="sk-1"))
    place.parent.mkdir()
    place.write_text('[cloud]\nkey = "sk-1\nurl = 5', "utf-8")
    with pytest.raises(UsageError, match=r"is not a valid TOML file; correct it") as told:
        read_profiles()
    assert "sk-1" not in str(told.value)


def test_a_key_may_come_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = Profile("cloud", CLOUD, "any", key_variable="SOME_KEY")
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(UsageError, match=r"the environment variable SOME_KEY, which is not set; set it"):
        profile.secret()
    monkeypatch.setenv("SOME_KEY", "sk-2")
    assert profile.secret() == "sk-2"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"url": "http://api.example.com/v1", "key": "k"},
            r"would send its key to api\.example\.com unencrypted",
        ),
        (
            {"url": "http://localhost/v1", "key": "k", "proxy": "http://p.example"},
            r"would send its key .* unencrypted",
        ),
        ({"url": "http://api.example.com", "key_variable": "K"}, r"would send its key .* unencrypted"),
        ({"url": "http://127.0.0.1.example.com", "key": "k"}, r"would send its key .* unencrypted"),
        ({"url": "https://user@example.com/v1"}, r"'https://user@example\.com/v1', which is not an address"),
        ({"url": "https://a.example@127.0.0.1/v1"}, r"which is not an address"),
        ({"url": "https://example.com/v1?a=b"}, r"which is not an address"),
        ({"url": "file:///etc/passwd"}, r"which is not an address"),
        ({"url": "https://example.com:99999/v1"}, r"which is not an address"),
        ({"url": "https://example.com\\@evil.example"}, r"which is not an address"),
        ({"url": ""}, r"url of profile cloud is '', which is not an address"),
        ({"proxy": "socks5://127.0.0.1"}, r"proxy of profile cloud is 'socks5://127\.0\.0\.1'"),
        ({"model": ""}, r"profile cloud names no model; add the name"),
        ({"key": "a", "key_variable": "B"}, r"both a key and a key_variable; keep only one"),
        ({"name": "../cloud"}, r"'\.\./cloud' is not a profile's name; use letters"),
    ],
)
def test_wrong_profiles_are_one_sentence(values: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Profile(**{"name": "cloud", "url": CLOUD, "model": "any", **values})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cloud = 5", r"cloud in .* is not a table; write its settings below \[cloud\]"),
        ('[cloud]\nurl = "https://a.example"\nmodle = "x"', r"unknown setting modle; use url, model, key"),
        ('[cloud]\nurl = "https://a.example"\nmodel = 5', r"model of profile cloud in .* is not a string"),
        (
            '[cloud]\nurl = "https://a.example"\nmodel = "x"\npictures = "yes"',
            r"is not true or false; correct it",
        ),
    ],
)
def test_wrong_files_are_one_sentence(place: Path, text: str, sentence: str) -> None:
    place.parent.mkdir()
    place.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=sentence):
        read_profiles()


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_a_file_with_a_key_that_others_may_read_is_refused(place: Path) -> None:
    write_profile(Profile("cloud", CLOUD, "any", key="sk-1"))
    place.chmod(0o644)
    with pytest.raises(UsageError, match=r"contains a key but others may read it; run chmod 600"):
        read_profiles()


def test_an_unknown_profile_names_those_that_exist(place: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no profile cloud of a language model \(there are: none\); add it with"
    ):
        find_profile("cloud")
    write_profile(Profile("local", "http://localhost:1234/v1", "any"))
    with pytest.raises(UsageError, match=r"\(there are: local\)"):
        remove_profile("cloud")
