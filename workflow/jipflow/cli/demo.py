"""The demonstration: three synthetic sites and the hub, each run as a real one would be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from jipflow.cli.federation import Federation, Progress
from jipflow.files import read_json
from jipflow.phantom.cohort import SERIES_DEFECTS, write_site
from jipflow.settings.resources import read_mapping

SITES = ("north", "south", "west")
PROTOCOL = "demo"
SEED = 2026


def run_demo(*, out: Path, patients: int, cores: int | None) -> None:
    """Run the demonstration; what an earlier run made is used again.

    Args:
        out: folder for everything: the sites' DICOM, their results, the hub.
        patients: sound patients at each site; each has defective ones on top.
        cores: cores to use; all by default.

    Raises:
        StageError: a run failed; the message names its log.
    """
    out = out.absolute()
    progress = Progress("demo", 2 * len(SITES) + Federation.STEPS + 1)
    for site in SITES:
        defective = f"{len(SERIES_DEFECTS)} with a defective series"
        progress.begin(f"site {site}: {patients} sound synthetic patients and {defective}")
        _make_patients(out / "sites" / site, site, patients)
    sites = {site: _site(out / "sites" / site, site) for site in SITES}
    hub = "Coordinating hub (synthetic)"
    federation = Federation(out, PROTOCOL, PROTOCOL, sites, hub, progress, cores)
    federation.run()
    progress.end()
    print("\n".join(_summary(federation)))


def _make_patients(folder: Path, site: str, patients: int) -> None:
    """Write a site's DICOM and its truth, unless the federation has made the site's file since."""
    if (folder / "site.yaml").is_file():
        return
    for part in ("dicom", "truth"):
        shutil.rmtree(folder / part, ignore_errors=True)
    write_site(folder, site, patients, SEED)


def _site(folder: Path, site: str) -> dict[str, Any]:
    """Return what the site's file says, as an earlier run or a person has left it."""
    path = folder / "site.yaml"
    if path.is_file():
        return read_mapping(path)
    return {
        "site": {"id": site, "name": f"{site.title()} Hospital (synthetic)"},
        "sources": [{"name": "archive", "kind": "folder", "path": str(folder / "dicom")}],
    }


def _summary(federation: Federation) -> list[str]:
    """Say in ten lines what was done and where to look."""
    result = read_json(federation.round_folder / "result.json")
    cells = [cell for analysis in result["analyses"] for cell in analysis["cells"]]
    liver = next(
        cell
        for cell in cells
        if cell["feature"] == "original_shape_MeshVolume"
        and cell["segment"] == "liver"
        and "mean" in cell
    )
    return [
        "",
        *federation.summary(),
        f"for example liver volume: n={liver['n']}, mean {liver['mean'] / 1e3:.1f} mL, "
        f"SD {liver['sd'] / 1e3:.1f} mL, as from pooling the {len(liver['sites'])} sites' patients",
        "nothing but sealed releases left a site; see release/r01/disclosure.html at each",
        f"truth of the synthetic patients: {federation.out / 'sites'}/<site>/truth/truth.json",
        "",
        f"report of the hub: {federation.round_folder / 'report.html'}",
    ]
