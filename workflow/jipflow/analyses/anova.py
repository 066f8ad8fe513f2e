"""One-way analysis of variance: whether groups have equal means, by Fisher and by Welch.

Without ``by`` the groups are the sites; with ``by`` they lie in all sites, and the moments of each
are merged over these. A site sends what a `summary` sends, in one round.

A cell of the result has ``n``, ``rows``, ``mean``, ``mean_rest`` (what the mean lost in rounding),
``variance`` and ``sd``, and in ``by_site`` the same of each ``site`` but for the rest; without
``by`` also ``test``: ``groups``, ``rows``, ``statistic`` (F), ``df`` and ``p``, the sums of squares
``between`` and ``within`` the groups, ``eta_squared``, and in ``welch`` Welch's ``statistic``,
``df`` and ``p``; null where ``reason`` says why. With ``by`` the analysis has ``tests``, the same
over the groups of each feature of each segment, and ``same_sites``: whether all groups are of the
same sites, for else what differs between sites differs between groups. Tests equal those of all
rows in one place to 1e-9.

There is no test where a patient has several cases, for their values are not independent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from jipflow.analyses.cells import CellKey
from jipflow.analyses.contract import Analysis
from jipflow.analyses.forms import ReleasedAnalysis
from jipflow.analyses.moments import Moments, MomentsCell, merge_moments, merged
from jipflow.analyses.one_way import one_way, without_test
from jipflow.analyses.sent_moments import (
    MAX_PLOTS,
    SendsMoments,
    draw_sent,
    key_of,
    rank_for_readers,
)
from jipflow.analyses.units import with_unit
from jipflow.blocks import Drawing, Group, Panel, Row, Table, TableCell, head, numeral, span
from jipflow.plots import Interval, count, dot_plot, number
from jipflow.settings.protocol import AnalysisSettings

REPEATED = "some patients have several cases, and their values are not independent"
"""Why there is no test."""
OTHER_SITES = "; the groups are not of the same sites, so that these may make the difference"


class Settings(AnalysisSettings):
    """Equality of means of groups or sites: one-way analysis of variance, and Welch's."""

    kind: Literal["anova"]


class Cell(MomentsCell):
    """The moments of one feature of one segment, of a group where there are groups."""


class Released(ReleasedAnalysis):
    """The moments of each feature and segment."""

    kind: Literal["anova"]
    cells: list[Cell]


class Anova(SendsMoments, Analysis[Settings, Cell, Released]):
    """Moments of groups, and whether their means are equal."""

    cell = Cell
    released = Released
    title = "Analysis of variance"
    merging = (
        "Number, mean and sum of squared distances from the mean of each group were merged by the "
        "formula of Chan, Golub and LeVeque (1983); the groups' means were compared by a one-way "
        "analysis of variance (Fisher 1925) and by that of Welch (1951), which allows for unequal "
        "variances."
    )

    def merge(self, by_site: Mapping[str, Cell], given: Any = None) -> dict[str, Any]:
        """Merge the moments, and test the sites where these are the groups."""
        groups = {site: cell.moments for site, cell in by_site.items()}
        found = {**merged(by_site), "mean_rest": merge_moments(groups).mean_rest}
        if self.settings.by is not None:
            return found
        return {**found, "test": _test(groups, [found])}

    def conclude(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Test the groups of each feature of each segment."""
        if self.settings.by is None:
            return {}
        tests = []
        for key, found in sorted(_by_group(cells).items()):
            about = {name: value for name, value in key._asdict().items() if name != "group"}
            groups = {name: _moments(cell) for name, cell in found.items()}
            same = len({tuple(cell["sites"]) for cell in found.values()}) == 1
            test = _test(groups, list(found.values()))
            tests.append(about | test | {"same_sites": same})
        return {"tests": tests}

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show the moments of every cell."""
        return draw_sent(analysis.cells)

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show every test, and mean and standard deviation of each group."""
        lead = (
            "One-way analysis of variance: F compares how far the means of groups lie apart with "
            "how far values lie from the mean of their group. A small p says that the means "
            "differ; η² is the share of the variance that the groups explain. Welch's test holds "
            "where the groups' variances differ as well."
        )
        if "tests" not in analysis:
            lead += " The groups are the sites."
        drawn: dict[str, list[_Drawn]] = defaultdict(list)
        for each in _drawn(analysis):
            drawn[each.key.title].append(each)
        return Drawing(lead, [_group(title, tests) for title, tests in drawn.items()])


def _test(groups: Mapping[str, Moments], cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the test of groups, whose rows and patients the merged cells have."""
    found = one_way(groups)
    repeated = any(cell["rows"] != cell["n"] for cell in cells)
    return found | without_test(REPEATED) if repeated else found


def _by_group(
    cells: Sequence[Mapping[str, Any]],
) -> dict[CellKey, dict[str, Mapping[str, Any]]]:
    """Return the merged cells of each feature of each segment by their groups."""
    groups: dict[CellKey, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for cell in cells:
        groups[key_of(cell)._replace(group="")][cell["group"]] = cell
    return groups


def _moments(cell: Mapping[str, Any]) -> Moments:
    """Return the moments of a merged cell."""
    rows = cell["rows"]
    return Moments(rows, cell["mean"], cell["mean_rest"], cell["variance"] * (rows - 1))


@dataclass(frozen=True)
class _Drawn:
    """A test as the hub's page shows it.

    Attributes:
        key: of what; without a group.
        test: as `one_way` returns it.
        parts: merged cells of the groups, or of the sites, by name.
    """

    key: CellKey
    test: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Any]]


