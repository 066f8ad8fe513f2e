"""How sites differ in features before and after these were harmonised: what the pages show."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jipflow.analyses import sent_scatter
from jipflow.analyses.cells import CellKey
from jipflow.analyses.estimates import REASONS
from jipflow.analyses.moments import EXACT
from jipflow.analyses.units import with_unit
from jipflow.blocks import Drawing, Group, Panel, Row, Table, TableCell, bold, head, numeral, span
from jipflow.plots import MISSING, Interval, count, dot_plot, number
from jipflow.settings.covariates import Covariate

MAX_PLOTS = 6
"""Most plots of one segment."""

HARMONISED = "harmonised"
"""What a row of a plot, a table and a step of the analysis are called."""


def draw_sent(cells: Sequence[Any], covariates: Sequence[Covariate]) -> Drawing:
    """Show every number that leaves a site.

    Args:
        cells: of `jipflow.analyses.combat`, of either round.
        covariates: that are preserved.
    """
    lead = "Each cell is of n patients who have the feature, which is first, and every covariate."
    after: dict[str, list[Any]] = defaultdict(list)
    for cell in cells:
        if cell.step == HARMONISED:
            after[cell.key.title].append(cell)
    if after:
        lead += (
            " Its sums are those of the first round. Of the harmonised feature mean and SD leave, "
            "with the site's shift and variance in units of all sites; all four follow from the "
            "sums and from what the hub stated. The harmonised values stay here, in the folder "
            "harmonised of the results."
        )
    sums = sent_scatter.draw_sent(cells, covariates, lead)
    more = [
        Group(f"{title} · {HARMONISED}", table=_moments(title, members))
        for title, members in sorted(after.items())
    ]
    return Drawing(sums.lead, [*sums.groups, *more])


def _moments(title: str, cells: Sequence[Any]) -> Table:
    names = ("n", "Mean", "SD", "Shift", "Variance")
    titles = [head("Feature"), *(head(name, "num") for name in names)]
    titles += [head(name, f"num{EXACT}") for name in ("M2", "Rest")]
    rows = [
        [
            TableCell(with_unit(cell.feature), scope="row"),
            numeral(str(cell.n)),
            numeral(number(cell.mean, 7)),
            numeral(number(math.sqrt(cell.moments.variance), 5), "num muted"),
            numeral(number(cell.shift, 7)),
            numeral(number(cell.spread, 7)),
            numeral(number(cell.m2, 7), f"num{EXACT}"),
            numeral(number(cell.mean_rest, 2), f"num{EXACT}"),
        ]
        for cell in cells
    ]
    return Table(f"Harmonised features of {title}", titles, rows)


def draw_sites(cells: Sequence[Mapping[str, Any]], sites: Sequence[str]) -> Drawing:
    """Show how far sites differ before and after, the features first in which they differ most.

    Args:
        cells: as the result of `jipflow.analyses.combat` has them.
        sites: ids of all sites of the round, also of those that withheld a cell.
    """
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for cell in cells:
        groups[CellKey(*(cell[name] for name in CellKey._fields)).title].append(cell)
    lead = (
        "ComBat: mean ± standard deviation of each site and of all together (the diamond), before "
        "(open) and after (filled) the features were harmonised at the sites. Between sites is the "
        "share of a feature's variance that lies between them, beyond what the covariates explain, "
        "with the p of its F test before: after, a test would say nothing. "
        "SD ratio is the largest standard deviation of a site by the smallest."
    )
    if any(cell["after"] is None for cell in cells):
        lead += (
            " Where nothing stands after, the second round is still to come, or all sites have "
            "withheld the feature in it."
        )
    return Drawing(lead, [_group(title, found, sites) for title, found in sorted(groups.items())])


def _group(title: str, cells: Sequence[Mapping[str, Any]], sites: Sequence[str]) -> Group:
    """Return the plots and the table of one segment."""
    first = sorted(cells, key=lambda cell: -(_effect(cell, "before", "share") or 0))
    panels = [
        Panel(
            (with_unit(cell["feature"]), span(f"n = {count(cell['n'])}", "muted small")),
            _plot(title, cell, sites),
        )
        for cell in first[:MAX_PLOTS]
    ]
    columns = [head("Feature"), head("Sites", "num"), head("n", "num")]
    for name in ("Mean ± SD", "Between sites", "SD ratio"):
        columns += [head(f"{name}, before", "num"), head("after", "num")]
    columns += [head(f"{site}: shift, SD", "num") for site in sites]
    rows = [_row(cell, sites) for cell in cells]
    table = Table(
        f"Features of {title} before and after",
        columns,
        rows,
        caption=(
            "Shift and SD are those of a site before, in standard deviations within the sites, as "
            "drawn towards those of the segment's other features: 0 and 1 change nothing."
        ),
        summary=f"All {len(cells)} features",
    )
    return Group(title, panels, table)


def _effect(cell: Mapping[str, Any], when: str, name: str) -> float | None:
    found = cell["effect"][when]
    return None if found is None else float(found[name])


def _plot(title: str, cell: Mapping[str, Any], sites: Sequence[str]) -> Any:
    parts = {part["site"]: part for part in cell["by_site"]}
    rows = [row for site in sites for row in _intervals(site, parts.get(site))]
    rows += _intervals("together", cell, pooled=True)
    return dot_plot(f"{cell['feature']} of {title}, mean and SD by site, before and after", rows)


def _intervals(
    label: str, part: Mapping[str, Any] | None, pooled: bool = False
) -> Iterator[Interval]:
    """Yield the row before, and the one after where there is any."""
    if part is None:
        yield Interval(label, None, None, None)
        return
    before, after = part["before"], part["after"]
    changed = after is not None
    yield Interval(label, before["mean"], before["sd"], part["n"], pooled, earlier=changed)
    if changed:
        yield Interval(HARMONISED, after["mean"], after["sd"], part["n"], pooled)


def _row(cell: Mapping[str, Any], sites: Sequence[str]) -> Row:
    parts = {part["site"]: part for part in cell["by_site"]}
    found = [
        TableCell(with_unit(cell["feature"]), scope="row"),
        numeral(f"{len(cell['sites'])} of {len(sites)}"),
        numeral(count(cell["n"])),
        numeral(_mean(cell["before"])),
        numeral(bold(_mean(cell["after"]))),
    ]
    if cell["reason"] is not None:
        reason = numeral(span(f"none: {REASONS[cell['reason']]}", "muted"))
        found += [reason, *(numeral(MISSING) for _ in range(3))]
    else:
        before, after = (_share(cell["effect"][when]) for when in ("before", "after"))
        p = number(_effect(cell, "before", "p"), 2)
        found += [numeral(f"{before} (p {p})"), numeral(after)]
        for when in ("before", "after"):
            ratio = _effect(cell, when, "variance_ratio")
            found.append(numeral(number(None if ratio is None else math.sqrt(ratio), 3)))
    found += [numeral(_shift(parts.get(site))) for site in sites]
    return found


def _mean(part: Mapping[str, float] | None) -> str:
    return MISSING if part is None else f"{number(part['mean'])} ± {number(part['sd'], 3)}"


def _share(effect: Mapping[str, Any] | None) -> str:
    return MISSING if effect is None else f"{100 * effect['share']:.1f} %"


def _shift(part: Mapping[str, Any] | None) -> str:
    if part is None or part["shift"] is None:
        return MISSING
    return f"{number(part['shift'], 3)}, {number(math.sqrt(part['spread']), 3)}"
