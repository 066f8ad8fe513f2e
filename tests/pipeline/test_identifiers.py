"""Nothing that names a patient stands in a file of a run but in those of a closed list."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from harness import ROOT, Site
from identifiers import tokens
from jipflow.privacy.rights import IDENTIFYING, IMAGES
from jipflow.privacy.search import search


def named(results: Path) -> set[Path]:
    """The files that may name patients."""
    return {path for pattern in (*IDENTIFYING, *IMAGES) for path in results.glob(pattern)}


def snakemakes_own(since: Path, target: Path) -> Path:
    """A copy of what Snakemake keeps of runs, of which those beside take files away."""
    for kind in ("log", "metadata", "jipflow", "incomplete"):
        for path in (ROOT / ".snakemake" / kind).rglob("*"):
            with suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_mtime >= since.stat().st_mtime:
                    copy = target / path.relative_to(ROOT)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
    return target


def check(site: Site, wanted: dict[str, str], tmp_path: Path) -> set[str]:
    """Check that no token stands where it may not; return those that stand where they may."""
    allowed = named(site.results)
    others = {path for path in site.results.rglob("*") if path.is_file()} - allowed
    secret, key = (next(site.folder.rglob(f"{name}.key")) for name in ("identity", "site"))
    # Of the key the line between those that say what it is (RFC 7468).
    secrets = {"secret": secret.read_text().strip(), "key": key.read_text().splitlines()[1]}
    elsewhere = search(
        [*others, *site.folder.glob("printed.txt"), snakemakes_own(site.configfile, tmp_path)],
        wanted | secrets,
    )
    assert elsewhere.hits == []
    assert elsewhere.closed == {}
    assert elsewhere.files > 50
    assert elsewhere.unpacked > 20_000
    return {wanted[hit.token] for hit in search(allowed, wanted).hits}


def test_names_in_every_script_and_short_identifiers(contours_run, two_patients, tmp_path):
    found = check(contours_run, tokens(two_patients), tmp_path)
    assert {"Q7", "Äß-4", "王", "小东", "Žofie", "O'Donoghue", "19531204", "ACC-90X1"} <= found


def test_patients_whose_series_fail(tiny_run, phantom_site, tmp_path):
    # The demonstration's own words.
    wanted = tokens(phantom_site / "dicom", frozenset({"Phantom", "Phantom Hospital", "Reader"}))
    assert len(check(tiny_run, wanted, tmp_path)) > 0.9 * len(wanted)


@pytest.mark.parametrize("run", ["contours_run", "tiny_run"])
def test_what_a_run_writes_is_its_account_s_alone(run, request):
    site = request.getfixturevalue(run)
    paths = [site.results, *site.results.rglob("*")]
    opened = {path for path in paths if not path.is_symlink() and path.stat().st_mode & 0o077}
    assert {path for path in opened if path.suffix != ".age"} == set()
