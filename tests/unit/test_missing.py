"""Patients without a value by reason, from a site's tables to the hub's page; of few nothing."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pandas as pd
import pytest

from federation_world import accept, hub_settings, protocol, site
from jipflow.absences import OF_CLINICAL, OF_CODE, OF_FEATURES, Absence
from jipflow.analyses.cells import CLINICAL, CellKey, Cohort, Measured, Place, Places
from jipflow.analyses.contract import CellBelowMinimum, ImpossibleCell
from jipflow.analyses.facts import Limits
from jipflow.analyses.missing import Cell, Missing, Released, Settings
from jipflow.analyses.rules import Finding
from jipflow.analyses.summary import Settings as SummarySettings
from jipflow.analyses.summary import Summary
from jipflow.exchange.refusals import Refused
from jipflow.hub.check import Asked, _check_together
from jipflow.hub.merge import merge
from jipflow.hub.rounds import Outlook
from jipflow.outcomes import Outcome, Status
from jipflow.reasons import Gap, Reason
from jipflow.release.absent import Reasons, _ended
from jipflow.release.candidate import _behind
from jipflow.release.contents import ReleaseError
from jipflow.release.gate import decide
from jipflow.release.history import History
from jipflow.release.noise import Noisy
from jipflow.release.saturation import Regions
from jipflow.report.hub import write_hub_report
from jipflow.settings.protocol import Disclosure
from jipflow.settings.resources import ConfigError

SITES = {"north": 40, "south": 50, "west": 45}
VARIABLES = [
    {"name": "age", "type": "number", "unit": "a"},
    {"name": "sex", "type": "category", "values": ["F", "M"]},
]
DESCRIBE = {"id": "describe", "kind": "summary", "variables": ["CT.volume_ml", "clinical.age"]}
LACKING = {
    **{"id": "missing", "kind": "missing"},
    "variables": ["CT.volume_ml", "clinical.age", "clinical.sex"],
}
SPLEEN = CellKey("CT", "organs", "spleen", "volume_ml")
AGE = CellKey(*CLINICAL, "age")


def world(root, name="north", patients=40, seed=0, few=0, **more):
    """Return a site of whose patients the last 6 have no usable image, and others no spleen.

    Args:
        few: have a spleen and no liver.
        more: keys of both analyses.
    """
    analyses = [each | more for each in (DESCRIBE, LACKING)]
    content = protocol(analyses=analyses, clinical=VARIABLES)
    made = site(root, name, patients, seed, content=content)
    cases = list(made.table["case_id"].unique())
    no_spleen = made.table["case_id"].isin(cases[:8]) & (made.table["segment"] == "spleen")
    empty = made.table["case_id"].isin(cases[10 : 10 + few]) & (made.table["segment"] == "liver")
    made.table = made.table[~no_spleen & ~empty].reset_index(drop=True)
    made.absent = {f"absent{name}{i}": "missing_slices" for i in range(6)}
    people = [*made.table[["case_id", "patient"]].drop_duplicates().to_numpy().tolist()]
    people += [[case, f"pseudo{case}"] for case in made.absent]
    clinical = pd.DataFrame(people, columns=["case_id", "patient"])
    clinical["age"] = np.random.default_rng(seed).normal(60, 9, len(clinical))
    clinical["sex"] = np.where(np.arange(len(clinical)) % 2, "M", "F")
    clinical.loc[:13, "age"] = np.nan
    made.clinical = clinical
    for case in clinical["case_id"][:8]:
        made.gaps[case, "age"] = "outside_window"
    return made


def numbers(made):
    """Return the cells of missing values that leave, and the rules that withheld others."""
    made.write()
    aggregates, record = made.build()
    left = {
        (cell["segment"], cell["feature"]): cell
        for analysis in aggregates["analyses"]
        for cell in analysis["cells"]
        if analysis["kind"] == "missing"
    }
    lost = {
        (cell["analysis"], cell["segment"], cell["feature"]): [
            rule for rule, found in cell["rules"].items() if found == "withheld"
        ]
        for cell in record["cells"]
        if not cell["released"]
    }
    return left, lost


def shown(cell):
    return {reason: n for reason, n in cell["counts"].items() if n is not None}


def test_a_site_counts_its_patients_by_reason(tmp_path):
    left, lost = numbers(world(tmp_path))
    assert lost == {}
    assert {key: (cell["n"], shown(cell)) for key, cell in left.items()} == {
        ("liver", "volume_ml"): (40, {"image_refused": 6}),
        ("spleen", "volume_ml"): (32, {"image_refused": 6, "no_region": 8}),
        ("patient", "age"): (32, {"not_recorded": 6, "no_date": 8}),
        ("patient", "sex"): (46, {}),
    }
    assert left["patient", "sex"]["counts"] == dict.fromkeys(OF_CLINICAL)
    assert list(left["liver", "volume_ml"]["counts"]) == sorted(OF_FEATURES)


def test_every_reason_code_counts_as_one_of_a_few():
    assert OF_CODE.keys() == {*map(str, Gap), *map(str, Reason)}
    assert {OF_CODE[gap] for gap in Gap} == set(OF_CLINICAL)
    assert {OF_CODE[reason] for reason in Reason} == set(OF_FEATURES)
    assert {*OF_CLINICAL, *OF_FEATURES} == set(Absence)


def reasons(**changes):
    outcomes = [
        Outcome("refused", "prepare", "PT", Status.FAILED, "unsupported_units"),
        Outcome("refused", "segment", "gtv", Status.FAILED, "depends_on_failed"),
        Outcome("refused", "measure", "gtv", Status.FAILED, "depends_on_failed"),
        Outcome("waiting", "segment", "gtv", Status.WAITING, "awaiting_reader"),
        Outcome("waiting", "measure", "gtv", Status.WAITING, "depends_on_waiting"),
        Outcome("unsent", "publish", "gtv", Status.FAILED, "publish_rejected"),
        Outcome("odd", "measure", "gtv", Status.FAILED, "unexpected_error"),
    ]
    done = ("unsent", "flat", "empty", "left-out")
    of_gtv = ("PT", "gtv", "gtv")
    return Reasons(
        roles={
            "unseen": {"CT"},
            **{case: {"CT", "PT"} for case in ("refused", "waiting", "odd", "lost", *done)},
        },
        segmented_on={"gtv": "PT"},
        ended=_ended(outcomes),
        failures={
            ("flat", *of_gtv, "glcm"): "undefined_feature",
            ("empty", *of_gtv, "*"): "empty_segment",
        },
        done={(case, "gtv") for case in done},
        measured={(case, *of_gtv) for case in ("unsent", "flat", "empty")},
        gaps={("old", "age"): "outside_window", ("odd", "age"): "another"},
    )


@pytest.mark.parametrize(
    ("case", "absence"),
    [
        ("unseen", Absence.NO_IMAGE),
        ("refused", Absence.IMAGE_REFUSED),
        ("waiting", Absence.NOT_SEGMENTED),
        ("left-out", Absence.NO_REGION),
        ("empty", Absence.NO_REGION),
        ("flat", Absence.UNDEFINED),
        ("unsent", Absence.UNDEFINED),
        ("odd", Absence.OTHER),
        ("lost", Absence.OTHER),
    ],
)
def test_why_a_case_has_no_value_of_a_feature(case, absence):
    assert reasons().absence(case, CellKey("PT", "gtv", "gtv", "glcm")) is absence


def test_why_a_case_has_no_value_of_a_clinical_variable():
    assert reasons().absence("old", AGE) is Absence.NO_DATE
    for case in ("odd", "new"):
        with pytest.raises(ReleaseError, match=f"case {case} has no age and no reason"):
            reasons().absence(case, AGE)


ANALYSIS = Missing(Settings(id="missing", kind="missing", variables=["clinical.*"]))
NAMES = "abcde"


def asked(why, analysis=ANALYSIS, patient_of=None):
    """Return the cells of clinical variables.

    Args:
        why: by case, of each variable that it lacks the reason.
        patient_of: patient of each case that has another name.
    """
    patient_of = {case: case for case in why} | (patient_of or {})
    names = sorted({name for lacks in why.values() for name in lacks} | {"a"})
    table = pd.DataFrame({"case_id": list(why), "patient": [patient_of[case] for case in why]})
    for name in names:
        values = np.random.default_rng(ord(name)).normal(60, 9, 1000)
        lacks = [name in why[case] for case in why]
        table[name] = np.where(lacks, np.nan, values[[int(case[1:]) for case in why]])
    table = table.assign(**dict(zip(Place._fields, CLINICAL, strict=True)))
    cohort = Cohort(patient_of, lambda case, key: why[case][key.feature])
    return analysis.propose(Measured(table, Places.of([], names), cohort=cohort))


def gated(cells, pasts=(), minimum=5):
    """Return what leaves of each cell or the rule that withheld it, and what stands behind."""
    case_of = {case: case for cell in cells for piece in cell.pieces for case in piece.cases}
    disclosure = Disclosure(min_patients=minimum)
    decisions = decide(cells, case_of, disclosure, Regions(), History(pasts))
    found = {}
    for each in decisions:
        rules = [rule.code for rule, what in each.findings.items() if what is Finding.WITHHELD]
        key = (each.proposed.analysis.settings.kind, each.proposed.key.feature)
        found[key] = rules[0] if rules else each.released
    return found, _behind(decisions, Noisy(), {}, {}, {}).past()


def lacking(*sizes, of=40, reason=Absence.NO_ENTRY, start=0):
    """Return cases of which the first ones lack a variable each: so many from a start on."""
    found = {f"c{i}": {} for i in range(of)}
    for name, size in zip(NAMES, sizes, strict=False):
        for i in range(start, start + size):
            found[f"c{i}"][name] = reason
    return found


def of(found, name="a"):
    """Return the numbers of a variable that leave, or the rule."""
    cell = found["missing", name]
    return cell if isinstance(cell, str) else shown(cell.plain())


@pytest.mark.parametrize("few", [1, 4])
def test_few_without_a_value_look_the_same_as_nobody(few):
    """Of 40 who have a value nothing tells whether the cohort has 40 or 44."""
    nobody, _ = gated(asked(lacking()))
    found, _ = gated(asked(lacking(few, of=40 + few)))
    assert found["missing", "a"] == nobody["missing", "a"]
    assert shown(nobody["missing", "a"].plain()) == {}


def test_a_number_of_few_does_not_follow_from_the_others():
    """Ten have no entry and three no record: neither the 13 nor the cohort leaves."""
    why = lacking(10)
    for i in range(10, 13):
        why[f"c{i}"]["a"] = Absence.NOT_RECORDED
    found, _ = gated(asked(why))
    cell = found["missing", "a"].plain()
    assert shown(cell) == {"no_entry": 10}
    assert cell.keys() - set(CellKey._fields) == {"n", "counts"}
    assert "40" not in json.dumps(cell)


def test_a_patient_with_any_value_has_one():
    why = {f"c{i}": {} for i in range(20)} | {
        f"c{i}": {"a": Absence.NO_DATE} for i in range(20, 34)
    }
    again = {f"c{i}": f"c{i - 20}" for i in range(20, 28)}
    (cell,) = asked(why, patient_of=again)
    (lacks,) = cell.content.lacking.values()
    assert set(lacks.patients) == {f"c{i}" for i in range(28, 34)}


def test_a_patient_counts_by_the_case_that_was_closest_to_a_value():
    why = {"c0": {"a": Absence.NO_DATE}, "c1": {"a": Absence.NOT_RECORDED}, "c2": {}}
    (cell,) = asked(why, patient_of={"c1": "c0"})
    assert {reason: set(of.cases) for reason, of in cell.content.lacking.items()} == {
        Absence.NO_DATE: {"c0", "c1"}
    }


def test_numbers_of_variables_that_differ_in_one_patient_do_not_both_leave():
    """Ten lack one variable and eleven the other: one patient has this and not that."""
    found, _ = gated(asked(lacking(10, 11)))
    left = [name for name in "ab" if not isinstance(of(found, name), str)]
    assert len(left) == 1
    assert "difference" in (of(found, "a"), of(found, "b"))


def test_reasons_of_two_variables_that_differ_in_one_patient_do_not_both_leave():
    """Fourteen lack both; of one of these the reason is another one."""
    why = lacking(14, 14)
    for i in range(7, 14):
        why[f"c{i}"]["a"] = why[f"c{i}"]["b"] = Absence.NOT_RECORDED
    assert all(not isinstance(of(gated(asked(why))[0], name), str) for name in "ab")
    why["c7"]["b"] = Absence.NO_ENTRY
    found, _ = gated(asked(why))
    assert [of(found, name) for name in "ab"].count("difference") == 1


MEANS = Summary(SummarySettings(id="zz", kind="summary", variables=["clinical.*"]))


def random_reasons(seed):
    """Return reasons of 60 cases and five variables; some follow each other but for a few."""
    random = np.random.default_rng(seed)
    why = {f"c{i}": {} for i in range(60)}
    for name in NAMES:
        size = int(random.choice([0, 3, 8, 20]))
        start = int(random.choice([0, 0, 30]))
        for i in range(start, start + size):
            why[f"c{i}"][name] = OF_CLINICAL[int(random.random() < 0.3) + (i // 8) % 2]
    return why


@pytest.mark.parametrize("seed", range(8))
def test_no_mean_is_withheld_for_the_sake_of_a_count(seed):
    why = random_reasons(seed)
    means = asked(why, MEANS)
    alone, _ = gated(means)
    beside, _ = gated([*means, *asked(why)])
    assert {key: cell for key, cell in beside.items() if key[0] == "summary"} == alone


def test_a_mean_leaves_beside_many_counts_of_nearly_its_patients():
    """Two variables that three patients more have would else outweigh the one that has a mean."""
    why = lacking(13, 10, 10)
    mean = Summary(SummarySettings(id="zz", kind="summary", variables=["clinical.a"]))
    found, _ = gated([*asked(why, mean), *asked(why)])
    assert found["summary", "a"].n == 27
    assert [of(found, name) for name in "abc"] == [{"no_entry": 13}, "difference", "difference"]


@pytest.mark.parametrize("seed", range(8))
def test_whoever_has_all_numbers_finds_no_few(seed):
    """The smallest sets of patients that all released numbers tell apart have the minimum."""
    why = random_reasons(seed)
    found, _ = gated([*asked(why, MEANS), *asked(why)])
    sets = []
    for (kind, name), cell in found.items():
        if isinstance(cell, str):
            continue
        sets.append({case for case in why if name not in why[case]})
        assert len(sets[-1]) == cell.n
        if kind == "missing":
            for reason, n in shown(cell.plain()).items():
                sets.append({case for case in why if why[case].get(name) == reason})
                assert len(sets[-1]) == n
    everyone = set().union(*sets)
    sizes = {}
    for case in everyone:
        inside = tuple(case in each for each in sets)
        sizes[inside] = sizes.get(inside, 0) + 1
    assert all(size >= 5 for size in sizes.values())


def test_the_same_numbers_leave_again():
    why = lacking(8, 8)
    first, past = gated(asked(why))
    assert of(first) == {"no_entry": 8}
    assert gated(asked(why), [past])[0] == first


@pytest.mark.parametrize("more", [1, 4])
def test_few_more_without_a_value_do_not_leave(more):
    """The patients with a value are the same, so that only who lacks one tells of the few."""
    _, past = gated(asked(lacking(8)))
    grown = lacking(8)
    grown |= {f"c{i}": {"a": Absence.NO_ENTRY} for i in range(40, 40 + more)}
    assert of(gated(asked(grown), [past])[0]) == "earlier"


def test_enough_more_without_a_value_leave():
    _, past = gated(asked(lacking(8)))
    grown = lacking(8) | {f"c{i}": {"a": Absence.NO_ENTRY} for i in range(40, 46)}
    assert of(gated(asked(grown), [past])[0]) == {"no_entry": 14}


def test_that_a_number_is_large_enough_by_one_patient_more_does_not_show():
    """Four have no entry and are withheld; a fifth would tell that there were four."""
    first, past = gated(asked(lacking(4)))
    assert of(first) == {}
    grown = lacking(4) | {"c40": {"a": Absence.NO_ENTRY}}
    assert of(gated(asked(grown), [past])[0]) == "earlier"


def test_a_patient_who_changes_from_one_reason_to_another_does_not_show():
    """The numbers of patients with a value, and of those without, stay the same."""
    why = lacking(20)
    for i in range(10, 20):
        why[f"c{i}"]["a"] = Absence.NO_DATE
    _, past = gated(asked(why))
    why["c10"]["a"] = Absence.NO_ENTRY
    assert of(gated(asked(why), [past])[0]) == "earlier"


def test_parts_of_a_cohort_do_not_leave_few():
    """Twenty lack a variable; of two parts of the cohort with eight and nine, three are left."""
    whole = lacking(20, of=100)
    _, all_ = gated(asked(whole))
    one = {case: why for case, why in whole.items() if int(case[1:]) in range(8)}
    one |= {f"c{i}": {} for i in range(20, 50)}
    first, half = gated(asked(one), [all_])
    assert of(first) == {"no_entry": 8}
    two = {case: why for case, why in whole.items() if int(case[1:]) in range(8, 17)}
    two |= {f"c{i}": {} for i in range(50, 90)}
    assert of(gated(asked(two), [all_])[0]) == {"no_entry": 9}
    assert of(gated(asked(two), [all_, half])[0]) == "earlier"


def test_another_name_of_the_variable_hides_nothing():
    whole = lacking(20, of=100)
    _, all_ = gated(asked(whole))
    renamed = {
        f"c{i}": ({"b": Absence.NOT_RECORDED} if i < 18 else {})
        for i in [*range(18), *range(20, 60)]
    }
    assert of(gated(asked(renamed), [all_])[0], "b") == "earlier"


@pytest.mark.parametrize(("few", "withheld"), [(0, False), (3, True), (5, False)])
def test_a_variable_that_all_have_does_not_give_the_few_who_lack_another(tmp_path, few, withheld):
    """All 46 have a sex: less 40 - few who have a liver, and six without an image, few are left."""
    left, lost = numbers(world(tmp_path, few=few, segments=["liver"]))
    assert lost == ({("missing", "liver", "volume_ml"): ["difference"]} if withheld else {})
    assert left["patient", "sex"]["n"] == 46
    if few == 5:
        assert shown(left["liver", "volume_ml"]) == {"image_refused": 6, "no_region": 5}


LIMITS = Limits(5, 1)
WITHHELD = '<td class="num"><span class="muted">withheld</span></td>'


def sent(key=AGE, n=30, **counts):
    every = OF_CLINICAL if key.place == CLINICAL else OF_FEATURES
    return Cell(**key._asdict(), n=n, counts=dict.fromkeys(every) | counts)


def test_the_hub_takes_what_a_site_sends():
    ANALYSIS.verify(sent(no_entry=5, no_date=900), LIMITS)
    ANALYSIS.verify(sent(SPLEEN, no_region=5), LIMITS)


@pytest.mark.parametrize("counts", [{"no_region": 9}, {"other": None}])
def test_the_hub_refuses_reasons_that_there_cannot_be(counts):
    with pytest.raises(ImpossibleCell):
        ANALYSIS.verify(sent(**counts), LIMITS)


def test_the_hub_refuses_numbers_of_few():
    with pytest.raises(CellBelowMinimum):
        ANALYSIS.verify(sent(no_entry=6), Limits(7, 1))
    with pytest.raises(ValueError, match="greater than or equal to 5"):
        sent(no_entry=4)
    with pytest.raises(ValueError, match="greater than or equal to 5"):
        sent(no_entry=0)


def test_groups_are_refused():
    by = {"of": "clinical.sex", "groups": {"women": "F", "men": "M"}}
    with pytest.raises(ConfigError, match="counts all patients of the cohort"):
        protocol(analyses=[{**LACKING, "by": by}], clinical=VARIABLES)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Return sites, messages, settings and result; at one site three have a spleen and no liver."""
    root = tmp_path_factory.mktemp("missing")
    sites = [
        world(root, name, n, seed, few=3 * (name == "west"))
        for seed, (name, n) in enumerate(SITES.items())
    ]
    content = protocol(analyses=[DESCRIBE, LACKING], clinical=VARIABLES)
    settings = hub_settings(sites, root / "inbox", content)
    for made in sites:
        made.send(root / "inbox")
    accepted, rejected = accept(inbox=root / "inbox", settings=settings)
    assert rejected == []
    return accepted, settings, merge(accepted=accepted, settings=settings)


