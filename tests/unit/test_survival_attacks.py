"""Who asks a site for one curve after the other learns of nobody."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from jipflow.analyses.cells import CLINICAL, Measured, Place, Places
from jipflow.analyses.crosstab import Crosstab
from jipflow.analyses.crosstab import Settings as CrosstabSettings
from jipflow.analyses.histogram import Histogram
from jipflow.analyses.histogram import Settings as HistogramSettings
from jipflow.analyses.kaplan_meier import KaplanMeier, Settings
from jipflow.analyses.rules import Finding
from jipflow.analyses.summary import Settings as SummarySettings
from jipflow.analyses.summary import Summary
from jipflow.release.candidate import _behind
from jipflow.release.gate import decide
from jipflow.release.history import History
from jipflow.release.noise import Noisy
from jipflow.release.saturation import Regions
from jipflow.settings.protocol import Disclosure
from survival_world import GRID, curves


def patients(size, seed=0, prefix="p"):
    """Return clinical variables of patients, with as many events as ends without one."""
    random = np.random.default_rng(seed)
    rows = pd.DataFrame({"case_id": [f"{prefix}{i:03d}" for i in range(size)]})
    rows["patient"] = rows["case_id"]
    rows["days"] = np.ceil(random.uniform(1, 3600, size))
    rows["months"] = rows["days"] / 30.44
    rows["dead"] = np.arange(size) % 2.0
    rows["relapse"] = np.arange(size) // 2 % 2.0
    return rows


def asked(kind, rows, **more):
    """Return what one analysis proposes of rows."""
    analysis = {
        "kaplan_meier": lambda: KaplanMeier(Settings(**curves(**more))),
        "histogram": lambda: Histogram(HistogramSettings(id="h", kind=kind, **more)),
        "summary": lambda: Summary(SummarySettings(id="s", kind=kind, **more)),
    }[kind]()
    table = rows.reset_index(drop=True).assign(**dict(zip(Place._fields, CLINICAL, strict=True)))
    return analysis.propose(Measured(table, Places.of([], ["days", "months", "dead", "relapse"])))


def decided(cells, pasts=()):
    """Return by the analysis' id what left, or which rule withheld it; and what the ledger has."""
    case = {case: case for cell in cells for case in cell.cases}
    found = decide(cells, case, Disclosure(min_patients=5), Regions(), History(pasts))
    left = {}
    for each in found:
        rules = [r.code for r, what in each.findings.items() if what is Finding.WITHHELD]
        left[each.proposed.analysis.settings.id] = rules[0] if rules else each.released
    return left, _behind(found, Noisy(), {}, {}, {}).past()


def asked_twice(first, second):
    """Return what the second of two releases gives, once the first has left."""
    left, past = decided(first)
    assert not any(isinstance(each, str) for each in left.values())
    (found,) = decided(second, [past])[0].values()
    return found


ROWS = patients(80)


def test_the_same_curve_leaves_again():
    again = asked("kaplan_meier", ROWS)
    assert asked_twice(asked("kaplan_meier", ROWS), again).cuts


@pytest.mark.parametrize("change", [{"grid": [*GRID[:-1], 3600]}, {"event": "clinical.relapse"}])
def test_edges_or_events_that_change_from_release_to_release_have_no_answer(change):
    """Who is between an edge and the same a little later would be their difference."""
    assert asked_twice(asked("kaplan_meier", ROWS), asked("kaplan_meier", ROWS, **change)) == (
        "earlier"
    )


MONTHS = {"variables": ["clinical.months"], "grid": [6, 12, 24, 36, 60, 118]}


def test_the_same_times_in_other_units_have_no_curve_of_their_own():
    """Twelve months are 365.28 days: who is between these and 365 would be known."""
    both = [*asked("kaplan_meier", ROWS), *asked("kaplan_meier", ROWS, id="in-months", **MONTHS)]
    left, _ = decided(both)
    assert left["in-months"].cuts
    assert left["survival"] == "one_curve"
    again = asked("kaplan_meier", ROWS, **MONTHS)
    assert asked_twice(asked("kaplan_meier", ROWS), again) == "earlier"


@pytest.mark.parametrize("one", [0, 17])
def test_a_cohort_without_one_patient_does_not_leave(one):
    fewer = ROWS.drop(index=one)
    assert asked_twice(asked("kaplan_meier", ROWS), asked("kaplan_meier", fewer)) == "earlier"
    assert asked_twice(asked("kaplan_meier", fewer), asked("kaplan_meier", ROWS)) == "earlier"


def test_few_who_join_in_an_interval_do_not_leave():
    """Ten join, of whom one has the event in the first interval: it would be known."""
    more = patients(10, 5, "q").assign(days=np.linspace(1900, 3600, 10))
    more.loc[1, "days"] = 50.0
    grown = pd.concat([ROWS, more], ignore_index=True)
    assert asked_twice(asked("kaplan_meier", ROWS), asked("kaplan_meier", grown)) == "earlier"


