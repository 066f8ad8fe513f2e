"""What is typed after snakemake is checked before Snakemake ends at it with a traceback."""

from __future__ import annotations

import pytest

from jipflow.settings.command_line import check, check_arguments
from jipflow.settings.resources import ConfigError


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.yaml").write_text("site: {id: north, name: North}\n")
    (tmp_path / "wrong.yaml").write_text("site: 1\nsite: 2\n")
    return "site.yaml"


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ("--configfile none.yaml", ["none.yaml does not exist"]),
        ("--configfile sit.yaml", ["did you mean site.yaml?"]),
        ("--configfile site.yaml bundle", ["'bundle' is no file", "target before --configfile"]),
        ("--configfile site.yaml wrong.yaml -n", ["wrong.yaml: line 2", "there twice"]),
        ("--configfiles=wrong.yaml", ["wrong.yaml: line 2"]),
        ("--configfile .", ["is a folder"]),
        ("--config protocol=demo site.id=mainz", ["'site.id'", "site={id: ...}"]),
        ("--config protocol=demo bundle", ["'bundle' is no name=value", "target before"]),
        ("-C results = x", ["'results' is no name=value", "no blank beside ="]),
        ("--config 2x=1", ["'2x' is no name"]),
    ],
)
def test_a_mistake_is_named(site, argv, parts, capsys):
    with pytest.raises(ConfigError) as caught:
        check_arguments(argv.split())
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    with pytest.raises(SystemExit) as ended:
        check(argv.split())
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"{caught.value}\n"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["bundle", "--configfile", "site.yaml", "--config", "protocol=demo", "results=a=b"],
        ["--config", "sources=[{name: a, path: x.y}]", "--", "bundle"],
        ["--config", "base64//cHJvdG9jb2w="],
        ["--configfile", "site.yaml", "-n", "results/x.y"],
    ],
)
def test_what_is_right_passes(site, argv):
    check(argv)
