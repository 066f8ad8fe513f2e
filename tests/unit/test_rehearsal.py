"""A rehearsal: what its file may say, and the sites and the hub that it writes."""

from __future__ import annotations

import pytest
import yaml

from jipflow.cli import rehearsal
from jipflow.cli.federation import Federation
from jipflow.hub.settings import load_hub_settings
from jipflow.settings.rehearsal import read_rehearsal
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import load_settings

SITES = ("east", "north", "west")


def written(folder, **changes):
    """Write the file of a rehearsal whose sites are folders."""
    source = {"name": "archive", "kind": "folder", "path": str(folder)}
    content = {"protocol": "sarcoma-pet", "sites": {site: {"sources": [source]} for site in SITES}}
    path = folder / "rehearsal.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": {"a": {}, "b": {}}}, "sites: a federation needs 3 at least"),
        ({"sites": {"a": {}, "b": {}, "c": {"identity": {}}}}, "sites.c: .*`identity`; remove it"),
        ({"sites": {"a": {}, "b": {}, "c": {"results": "/"}}}, "sites.c: .*`results`; remove it"),
        ({"protocol": "sarcoma-pets"}, "Did you mean 'sarcoma-pet'"),
        ({"site": {}}, "site"),
    ],
)
def test_a_file_that_is_wrong_is_refused_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        rehearsal.rehearse(file=written(tmp_path, **changes), out=tmp_path / "out", cores=None)
    assert not (tmp_path / "out").exists()


def test_sites_and_hub_are_whole_and_know_each_other(tmp_path, monkeypatch, capsys):
    ran = []

    def run(self, name, *arguments):
        ran.append(name)
        if name == "hub" and len(ran) > 1:
            raise StopHere

    monkeypatch.setattr(Federation, "_snakemake", run)
    monkeypatch.setattr(Federation, "_release", lambda self, site: ran.append(site))
    out = tmp_path / "out"
    with pytest.raises(StopHere):
        rehearsal.rehearse(file=written(tmp_path), out=out, cores=None)
    assert ran == ["hub", *SITES, "hub"]
    assert "[rehearsal 4/6] site west: from DICOM to a release" in capsys.readouterr().out
    hub = load_hub_settings(yaml.safe_load((out / "hub" / "hub.yaml").read_text()))
    assert [member.site for member in hub.hub.roster] == list(SITES)
    for site in SITES:
        path = out / "sites" / site / "site.yaml"
        content = {**yaml.safe_load(path.read_text()), "protocol": "sarcoma-pet"}
        settings = load_settings(content, str(path))
        assert settings.site.site.id == site
        assert settings.protocol_sha256 == hub.protocol_sha256
        assert settings.site.exchange.inbox == str(out / "exchange" / "sites" / site)


def test_what_is_rehearsed_is_read(tmp_path):
    found = read_rehearsal(written(tmp_path))
    assert (found.protocol, sorted(found.sites)) == ("sarcoma-pet", list(SITES))


class StopHere(Exception):
    """The hub would run."""
