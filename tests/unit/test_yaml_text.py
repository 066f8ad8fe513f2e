"""Files of settings as people leave them: each is taken, or refused with its line and the fix."""

from __future__ import annotations

import os
import time

import pytest

from jipflow.settings.resources import MOST_BYTES, ConfigError, read_mapping, read_yaml
from other_account import bound_python

SITE = "site: {id: north, name: North}\nsources:\n- {name: a, kind: folder, path: /data}\n"


def refusal(folder, content):
    path = folder / "site.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        read_mapping(path)
    text = str(caught.value)
    assert text.startswith(f"{path}")
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (f"{SITE}site: {{id: south}}\n", ["line 4", "'site' is there twice", "first in line 1"]),
        ("a:\n  b:\n    c: 1\n    d: 2\n    c: 3\n", ["line 5", "'a.b.c'", "first in line 3"]),
        ("r:\n- {s: 1}\n- {s: 1, k: 2, s: 3}\n", ["line 3", "'r[1].s' is there twice"]),
        ("a: &x\n  k: 1\n  k: 2\nb: *x\n", ["line 3", "'a.k'"]),
        ('a: 1\n"a": 2\n', ["line 2", "'a' is there twice"]),
        ('{"a": 1, "b": 2, "a": 3}', ["line 1", "'a' is there twice"]),
    ],
)
def test_a_key_stands_once(tmp_path, content, parts):
    text = refusal(tmp_path, content)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (SITE.replace("North}", "North"), ["line 2", "opens in line 1 is not closed"]),
        (SITE.replace("- {", "\t- {"), ["line 3", "a tab indents nothing"]),
        ("a:\n  b: 1\n\tc: 2\n", ["line 3", "a tab"]),
        ("a: 'x\nb: 1\n", ["the quote that opens in line 1 is not closed"]),
        ('path: "C:\\data"\n', ["line 1", "use single quotes"]),
        ("title: CT: liver\n", ["line 1", "a colon in quotes"]),
        ("match: *.dcm\n", ["line 1", "begins with *", "in quotes"]),
        ("name: @home\n", ["line 1", "begins with @ in quotes"]),
        ("name: `x`\n", ["line 1", "in quotes"]),
        ("name: !important x\n", ["line 1", "begins with ! in quotes"]),
        ("a: !!python/object/apply:os.system [x]\n", ["line 1", "in quotes"]),
        ("a: 1\n---\nb: 2\n", ["line 2", "remove the ---"]),
        ("a:\n   b: 1\n  c: 2\n", ["line 3", "indentation"]),
        ("site\nsources: []\n", ["line", "not YAML"]),
        ("a: 1\nb\n", ["line", "a colon and a blank are missing"]),
        ("- a\n", ["must be a mapping of keys to values, not a list"]),
        ("hello\n", ["must be a mapping of keys to values, not a text"]),
        ("", ["is empty"]),
        ("# nothing yet\n\n---\n", ["is empty"]),
        ("name: a\x07b\n", ["line 1", "U+0007", "right file"]),
        (b"name: a\x00\x00\n", ["line 1", "U+0000", "right file"]),
        ("a:\n\u00a0\u00a0b: 1\n", ["line 2", "U+00A0", "ordinary blanks"]),
        ("name: “North”\n", ["line 1: name", "typographic quote"]),
        ("name: Universität\n".encode("latin-1"), ["line 1", "UTF-8", "Latin-1"]),
        ("a: 1\nb: Zürich\n".encode("cp1252"), ["line 2", "UTF-8"]),
        (SITE.encode("utf-16"), ["UTF-16", "save it as UTF-8"]),
        ("[" * 20_000, ["line"]),
    ],
)
def test_what_is_broken_is_named_with_its_line(tmp_path, content, parts):
    text = refusal(tmp_path, content)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("version: 2024-01-31\n", ["line 1", "version is 2024-01-31", "a date", "quotes"]),
        ("a:\n- 2024-13-45\n", ["line 2", "a[0]", "a date"]),
        ("port: 0104\n", ["line 1", "port is 0104", "an octal number", "without the leading 0"]),
        ("time: 12:30\n", ["line 1", "time is 12:30", "minutes", "quotes"]),
        ("time: 12:30:45.5\n", ["line 1", "minutes", "quotes"]),
        ("no: 1\n", ["line 1", "the key no is true or false"]),
        ("1: x\n", ["line 1", "the key 1 is a number"]),
        ("2024-01-01: x\n", ["line 1", "is a date"]),
        ("? [a, b]\n: 1\n", ["line 1", "a key must be a text"]),
        ("a: {{ name }}\n", ["line 1", "a key must be a text"]),
    ],
)
def test_what_yaml_would_read_as_something_else_is_refused(tmp_path, content, parts):
    text = refusal(tmp_path, content)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("\ufeffa: 1\n".encode(), {"a": 1}),
        (b"a: 1\r\nb:\r\n- x\r\n", {"a": 1, "b": ["x"]}),
        ("a: '2024-01-31'\nb: '0104'\nc: '12:30'\n'no': x\n", None),
        ("a: 0\nb: 0.5\nc: -0\nd: 1_000\ne: 0x1F\n", None),
        (
            "base: &b {x: 1}\nmore:\n  <<: *b\n  y: 2\n",
            {"base": {"x": 1}, "more": {"x": 1, "y": 2}},
        ),
        ("base: &b {x: 1}\nmore: {<<: *b, x: 2}\n", {"base": {"x": 1}, "more": {"x": 2}}),
        ("name: Universität “North”\n", {"name": "Universität “North”"}),
        ('{"a": [1, 2]}', {"a": [1, 2]}),
    ],
)
def test_what_is_right_is_read_as_it_stands(tmp_path, content, value):
    path = tmp_path / "x.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    read = read_mapping(path)
    assert value is None or read == value


def test_aliases_that_write_out_to_a_billion_values_are_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    start = time.perf_counter()
    assert "aliases" in refusal(tmp_path, "\n".join(lines))
    assert time.perf_counter() - start < 2
    assert "alias to itself" in refusal(tmp_path, "a: &a [1, *a]\n")


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path} is a folder; name the file in it"):
        read_yaml(tmp_path)
    (tmp_path / "site.yaml").write_text(SITE)
    with pytest.raises(
        ConfigError, match=r"site\.yml does not exist; did you mean .*/site\.yaml\?"
    ):
        read_yaml(tmp_path / "site.yml")
    with pytest.raises(ConfigError, match=r"nowhere/x\.yaml does not exist\.$"):
        read_yaml(tmp_path / "nowhere" / "x.yaml")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is a pipe or device"):
        read_yaml(tmp_path / "pipe")
    (tmp_path / "image.dcm").write_bytes(b" " * (MOST_BYTES + 1))
    with pytest.raises(ConfigError, match="far too large"):
        read_yaml(tmp_path / "image.dcm")


def test_what_may_not_be_read_is_named(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    path.chmod(0)
    code = (
        "import sys; from pathlib import Path; from jipflow.settings.resources import read_yaml; "
        "read_yaml(Path(sys.argv[1]))"
    )
    assert "cannot be read: Permission denied" in bound_python(code, path).stderr
