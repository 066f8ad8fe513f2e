"""Two sites and a hub with a third analysis, whose file lies in a folder of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jipflow.analyses
from federation_world import (
    Site,
    accept,
    hub_settings,
    opened,
    protocol,
    reseal,
    site,
    unpack,
    zipped,
)
from jipflow.exchange.refusals import Refused
from jipflow.files import write_json
from jipflow.hub.merge import merge
from jipflow.hub.rounds import Outlook
from jipflow.hub.verify import verify
from jipflow.release.contents import read_release
from jipflow.release.since import read_review
from jipflow.release.terms import Terms
from jipflow.report.basis import basis
from jipflow.report.disclosure import write_disclosure_page
from jipflow.report.hub import write_hub_report

ROWS = {"id": "how-many", "kind": "rows", "variables": ["CT.volume_ml"], "unit": "values"}
EDITS = {
    "rows": lambda analysis: analysis["cells"][0].update(rows=11),
    "maximum": lambda analysis: analysis["cells"][0].update(maximum=3),
    "unit": lambda analysis: analysis.update(unit="others"),
    "kind": lambda analysis: analysis.update(kind="columns"),
}


def run(folder: Path) -> None:
    """Write releases, pages, the result, and the reason why each changed bundle is refused."""
    content = protocol(analyses=[*protocol()["analyses"], ROWS])
    inbox = folder / "inbox"
    inbox.mkdir()
    north = site(folder, "north", 12, content=content)
    south = site(folder, "south", 20, seed=1, content=content)
    lost = south.table.index[south.table["segment"] == "liver"][:5]
    south.table.loc[lost, "volume_ml"] = float("nan")
    bundle = north.send(inbox)
    south.send(inbox)
    for one in (north, south):
        write_disclosure_page(
            release=read_release(one.release),
            terms=Terms.of(one.settings),
            review=read_review(one.release, built=False),
            path=one.release / "disclosure.html",
            basis=basis(
                settings=one.settings,
                features=one.root / "features.parquet",
                cases=one.root / "cases.tsv",
                outcomes=one.root / "outcomes.parquet",
            ),
            secret=bytes(32),
        )
    settings = hub_settings([north, south], inbox, content)
    accepted, rejected = accept(inbox=inbox, settings=settings)
    assert rejected == []
    result = merge(accepted=accepted, settings=settings)
    write_json(folder / "result.json", result)
    write_hub_report(
        result=result,
        accepted=accepted,
        rejected=rejected,
        outlook=Outlook(1, ["north", "south"], [], further=False),
        settings=settings,
        path=folder / "hub.html",
    )
    refused = {name: _reason(bundle, edit, north, settings) for name, edit in EDITS.items()}
    write_json(folder / "refused.json", refused)


def _reason(bundle: Path, edit, north: Site, settings) -> str:
    """Return why the hub refuses a bundle whose third analysis was changed and sealed again."""
    members = unpack(bundle.read_bytes())
    content = json.loads(members["aggregates.json"])
    edit(next(a for a in content["analyses"] if a["kind"] == "rows"))
    changed = members | {"aggregates.json": json.dumps(content).encode()}
    try:
        verify(zipped(reseal(changed, north)), settings, opened(settings))
    except Refused as refused:
        return str(refused.refusal)
    return "accepted"


if __name__ == "__main__":
    jipflow.analyses.__path__.append(str(Path(sys.argv[1]) / "analyses"))
    run(Path(sys.argv[1]))
