"""The message about wrong content: one sentence a mistake, whatever the mistake."""

from __future__ import annotations

import copy
from typing import Annotated, Literal

import pytest
from pydantic import Discriminator, Field, Tag, ValidationError

from config_files import PACS, demo_protocol
from jipflow.settings.complete import complete_types
from jipflow.settings.part import Maybe, Number, Part, Positive, Text, Unique, json_type
from jipflow.settings.protocol import Protocol
from jipflow.settings.resources import ConfigError
from jipflow.settings.schema import load
from jipflow.settings.site import Site


class Cat(Part):
    """A cat."""

    kind: Literal["cat"]
    """What it is."""
    lives: Annotated[int, Field(ge=1, le=9)] = 9
    """How many are left."""


class Dog(Part):
    """A dog."""

    kind: Literal["dog"]
    """What it is."""
    tricks: Annotated[list[Text], Unique] = Field(default=[])


class House(Part):
    """A house."""

    colour: Literal["red", "blue"] = "red"
    """Of the walls."""
    size: Maybe[Positive] = None
    furnished: bool = False
    lives: Maybe[int] = None
    version: Maybe[Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]] = None
    range: Maybe[Annotated[list[Number], Field(min_length=2, max_length=2)]] = None
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]] = Field(default=[])
    rooms: Maybe[dict[Annotated[str, Field(pattern="^[a-z]+$")], Text]] = None
    owner: Annotated[
        Annotated[Text, Tag("string")] | Annotated[list[Text], Tag("array")],
        Discriminator(json_type),
    ] = "nobody"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "f must be a mapping of keys to values."),
        ({"color": "red"}, "f: unknown key 'color' at the top level; did you mean 'colour'?"),
        ({"colour": "rad"}, "f: colour is 'rad'; it must be one of: red, blue. (Of the walls.)"),
        ({"size": 0}, "f: size is 0; it must be a number above 0."),
        (
            {"size": "0.5"},
            "f: size is '0.5'; it must be a number above 0; write 0.5 without quotes.",
        ),
        (
            {"size": "0,5"},
            "f: size is '0,5'; it must be a number above 0; write 0.5 without quotes.",
        ),
        (
            {"size": "1e-3"},
            "f: size is '1e-3'; it must be a number above 0; write 0.001 without quotes.",
        ),
        ({"size": "20MB"}, "f: size is '20MB'; it must be a number above 0."),
        ({"size": True}, "f: size is true; it must be a number above 0."),
        ({"size": float("nan")}, "f: size is nan; it must be a number above 0."),
        ({"size": None}, "f: size is null; it must be a number above 0, or leave the key out."),
        ({"range": [1]}, "f: range is [1]; it must be a list whose length is 2."),
        ({"range": [1, "x"]}, "f: range[1] is 'x'; it must be a number."),
        ({"pets": [{}]}, "f: key 'kind' is missing at pets[0]; add it. (What it is.)"),
        ({"pets": [3]}, "f: pets[0] is 3; it must be a mapping of keys to values."),
        (
            {"pets": [{"kind": "cow"}]},
            "f: pets[0].kind is 'cow'; it must be one of: cat, dog. (What it is.)",
        ),
        (
            {"pets": [{"kind": "cat", "tricks": []}]},
            "f: unknown key 'tricks' at pets[0]; it belongs to kind dog, not cat.",
        ),
        (
            {"pets": [{"kind": "cat", "lives": 10}]},
            "f: pets[0].lives is 10; it must be a whole number at least 1 and at most 9. "
            "(How many are left.)",
        ),
        (
            {"pets": [{"kind": "dog", "tricks": ["sit", "sit"]}]},
            "f: pets[0].tricks: 'sit' is there twice.",
        ),
        (
            {"rooms": {"A": "x"}},
            "f: the key 'A' of rooms does not match ^[a-z]+$; write for example 'a'.",
        ),
        (
            {"rooms": {"a": False}},
            "f: rooms.a is false; it must be a non-empty text; YAML reads yes, no, on and off as "
            "true or false: put it in quotes.",
        ),
        (
            {"rooms": "a:b"},
            "f: rooms is 'a:b'; it must be a mapping of keys to values; write a blank after each "
            "colon.",
        ),
        (
            {"lives": 9.0},
            "f: lives is 9.0; it must be a whole number; write 9.",
        ),
        (
            {"version": 1.0},
            r"f: version is 1.0; it must be a text like ^\d+\.\d+\.\d+$; write for example "
            "'1.0.0'.",
        ),
        (
            {"rooms": {"a": 1.0}},
            "f: rooms.a is 1.0; it must be a non-empty text; put it in quotes.",
        ),
        (
            {"furnished": "yes"},
            "f: furnished is 'yes'; it must be true or false; write true without quotes.",
        ),
        (
            {"pets": {"kind": "cat"}},
            "f: pets is a mapping of keys to values; it must be a list; write it in [ ], or below "
            "the key with - before it.",
        ),
        ({"rooms": {"a": ""}}, "f: rooms.a is ''; it must be a non-empty text."),
        ({"owner": 3}, "f: owner is 3; it must be a non-empty text or a list."),
        ({"owner": [""]}, "f: owner[0] is ''; it must be a non-empty text."),
    ],
)
def test_a_mistake_is_one_sentence(content, message):
    with pytest.raises(ConfigError) as caught:
        load(House, content, "f")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("key", "value", "proposal"),
    [
        ("hours", "19-6", "19:00-06:00"),
        ("hours", "9:30 – 17:00", "09:30-17:00"),
        ("name", "Main PACS", "main-pacs"),
        ("url", "pacs.local/dicom-web", "https://pacs.local/dicom-web"),
    ],
)
def test_what_does_not_match_comes_with_what_would(key, value, proposal):
    content = {"site": {"id": "a", "name": "a"}, "sources": [PACS | {key: value}]}
    with pytest.raises(ConfigError, match=f"write for example {proposal!r}"):
        load(Site, content, "f")


