"""The hub's report: which sites took part, what was refused, and the merged result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from jipflow.analyses.cells import CellKey
from jipflow.analyses.contract import kinds
from jipflow.analyses.noise import has_noise
from jipflow.analyses.units import clinical_units
from jipflow.hub.decisions import Accepted, RejectedBundle
from jipflow.hub.patients import patients_behind
from jipflow.hub.rounds import Outlook
from jipflow.hub.settings import HubSettings
from jipflow.hub.tables import PATIENTS, TABLES, table_names, write_tables
from jipflow.release.gate import all_rules
from jipflow.report.behind import tables_behind
from jipflow.report.methods import methods
from jipflow.report.pages import write_page
from jipflow.report.withheld import withheld_parts


@dataclass(frozen=True)
class SiteParts:
    """Parts of a cell that sites keep back, though they released it.

    Attributes:
        analysis: id of the analysis.
        key: what the cell is about.
        parts: what they are, in the plural, such as ``bins``.
        rules: codes of the rules that keep them back.
        sites: which parts, by site.
    """

    analysis: str
    key: CellKey
    parts: str
    rules: set[str] = field(default_factory=set)
    sites: dict[str, list[str]] = field(default_factory=dict)


def write_hub_report(
    *,
    result: Mapping[str, Any],
    accepted: Sequence[Accepted],
    rejected: Sequence[RejectedBundle],
    outlook: Outlook,
    settings: HubSettings,
    path: Path,
) -> None:
    """Write the report of a round at the hub: a self-contained page, and its tables beside it.

    Args:
        result: content of ``result.json``: protocol, round, sites and analyses with merged cells.
        accepted: the messages that count, one a site.
        rejected: the files that do not.
        outlook: what the round waits for.
        settings: of the hub.
        path: the HTML file; the CSV files are in the folder `TABLES` beside it.
    """
    write_tables(result, path.parent / TABLES)
    sites = [site["id"] for site in result["sites"]]
    parts = parts_by_site(accepted)
    units = {each.name: each.read_unit for each in settings.protocol.clinical_variables}
    with clinical_units(units):
        write_page(
            path,
            "hub.html.j2",
            result=result,
            noisy=any(has_noise(analysis["kind"]) for analysis in result["analyses"]),
            files={entry.site: entry.file for entry in accepted},
            rejected=rejected,
            outlook=outlook,
            hub=settings.hub.hub,
            methods=methods(settings.protocol, settings.named.parameters),
            tables=table_names(result),
            folder=TABLES,
            sites=sites,
            cells=sum(len(analysis["cells"]) for analysis in result["analyses"]),
            analyses=[_drawn(analysis, sites) for analysis in result["analyses"]],
            partial=sum(
                len(cell["sites"]) < len(sites)
                for analysis in result["analyses"]
                for cell in analysis["cells"]
            ),
            behind=tables_behind(patients_behind(result), sites),
            patients=f"{PATIENTS}.csv",
            withheld=withheld_by_rule(accepted),
            withheld_parts=parts,
            part_totals=_part_totals(parts),
        )


def _drawn(analysis: Mapping[str, Any], sites: Sequence[str]) -> dict[str, Any]:
    drawing = kinds()[analysis["kind"]].draw_result(analysis, sites)
    return {"id": analysis["id"], "kind": analysis["kind"], "drawing": drawing}


def withheld_by_rule(accepted: Sequence[Accepted]) -> list[dict[str, Any]]:
    """Return for each rule of disclosure what it withheld at each site.

    Returns:
        The ``rule``, its ``meaning`` in the hub's own words, ``what`` it withheld (``cells``, or
        parts of them, such as ``bins``), and how many at each of ``sites``; rules that withheld
        nothing are left out.
    """
    meanings = {rule.code: rule.meaning for rule in all_rules()}
    counted: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for entry in accepted:
        record = entry.disclosure
        for rule, cells in record.summary.withheld.items():
            counted[rule, "cells"][entry.site] = cells
        for found in withheld_parts(record, entry.aggregates.analyses):
            for rule in found.rules:
                of_site = counted[rule, found.parts]
                of_site[entry.site] = of_site.get(entry.site, 0) + len(found.names)
    return [
        {"rule": rule, "what": what, "meaning": meanings[rule], "sites": counts}
        for (rule, what), counts in sorted(counted.items())
        if any(counts.values())
    ]


def parts_by_site(accepted: Sequence[Accepted]) -> list[SiteParts]:
    """Return the parts of cells that sites keep back of what they released, sorted."""
    found: dict[tuple[str, CellKey, str], SiteParts] = {}
    for entry in accepted:
        for one in withheld_parts(entry.disclosure, entry.aggregates.analyses):
            place = (one.analysis, one.cell.key, one.parts)
            row = found.setdefault(place, SiteParts(*place))
            row.rules.update(one.rules)
            row.sites[entry.site] = one.names
    return [found[place] for place in sorted(found)]


def _part_totals(rows: Sequence[SiteParts]) -> dict[str, int]:
    """Count by their name the parts that some site keeps back, each once a cell."""
    totals: dict[str, int] = defaultdict(int)
    for row in rows:
        totals[row.parts] += len(set(chain(*row.sites.values())))
    return dict(totals)
