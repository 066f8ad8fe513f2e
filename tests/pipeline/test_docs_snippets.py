"""The Python of the guides says what it is given for, on the tables of a real run."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import snakemake_copies
from harness import ONE_CORE, ROOT, Site, environment, make_site
from needs import unavailable

CUT = "The script does not name the folder that the test would put its own in place of"


def script(page: str, folder: str, results: Path) -> str:
    """The only block of Python of a page, on other results."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    assert folder in block, CUT
    return block.replace(folder, str(results))


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]):
    def run(text: str) -> str:
        exec(compile(text, "guide", "exec"), {})
        return capsys.readouterr().out

    return run


def test_the_outcomes_name_the_series_that_failed_and_no_sound_one(
    tiny_run: Site, phantom_site: Path, printed
) -> None:
    text = script("docs/site-guide.md", "/data/jipflow/results", tiny_run.results)
    assert '"sarcoma-pet"' in text, CUT
    out = printed(text.replace('"sarcoma-pet"', '"demo"'))
    truth = json.loads((phantom_site / "truth" / "truth.json").read_text())
    planted = [entry for entry in truth["defects"] if entry["level"] == "series"]
    rows = [line.split() for line in out.splitlines() if re.match(r"\s*\w{16} ", line)]
    assert sorted(row[4] for row in rows) == sorted(entry["series_uid"] for entry in planted)
    assert {(row[4], row[-1]) for row in rows} == {
        (entry["series_uid"], entry["reason"]) for entry in planted
    }
    table = tiny_run.table("outcomes.parquet")
    for message in table.loc[table["reason"].isin([e["reason"] for e in planted]), "message"]:
        assert message in out


def test_series_are_counted_by_what_tells_them_apart(tiny_run: Site, printed) -> None:
    text = script("docs/protocol-guide.md", "/data/jipflow/results", tiny_run.results)
    out = printed(text)
    series = tiny_run.results / "catalog" / "series.parquet"
    assert series.is_file()
    counts = [int(line.split()[-1]) for line in out.splitlines()[2:]]
    summary = json.loads((tiny_run.results / "catalog" / "summary.json").read_text())
    assert sum(counts) == summary["series"]
    assert {"CT", "PT", "RTSTRUCT"} <= {line.split()[0] for line in out.splitlines()[2:]}


def test_a_cohort_of_ones_own_is_written(tmp_path: Path) -> None:
    text = script("docs/phantom.md", "folder", Path("folder"))
    exec(compile(text, "guide", "exec"), {"folder": tmp_path})
    assert list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def lesions(phantom_site: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The example of the guide to protocols, run on the synthetic patients without a network."""
    folder = tmp_path_factory.mktemp("lesions")
    text = (ROOT / "docs" / "protocol-guide.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(# lesions\.yaml.*?)```", text, re.DOTALL)
    file = folder / "lesions.yaml"
    # The example's own tolerance is for sound archives; half of these patients are broken.
    file.write_text(block.replace("max_failed_fraction: 0.2", "max_failed_fraction: 0.5"))
    site = replace(
        make_site(folder, "try", "lesions", [phantom_site / "dicom"]), protocol_file=file
    )
    alone = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        unavailable("namespaces of a network cannot be made here")
    program = snakemake_copies.begun(alone) / "bin" / snakemake_copies.SNAKEMAKE
    done = subprocess.run(
        [str(program), *ONE_CORE, *site.arguments, "--profile", "profiles/demo"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return site


def test_the_example_of_the_guide_runs_without_a_network_and_releases(lesions: Site) -> None:
    aggregates = json.loads((lesions.out / "release/r01/aggregates.json").read_text())
    verdict = json.loads((lesions.out / "verdict.json").read_text())
    assert verdict["acceptable"]
    kept = {cell["n"] for analysis in aggregates["analyses"] for cell in analysis["cells"]}
    features = lesions.table("features/features.parquet")
    assert kept == {features["patient"].nunique()}
    assert set(features["segment"]) == {"gtv"}
    steps = json.loads((lesions.out / "cohort" / "flow.json").read_text())["steps"]
    assert [step["label"] for step in steps][2:5] == [
        "Modality IN ('CT', 'PT')",
        "ImageType NOT LIKE '%LOCALIZER%'",
        "SliceThickness <= 5",
    ]


def test_the_pages_of_a_release_follow_the_run(lesions: Site) -> None:
    folder = lesions.out / "release" / "r01"
    state, page = ((folder / name).read_text() for name in ("index.html", "disclosure.html"))
    assert "waits for approval" in state
    assert "RESULTS</span>" in page
    assert "has packed no bundle" in page