def _drawn(analysis: Mapping[str, Any]) -> Iterator[_Drawn]:
    """Yield every test of a result with its parts."""
    if "tests" not in analysis:
        for cell in analysis["cells"]:
            parts = {part["site"]: part for part in cell["by_site"]}
            yield _Drawn(key_of(cell), cell["test"], parts)
        return
    groups = _by_group(analysis["cells"])
    for test in analysis["tests"]:
        key = CellKey(*(test[name] for name in CellKey._fields[:-1]))
        yield _Drawn(key, test, groups[key])


def _group(title: str, tests: Sequence[_Drawn]) -> Group:
    """Return the plots and the table of the tests of one segment."""
    first = sorted(tests, key=lambda each: rank_for_readers(each.key.feature))[:MAX_PLOTS]
    columns = ["Rows", "F", "df", "p", "η²", "Welch's F", "df", "p"]
    table = Table(
        f"Analysis of variance of {title}",
        [
            head("Feature"),
            *(head(name, "num") for name in columns),
            head("Mean ± SD by group"),
        ],
        [_row(each) for each in tests],
        caption="Values of all groups, the test of Fisher, the share of the variance between the "
        "groups, the test of Welch, then each group's mean ± standard deviation, with its values.",
        summary=f"All {len(tests)} features",
    )
    return Group(title, [_panel(each) for each in first], table)


def _panel(each: _Drawn) -> Panel:
    rows = [
        Interval(name, part["mean"], part["sd"], part["rows"])
        for name, part in sorted(each.parts.items())
    ]
    title = f"{each.key.feature} of {each.key.title}, mean and SD by group"
    p = each.test["p"]
    note = span("no test" if p is None else f"p = {number(p, 2)}", "muted small")
    return Panel((with_unit(each.key.feature), note), dot_plot(title, rows))


def _row(each: _Drawn) -> Row:
    """Return the row of a test."""
    test, welch = each.test, each.test["welch"]
    if test["statistic"] is None:
        numbers = [numeral(span(test["reason"], "muted")), *[numeral("–")] * 6]
    else:
        numbers = [
            numeral(number(test["statistic"], 5)),
            numeral(", ".join(count(n) for n in test["df"])),
            numeral(number(test["p"])),
            numeral(number(test["eta_squared"], 3)),
            numeral(number(welch["statistic"], 5)),
            numeral(f"{count(round(welch['df'][0]))}, {number(welch['df'][1])}"),
            numeral(number(welch["p"])),
        ]
    parts = [
        Markup("{} {} ± {} ({})").format(
            name, number(part["mean"]), number(part["sd"], 3), count(part["rows"])
        )
        for name, part in sorted(each.parts.items())
    ]
    return [
        TableCell(with_unit(each.key.feature), scope="row"),
        numeral(count(test["rows"])),
        *numbers,
        TableCell(Markup("; ").join(parts) + ("" if test.get("same_sites", True) else OTHER_SITES)),
    ]