@pytest.mark.parametrize("key", ["site", "sources"])
def test_a_key_that_is_needed_is_not_to_be_left_out(key):
    content = {"site": {"id": "a", "name": "a"}, "sources": [PACS], key: None}
    with pytest.raises(ConfigError, match=f"{key} is null; it must be") as caught:
        load(Site, content, "f")
    assert "leave the key out" not in str(caught.value)


def test_the_outermost_mistakes_come_first_and_five_are_enough():
    content = {"pets": [{"kind": "cat", "lives": n} for n in range(10, 20)], "size": 0, "x": 1}
    with pytest.raises(ConfigError) as caught:
        load(House, content, "f")
    lines = str(caught.value).splitlines()
    assert lines[0] == "f: size is 0; it must be a number above 0."
    assert "unknown key 'x'" in lines[1]
    assert len(lines) == 5


def test_what_is_given_keeps_its_type_and_what_is_absent_stays_absent():
    content = {"size": 3, "range": [1, 2.0]}
    house = load(House, content, "f")
    assert [type(n) for n in (house.size, *house.range)] == [int, int, float]
    assert house.rooms is None
    assert house.plain() == content | {
        "colour": "red",
        "furnished": False,
        "pets": [],
        "owner": "nobody",
    }


def places(node, path=()):
    """The path of every value, of long lists the first ones."""
    yield path
    below = node.items() if isinstance(node, dict) else enumerate(node[:2])
    for key, value in below:
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


SITE = {
    "site": {"id": "north", "name": "North"},
    "sources": [{"name": "archive", "kind": "folder", "path": "/data"}, PACS],
    "publish": {"to": "pacs"},
}


@pytest.mark.parametrize("wrong", [None, True, -1, 1.5, "", "x", [], [1], {}, {"x": 1}], ids=repr)
@pytest.mark.parametrize(("kind", "content"), [(Site, SITE), (Protocol, demo_protocol())])
def test_whatever_stands_anywhere_is_taken_or_named(kind, content, wrong):
    complete_types()
    refused = 0
    for path in places(content):
        changed = copy.deepcopy(content)
        node = changed
        for key in path[:-1]:
            node = node[key]
        if path:
            node[path[-1]] = wrong
        try:
            load(kind, changed if path else wrong, "f")
        except ConfigError as error:
            refused += 1
            lines = str(error).splitlines()
            assert all(line.startswith("f: ") or line == f"f {line[2:]}" for line in lines)
            if path:
                assert any(str(path[0]) in line for line in lines), path
    assert refused > len(list(places(content))) / 3


@pytest.mark.parametrize(
    "source",
    [
        {"url": "https://me:geheim@pacs.local/dicom-web"},
        {"url": "https://pacs.local/dicom-web?token=geheim"},
        {"url": "geheim@pacs"},
        {"kind": "dimse", "url": None, "host": "me:geheim@pacs"},
        {"kind": "dimse", "called_aet": "me:geheim@pacs-that-is-too-long"},
        {"user": ["me:geheim@pacs"]},
        {"password_env": "my geheim!"},
        {"token_env": ["geheim"]},
        {"password": "geheim"},
        {"user": {"name": "me", "password": "geheim"}},
        {"ca_file": ["https://me:geheim@pacs"]},
    ],
)
def test_no_message_shows_a_password_or_token(source):
    content = {"site": {"id": "a", "name": "a"}, "sources": [PACS | source]}
    with pytest.raises(ConfigError) as caught:
        load(Site, content, "f")
    assert "geheim" not in str(caught.value)
    assert "sources[0]" in str(caught.value)
    with pytest.raises(ValidationError) as raw:
        Site.model_validate(content)
    assert "geheim" not in str(raw.value)


def test_a_secret_in_place_of_its_file_is_refused_and_not_shown():
    content = {"site": {"id": "a", "name": "a"}, "sources": [PACS]}
    with pytest.raises(ConfigError, match="name the file that holds the secret") as caught:
        load(Site, content | {"identity": {"secret_file": "0123456789abcdef" * 4}}, "f")
    assert "0123" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "content", "parts"),
    [
        (Site, demo_protocol(), ["f is a protocol, not a site's", "--config protocol="]),
        (Protocol, SITE, ["f is a site's configuration", "--configfile"]),
        (Site, {"roster": [], "inbox": "x"}, ["f is a hub's configuration", "the target hub"]),
        (Protocol, {"featureClass": {}}, ["f is a file of radiomics settings"]),
        (Protocol, {"models": {"m": {"files": {}}}}, ["f is a registry of models"]),
        (Protocol, {"a": {"category": [], "type": []}}, ["f is a file of terms"]),
        (Site, {"cores": 1, "set-threads": {}}, ["f is a profile of Snakemake"]),
    ],
)
def test_a_file_in_the_place_of_another_is_named(kind, content, parts):
    complete_types()
    with pytest.raises(ConfigError) as caught:
        load(kind, content, "f")
    assert all(part in str(caught.value) for part in parts)
    assert "\n" not in str(caught.value)
