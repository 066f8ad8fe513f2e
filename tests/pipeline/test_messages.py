"""A mistake stops the run before any job, with one message and the mend, and no traceback."""

from __future__ import annotations

import pytest
import yaml

from harness import make_site, snakemake
from jipflow.settings.resources import PROTOCOLS


def run_with(tmp_path, change_site=None, change_protocol=None):
    (tmp_path / "dicom").mkdir()
    protocol = yaml.safe_load((PROTOCOLS / "sarcoma-ct.yaml").read_text())
    if change_protocol:
        change_protocol(protocol)
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(protocol))
    site = make_site(tmp_path, "here", str(path), [tmp_path / "dicom"])
    if change_site:
        content = yaml.safe_load(site.configfile.read_text())
        change_site(content)
        site.configfile.write_text(yaml.safe_dump(content))
    return site.run(check=False)


@pytest.mark.parametrize(
    ("change_site", "change_protocol", "parts"),
    [
        (lambda s: s.update(sorces=[]), None, ["unknown key 'sorces'", "'sources'"]),
        (lambda s: s["sources"][0].update(path="/no/such"), None, ["/no/such", "mend its path"]),
        (
            None,
            lambda p: p["segmentations"][0].update(engine="magic"),
            ["segmentations[0].engine", "imported, nnunet"],
        ),
        (
            None,
            lambda p: p["cohort"].update(where="Modality == == 'CT'"),
            ["cohort.where[0]", "not valid SQL"],
        ),
    ],
    ids=["wrong key", "missing folder", "unknown engine", "filter is no SQL"],
)
def test_the_mistake_is_named(tmp_path, change_site, change_protocol, parts):
    result = run_with(tmp_path, change_site, change_protocol)
    assert result.returncode != 0
    for part in parts:
        assert part in result.stdout
    assert "Traceback" not in result.stdout
    assert "rule catalog" not in result.stdout
    assert not (tmp_path / "results").exists()


def test_too_many_failures_stop_the_release_but_not_the_report(tiny_phantom, tmp_path):
    protocol = yaml.safe_load((PROTOCOLS / "sarcoma-pet.yaml").read_text())
    protocol["protocol"]["id"] = "strict"
    protocol["segmentations"][0]["segments"][0]["match"] = "GTV_PET"
    protocol["tolerance"]["max_failed_fraction"] = 0.01
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(protocol))
    site = make_site(tmp_path, "strict", "strict", [tiny_phantom / "dicom"])
    arguments = [a.replace("protocol=strict", f"protocol={path}") for a in site.arguments]
    result = snakemake(*arguments, check=False)
    assert result.returncode != 0
    assert "1 of 10 cases failed" in result.stdout
    assert not (site.out / "accepted").exists()
    assert (site.out / "report" / "index.html").is_file()
    assert not (site.out / "release").exists()