def test_enough_who_join_leave():
    grown = pd.concat([ROWS, patients(80, 5, "q").assign(days=ROWS["days"])], ignore_index=True)
    found = asked_twice(asked("kaplan_meier", ROWS), asked("kaplan_meier", grown))
    assert found.n == 160


def test_a_time_that_was_followed_up_further_does_not_leave():
    later = ROWS.assign(days=ROWS["days"] + (ROWS.index == 3) * 400.0)
    assert asked_twice(asked("kaplan_meier", ROWS), asked("kaplan_meier", later)) == "earlier"


def test_all_less_two_groups_do_not_leave():
    """Each is in the whole; of all three it would follow who of the others is in an interval."""
    women, men = ROWS[:30], ROWS[30:60]
    _, first = decided(asked("kaplan_meier", women))
    _, second = decided(asked("kaplan_meier", men), [first])
    (found,) = decided(asked("kaplan_meier", ROWS), [first, second])[0].values()
    assert found == "earlier"


@pytest.mark.parametrize("reverse", [False, True])
def test_bins_of_the_times_and_a_curve_do_not_both_leave(reverse):
    edges = {"variables": ["clinical.days"], "edges": [0, 1000, 2000, 3700]}
    releases = [asked("kaplan_meier", ROWS), asked("histogram", ROWS, **edges)]
    assert asked_twice(*(releases[::-1] if reverse else releases)) == "earlier"


@pytest.mark.parametrize("reverse", [False, True])
def test_all_events_and_those_of_a_group_do_not_give_few_of_the_others(reverse):
    """All events by a mean, those of a group by its curve: of the others one has had it."""
    rows = ROWS.assign(dead=np.where(ROWS.index < 60, ROWS["dead"], ROWS.index == 70) * 1.0)
    releases = [
        asked("summary", rows, variables=["clinical.dead"]),
        asked("kaplan_meier", rows[:60]),
    ]
    assert asked_twice(*(releases[::-1] if reverse else releases)) == "earlier"


def test_all_events_beside_the_curve_of_the_same_patients_leave():
    mean = asked("summary", ROWS, variables=["clinical.dead"])
    assert asked_twice(mean, asked("kaplan_meier", ROWS)).n == 80
    assert asked_twice(asked("kaplan_meier", ROWS), mean).n == 80


def by_months(rows, days, others=0):
    """Return patients with whether they died by a day, and how many more it names so."""
    early = (rows["days"] <= days) & (rows["dead"] == 1)
    late = rows.index[~early][:others]
    return rows.assign(early=(early | rows.index.isin(late)) * 1.0)


def tables(rows):
    analysis = Crosstab(
        CrosstabSettings(
            id="table", kind="crosstab", variables=["clinical.early"], values=["no", "yes"]
        )
    )
    table = rows.reset_index(drop=True).assign(**dict(zip(Place._fields, CLINICAL, strict=True)))
    return analysis.propose(Measured(table, Places.of([], ["days", "dead", "early"])))


@pytest.mark.parametrize("others", [2, 4])
def test_a_category_that_differs_in_few_from_those_who_died_by_an_edge(others):
    """Deaths within 25 months beside a curve with an edge at 24: the times of those between."""
    rows = by_months(ROWS, 730, others)
    curve, table = asked("kaplan_meier", rows), tables(rows)
    left, _ = decided([*curve, *table])
    # Without the rule: two counts, whose difference is how many died between the two.
    assert left["table"] == "difference" or left["survival"] == "difference"
    assert asked_twice(curve, table) == "earlier"
    assert asked_twice(table, curve) == "earlier"


@pytest.mark.parametrize("others", [0, 5])
def test_a_category_of_those_who_died_by_an_edge_or_of_many_others_stays(others):
    rows = by_months(ROWS, 730, others)
    left, _ = decided([*asked("kaplan_meier", rows), *tables(rows)])
    assert not any(isinstance(each, str) for each in left.values())
    assert asked_twice(tables(rows), asked("kaplan_meier", rows)).cuts


def test_a_category_of_all_that_differs_in_few_from_a_curve_of_a_group():
    """The few are in the group, whatever the others' values are."""
    group = ROWS.iloc[:60]
    early = (ROWS["days"] <= 1095) & (ROWS["dead"] == 1) & (ROWS.index < 60)
    rows = ROWS.assign(early=early * 1.0)
    assert asked_twice(tables(rows), asked("kaplan_meier", group)).cuts
    rows.loc[rows.index[~early][:2], "early"] = 1.0
    assert asked_twice(tables(rows), asked("kaplan_meier", group)) == "earlier"