def merged(result, segment, feature):
    (analysis,) = (each for each in result["analyses"] if each["kind"] == "missing")
    (cell,) = (
        cell
        for cell in analysis["cells"]
        if (cell["segment"], cell["feature"]) == (segment, feature)
    )
    return cell


def test_the_hub_adds_what_sites_show(together):
    cell = merged(together[2], "spleen", "volume_ml")
    by_site = {part["site"]: part for part in cell["by_site"]}
    assert cell["sites"] == sorted(by_site) == ["north", "south"]
    assert cell["n"] == sum(part["n"] for part in by_site.values()) == 40 - 8 + 50 - 8
    assert cell["counts"]["no_region"] == 8 + 8
    assert cell["counts"]["no_image"] is None
    assert cell["withheld"]["no_image"] == cell["sites"]
    assert "no_region" not in cell["withheld"]


def test_the_hub_refuses_totals_that_differ_by_few():
    cells = {("missing", SPLEEN): sent(SPLEEN, n=24, no_image=6)}
    asked_for = Asked(
        analyses={"missing": ANALYSIS},
        places=[],
        features={},
        minimum=5,
        cases=1,
        clinical={"age": (0, 120)},
    )
    for n in (25, 30, 35):
        _check_together({**cells, ("missing", AGE): sent(n=n)}, asked_for, 5)
    for n in (27, 33):
        with pytest.raises(Refused, match=f"30 patients beside {n}"):
            _check_together({**cells, ("missing", AGE): sent(n=n)}, asked_for, 5)
    with pytest.raises(Refused, match="30 patients beside 32"):
        _check_together({**cells, ("missing", AGE): sent(n=20, no_date=12)}, asked_for, 5)


