"""The hub's report: which sites took part, what was refused, and the merged result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jipflow.analyses.contract import kinds
from jipflow.hub.accept import Accepted, RejectedBundle
from jipflow.report.pages import write_page


def write_hub_report(
    *,
    result: Mapping[str, Any],
    accepted: Sequence[Accepted],
    rejected: Sequence[RejectedBundle],
    path: Path,
) -> None:
    """Write the report of a round at the hub as one self-contained page.

    Args:
        result: content of ``result.json``: protocol, round, sites and analyses with merged cells.
        accepted: the messages that count, one a site.
        rejected: the files that do not.
        path: the HTML file.
    """
    sites = [site["id"] for site in result["sites"]]
    write_page(
        path,
        "hub.html.j2",
        result=result,
        files={entry.site: entry.file for entry in accepted},
        rejected=rejected,
        sites=sites,
        cells=sum(len(analysis["cells"]) for analysis in result["analyses"]),
        analyses=[_drawn(analysis, sites) for analysis in result["analyses"]],
        withheld=withheld_by_rule(accepted),
    )


def _drawn(analysis: Mapping[str, Any], sites: Sequence[str]) -> dict[str, Any]:
    drawing = kinds()[analysis["kind"]].draw_result(analysis, sites)
    return {"id": analysis["id"], "kind": analysis["kind"], "drawing": drawing}


def withheld_by_rule(accepted: Sequence[Accepted]) -> list[dict[str, Any]]:
    """Return for each rule of disclosure how many cells it withheld at each site."""
    meanings: dict[str, str] = {}
    by_rule: dict[str, dict[str, int]] = defaultdict(dict)
    for entry in accepted:
        record = entry.disclosure
        meanings |= record.rules
        for rule, cells in record.summary.withheld.items():
            by_rule[rule][entry.site] = cells
    return [
        {"rule": rule, "meaning": meanings[rule], "sites": counts}
        for rule, counts in sorted(by_rule.items())
        if any(counts.values())
    ]
