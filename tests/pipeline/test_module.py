"""Another workflow uses this one as a module: two sites in one run, beside rules of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from harness import ONE_CORE, ROOT, contours_only, make_site, run_snakemake

SNAKEFILE = """
shell.prefix("export OWNER=parent; ")


configfile: "config.yaml"


module jipflow:
    snakefile:
        "{root}/workflow/Snakefile"
    config:
        config["north"]


use rule * from jipflow


module south:
    snakefile:
        "{root}/workflow/Snakefile"
    config:
        config["south"]


use rule * from south as south_*


rule sites:
    default_target: True
    input:
        rules.all.input,
        rules.south_all.input,
    output:
        "own.txt",
    shell:
        'echo "$OWNER" > {{output}}'
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_snakemake(*ONE_CORE, *arguments, folder=folder)


def write_workflow(folder: Path, dicom: Path) -> None:
    (folder / "contours.yaml").write_text(yaml.safe_dump(contours_only()))
    config = {}
    for name, protocol in (("north", "demo"), ("south", "contours.yaml")):
        site = make_site(folder, name, protocol, [dicom], processing={"device": "cpu"})
        config[name] = yaml.safe_load(site.configfile.read_text())
        config[name] |= {"protocol": protocol, "results": f"results/{name}"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "Snakefile").write_text(SNAKEFILE.format(root=ROOT))


@pytest.fixture(scope="module")
def workflow(two_patients: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("another workflow")
    write_workflow(folder, two_patients)
    result = run(folder)
    assert result.returncode == 0, result.stdout[-6000:]
    return folder


def test_each_site_comes_to_its_release(workflow):
    for site, protocol, count in (("north", "demo", 4), ("south", "contours", 2)):
        results = workflow / "results" / site / protocol
        settings = json.loads((results / "settings.json").read_text())
        assert settings["site"]["site"]["id"] == site
        assert settings["protocol"]["protocol"]["id"] == protocol
        assert len(list((results / "seg").rglob("*.dcm"))) == count
        assert json.loads((results / "verdict.json").read_text())["ok"] == 2
        release = json.loads((results / "release" / "r01" / "aggregates.json").read_text())
        assert (release["site"], release["protocol"]["id"]) == (site, protocol)
        assert (results / "release" / "r01" / "disclosure.html").is_file()


def test_the_other_workflow_keeps_its_own_shell(workflow):
    assert (workflow / "own.txt").read_text() == "parent\n"


def test_a_second_run_does_nothing(workflow):
    assert "Nothing to be done" in run(workflow, "--dry-run").stdout


def test_the_other_workflow_may_choose_its_folder_after_the_modules(workflow):
    text = SNAKEFILE.format(root=ROOT).replace("rule sites:", 'workdir: "chosen"\n\n\nrule sites:')
    (workflow / "chosen").mkdir()
    (workflow / "late").write_text(text)
    result = run(workflow, "--snakefile", "late", "south_catalog")
    assert result.returncode == 0, result.stdout[-6000:]
    assert (workflow / "chosen" / "results" / "south" / "catalog" / "series.parquet").is_file()


def test_what_snakemake_reports_are_the_pages_that_people_read(workflow):
    result = run(workflow, "--report", "report.html")
    assert result.returncode == 0, result.stdout
    page = (workflow / "report.html").read_text()
    for text in ("Report", "Release", "How cases were chosen", "What would leave the site"):
        assert text in page
    assert result.stdout.count("Adding index.html") == 2
    assert result.stdout.count("Adding disclosure.html") == 2


@pytest.mark.parametrize("line", ['prefix: "elsewhere"', 'pathvars: results="elsewhere"'])
def test_results_are_moved_by_the_config_alone(workflow, line):
    text = SNAKEFILE.format(root=ROOT).replace(
        'config:\n        config["south"]', f'config: config["south"]\n    {line}'
    )
    assert line in text
    (workflow / "moved").write_text(text)
    result = run(workflow, "--dry-run", "--snakefile", "moved")
    assert result.returncode != 0
    assert "set `results` in the module's config" in result.stdout
    assert "Traceback" not in result.stdout