def test_a_sum_is_of_the_sites_that_show_it():
    sites = {"north": sent(no_entry=8), "south": sent(n=20), "west": sent(no_entry=5)}
    found = ANALYSIS.merge(sites)
    assert found["counts"] == dict.fromkeys(OF_CLINICAL) | {"no_entry": 13}
    assert found["withheld"]["no_entry"] == ["south"]
    assert (found["n"], len(found["by_site"])) == (80, 3)
    assert found == ANALYSIS.merge(dict(reversed(sites.items())))


def test_the_page_shows_a_site_that_withheld_as_withheld_and_never_as_0(together, tmp_path):
    accepted, settings, result = together
    write_hub_report(
        result=result,
        accepted=accepted,
        rejected=[],
        outlook=Outlook(1, sorted(SITES), [], further=False),
        settings=settings,
        path=tmp_path / "hub.html",
    )
    page = (tmp_path / "hub.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="analysis-missing">') :]
    section = section[: section.index("</section>")]
    assert "Missing values" in section
    assert ">0<" not in section
    assert section.count("The image is not whole, or nothing that can be measured.") == 1
    assert f"<td>west</td>{7 * WITHHELD}</tr>" in re.sub(r">\s+<", "><", section)
    with (tmp_path / "tables" / "missing.by_site.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    ages = {row["site"]: row for row in rows if row["feature"] == "age"}
    assert {site: row["counts.no_date"] for site, row in ages.items()} == dict.fromkeys(SITES, "8")
    assert {row["counts.not_allowed"] for row in rows if row["feature"] == "age"} == {""}
    spleens = [row["site"] for row in rows if row["segment"] == "spleen"]
    assert spleens == ["north", "south"]


def test_what_a_site_withheld_is_drawn_as_withheld():
    cell = {**AGE._asdict(), "sites": ["north"], **ANALYSIS.merge({"north": sent(no_entry=8)})}
    drawing = Missing.draw_result({"id": "missing", "cells": [cell]}, ["north", "south"])
    (group,) = drawing.groups
    texts = [[str(each.text) for each in row] for row in group.table.rows]
    withheld = '<span class="muted">withheld</span>'
    assert [row[1:] for row in texts] == [
        ["north", "30", withheld, "8", withheld, withheld],
        ["south", *[withheld] * 5],
        ["<b>All</b>", "30", withheld, "8", withheld, withheld],
    ]


def test_variables_with_the_same_numbers_share_their_rows():
    cells = [sent(AGE._replace(feature=name), no_entry=8) for name in ("age", "dose")]
    cells.append(sent(AGE._replace(feature="sex"), n=38))
    (group,) = Missing.draw_release(Released(id="missing", kind="missing", cells=cells)).groups
    assert [str(each.text) for each in group.table.head[:2]] == ["Variable", "With a value"]
    names = [str(row[0].text) for row in group.table.rows]
    assert len(names) == 2
    assert "age" in names[0]
    assert "and 1 more" in names[0]
