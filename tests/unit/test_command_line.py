"""What is typed after snakemake is checked before Snakemake ends at it with a traceback."""

from __future__ import annotations

import pytest

from jipflow.settings.command_line import (
    check,
    check_arguments,
    check_names,
    check_reached,
    need_slurm,
)
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


RULES = ["all", "catalog", "measure", "report", "release", "bundle"]


@pytest.mark.parametrize(
    ("name", "hub", "part"),
    [
        ("catalogue", False, "'catalogue' is no target and no rule; did you mean 'catalog'?"),
        ("features", False, "There are: all, catalog"),
        ("hub", False, "'hub' is no target of this --configfile; name a hub's, hub.yaml."),
        ("train", True, "'train' is no target of this --configfile; name a site's, site.yaml."),
    ],
)
def test_a_wrong_target_proposes_the_one_that_is_meant(name, hub, part, site):
    with pytest.raises(ConfigError) as caught:
        check_names([name], RULES, hub)
    assert part in str(caught.value)


def test_rules_and_files_are_targets(site):
    check_names(["measure", "results/x", "x.parquet"], RULES, hub=False)


def test_a_rule_after_the_cohort_needs_one(tmp_path):
    cases = tmp_path / "cases.tsv"
    with pytest.raises(ConfigError, match=r"--until measure: nothing would run.*--until cohort"):
        check_reached({"measure"}, cases)
    check_reached({"cohort"}, cases)
    check_reached(set(), cases)
    check_reached({"hub_merge"}, None)
    cases.touch()
    check_reached({"measure"}, cases)


def test_slurm_is_needed_where_jobs_go_to_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    need_slurm(["--profile", "profiles/slurm", "-n"])
    with pytest.raises(SystemExit):
        need_slurm(["--profile", "profiles/slurm"])
    assert "SLURM's sbatch and squeue cannot be found here" in capsys.readouterr().err
    for name in ("sbatch", "squeue"):
        (tmp_path / name).touch(mode=0o755)
    need_slurm(["--profile", "profiles/slurm"])
