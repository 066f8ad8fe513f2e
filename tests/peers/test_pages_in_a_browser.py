"""A real browser lays the pages out without a horizontal scroll, and nothing in them fails."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
import fake_results as fake
from jipflow.privacy.audit.events import Event
from jipflow.privacy.audit.trail import Trail
from jipflow.repair.standing import read_standing
from jipflow.report.audit import examine, write_audit_page
from jipflow.report.hub import write_hub_report
from jipflow.report.release import write_release_page
from jipflow.report.site.page import write_report
from jipflow.report.watch import write_watch_page
from needs import unavailable
from repair_world import write_cohort, write_shard

pytestmark = pytest.mark.long

WIDTHS = (390, 768, 1440)
PROBE = """<!doctype html><title>probe</title>
{frames}
<script>
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map((frame) => {{
    const page = frame.contentDocument;
    for (const block of page.querySelectorAll("details")) block.open = true;
    const root = page.documentElement;
    const pictures = [...page.querySelectorAll("figure img")];
    const first = [...page.querySelectorAll(".values tbody tr:first-child")]
      .map((row) => row.querySelector("td.num")).filter((cell) => cell);
    const beyond = first.filter((cell) => cell.getBoundingClientRect().right > frame.width);
    const folders = [...page.querySelectorAll("[data-folder]")].map((slot) => slot.textContent);
    return [frame.width, root.scrollWidth, pictures.filter((i) => !i.naturalWidth).length,
            pictures.length, page.body.innerText.length, first.length, beyond.length,
            folders.filter((folder) => !folder.startsWith("/")).length, folders.length].join(" ");
  }});
  document.title = "RESULT " + found.join(";");
}});
</script>
"""


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    if path is None:
        unavailable("chromium is not installed")
    return path


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    results = fake.build(folder / "results")
    settings = fake.settings()
    fake.add_release(results, settings)
    write_report(results=results, settings=settings, path=folder / "site.html")
    release_pages(results, settings, folder, "")
    table = pd.read_parquet(results / "features" / "features.parquet")
    values = np.random.default_rng(0).normal(10, 2, (len(table), 90))
    table[[f"original_glcm_Made{i:02d}" for i in range(90)]] = values
    table.to_parquet(results / "features" / "features.parquet")
    fake.add_release(results, settings)
    release_pages(results, settings, folder, "-many")
    result, accepted, rejected = fake.round_of(folder / "round")
    write_hub_report(
        result=result,
        accepted=accepted,
        rejected=rejected,
        outlook=fake.OUTLOOK,
        settings=fake.hub(folder),
        path=folder / "hub.html",
    )
    trail = Trail(folder / "audit.jsonl", folder / "site.key", folder)
    for number in range(3):
        trail.record(Event.SECRET_IN_USE, {"fingerprint": f"{number:064x}"})
    (folder / "site.key").unlink()
    trail.record(Event.SECRET_IN_USE, {"fingerprint": "f" * 64})
    public = [line.entry.key for line in trail.lines()]
    write_audit_page(examine(trail.path, public), folder / "audit.html")
    cases = {"s00001": ["aaa", "bbb"], "s00002": ["ccc"]}
    (folder / "watched" / "lung").mkdir(parents=True)
    write_cohort(folder / "watched" / "lung", cases)
    failed = {"bbb": ("prepare", "missing_slices")}
    write_shard(folder / "watched" / "lung", "s00001", cases["s00001"], failed)
    write_watch_page(read_standing(folder / "watched"), folder / "watch.html", 10)
    return folder


def release_pages(results, settings, folder, suffix):
    """Write both pages of a release, and copy them beside the others."""
    release = results / "release" / "r01"
    fake.write_disclosure(results, settings, release / "disclosure.html")
    write_release_page(release, results / "bundles")
    shutil.copyfile(release / "disclosure.html", folder / f"disclosure{suffix}.html")
    shutil.copyfile(release / "index.html", folder / f"release{suffix}.html")


@pytest.mark.parametrize(
    "name",
    [
        *("site", "disclosure", "disclosure-many", "release", "release-many", "hub", "audit"),
        "watch",
    ],
)
def test_the_page_fits_every_width(browser, pages, name):
    frames = "".join(
        f'<iframe src="{name}.html" width="{width}" height="900"></iframe>' for width in WIDTHS
    )
    probe = pages / f"probe-{name}.html"
    probe.write_text(PROBE.format(frames=frames))
    result = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--allow-file-access-from-files",
            f"--user-data-dir={pages / ('profile-' + name)}",
            "--virtual-time-budget=10000",
            "--dump-dom",
            probe.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"<title>RESULT (.*?)</title>", result.stdout)
    assert found, result.stdout[:2000] + result.stderr[-2000:]
    measured = [[int(value) for value in part.split()] for part in found[1].split(";")]
    assert [row[0] for row in measured] == list(WIDTHS)
    for width, scroll, broken, pictures, letters, tables, beyond, unfilled, folders in measured:
        assert scroll <= width, f"{name} scrolls sideways at {width} px: {scroll}"
        assert broken == 0
        assert letters > 500
        assert (beyond, unfilled) == (0, 0), f"{name}: no number is seen, or no folder filled in"
        assert tables > 0 or name.startswith(("release", "audit", "watch"))
        assert folders > 0 or name in {"site", "hub", "audit", "watch"}
        assert pictures > 0 or name != "site"
