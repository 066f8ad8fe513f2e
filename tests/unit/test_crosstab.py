"""Tables of categories from sites' files to the hub's page: exact, and of few patients nothing."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency

from federation_world import accept, hub_settings, protocol, site
from jipflow.analyses.cells import CLINICAL, CellKey, Measured, Place, Places
from jipflow.analyses.contract import CellBelowMinimum, ImpossibleCell
from jipflow.analyses.crosstab import Cell, Content, Crosstab, Released, Settings
from jipflow.analyses.facts import Limits
from jipflow.analyses.rules import Finding, Passed
from jipflow.hub.merge import merge
from jipflow.hub.rounds import Outlook
from jipflow.hub.tables import write_tables
from jipflow.release.candidate import _behind
from jipflow.release.gate import decide
from jipflow.release.history import History
from jipflow.release.noise import Noisy
from jipflow.release.saturation import Regions
from jipflow.report.hub import write_hub_report
from jipflow.settings.protocol import Disclosure
from jipflow.settings.resources import ConfigError
from survival_world import built

STAGES, SEXES = ["I", "II", "III"], ["F", "M"]
VARIABLES = [
    {"name": "stage", "type": "category", "values": STAGES},
    {"name": "sex", "type": "category", "values": SEXES},
    {"name": "dead", "type": "event"},
]
ACROSS = {"variable": "clinical.sex", "values": SEXES}
BY = {"of": "clinical.sex", "groups": {"women": "F", "men": "M"}}
SITES = {"north": 110, "south": 140, "west": 130}
KEY = CellKey("clinical", "clinical", "patient", "stage")


def counted(id="stages", **more):
    """Return an entry of the protocol."""
    return {
        **{"id": id, "kind": "crosstab", "variables": ["clinical.stage"], "values": STAGES},
        **more,
    }


def content(*analyses, **changes):
    return protocol(analyses=list(analyses or [counted()]), clinical=VARIABLES, **changes)


def categories(size, seed=0, shares=(0.4, 0.35, 0.25)):
    random = np.random.default_rng(seed)
    rows = pd.DataFrame({"sex": random.choice(SEXES, size, p=[0.6, 0.4])})
    rows["stage"] = random.choice(STAGES, size, p=shares)
    rows["dead"] = (random.random(size) < 0.5) * 1.0
    return rows


def world(root, *analyses, name="north", patients=60, seed=0, **more):
    made = site(root, name, patients, seed, content=content(*analyses), **more)
    cases = made.table[["case_id", "patient"]].drop_duplicates().reset_index(drop=True)
    found = pd.concat([cases, categories(patients, seed)], axis=1)
    found.loc[3:8, "sex"] = None
    made.clinical = found[["case_id", "patient", "stage", "sex", "dead"]]
    return made


def round_of(root, *analyses):
    sites = [
        world(root, *analyses, name=name, patients=n, seed=seed)
        for seed, (name, n) in enumerate(SITES.items())
    ]
    settings = hub_settings(sites, root / "inbox", content(*analyses))
    for made in sites:
        made.send(root / "inbox")
    accepted, rejected = accept(inbox=root / "inbox", settings=settings)
    assert rejected == []
    return sites, accepted, settings, merge(accepted=accepted, settings=settings)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Return sites, messages, settings and result of stages across sexes."""
    return round_of(tmp_path_factory.mktemp("across"), counted("across", across=ACROSS))


def analysis_of(result, id):
    return next(analysis for analysis in result["analyses"] if analysis["id"] == id)


def pooled(sites):
    return pd.concat([made.clinical for made in sites])


def test_a_table_of_three_sites_is_that_of_all_rows(together):
    sites, _, _, result = together
    (cell,) = analysis_of(result, "across")["cells"]
    rows = pooled(sites)
    table = pd.crosstab(rows["stage"], rows["sex"])
    assert cell["counts"] == table.to_numpy().tolist()
    assert cell["n"] == table.to_numpy().sum() == sum(SITES.values()) - 3 * 6
    peer = chi2_contingency(table, correction=False)
    assert cell["test"]["statistic"] == pytest.approx(peer.statistic, rel=1e-9)
    assert cell["test"]["p"] == pytest.approx(peer.pvalue, rel=1e-9)
    assert cell["withheld"] == []


def test_groups_are_compared_over_all_sites(tmp_path):
    sites, _, _, result = round_of(tmp_path, counted("by-sex", by=BY))
    (test,) = analysis_of(result, "by-sex")["tests"]
    rows = pooled(sites)
    peer = chi2_contingency(pd.crosstab(rows["stage"], rows["sex"]), correction=False)
    assert (test["groups"], test["same_sites"]) == (["men", "women"], True)
    assert test["statistic"] == pytest.approx(peer.statistic, rel=1e-9)


def test_sites_are_compared_where_there_are_no_groups(tmp_path):
    sites, _, _, result = round_of(tmp_path, counted())
    (cell,) = analysis_of(result, "stages")["cells"]
    rows = pd.concat([made.clinical.assign(site=made.name) for made in sites])
    peer = chi2_contingency(pd.crosstab(rows["site"], rows["stage"]), correction=False)
    assert cell["test"]["statistic"] == pytest.approx(peer.statistic, rel=1e-9)
    assert cell["counts"] == [[int((rows["stage"] == stage).sum())] for stage in STAGES]


def test_the_page_and_the_tables_show_the_counts(together, tmp_path):
    _, accepted, settings, result = together
    write_hub_report(
        result=result,
        accepted=accepted,
        rejected=[],
        outlook=Outlook(1, sorted(SITES), [], further=False),
        settings=settings,
        path=tmp_path / "hub.html",
    )
    page = (tmp_path / "hub.html").read_text(encoding="utf-8")
    (cell,) = analysis_of(result, "across")["cells"]
    for row in cell["counts"]:
        assert "".join(f'<td class="num">{n}</td>' for n in [*row, sum(row)]) in page
    assert "Tests of independence" in page
    write_tables(result, tmp_path / "tables")
    with (tmp_path / "tables" / "across.table.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if not row["site"]]
    assert [int(row["count"]) for row in rows] == [n for row in cell["counts"] for n in row]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def with_table(root, table, *analyses):
    """Return a site whose patients have the stages and the sexes of a table."""
    pairs = [
        (stage, sex)
        for stage, row in zip(STAGES, table, strict=True)
        for sex, n in zip(SEXES, row, strict=True)
        for _ in range(n)
    ]
    made = world(root, *analyses, patients=len(pairs))
    made.clinical["stage"], made.clinical["sex"] = zip(*pairs, strict=True)
    return made


FEW = [[30, 20], [12, 3], [20, 9]]


def test_a_count_of_few_leaves_with_three_others_withheld(tmp_path):
    left, lost, record = built(with_table(tmp_path, FEW, counted("a", across=ACROSS)))
    assert lost == {}
    assert left["a", ""]["counts"] == [[30, 20], [None, None], [None, None]]
    (recorded,) = record["cells"]
    assert recorded["withheld_counts"] == [2, 3, 4, 5]
    assert recorded["rules"]["few_in_table"] == "some counts withheld"


def test_the_releaser_reads_every_count(tmp_path):
    left, _, _ = built(with_table(tmp_path, FEW, counted("a", across=ACROSS)))
    released = Released(
        id="a", kind="crosstab", values=STAGES, across=ACROSS, cells=[Cell(**left["a", ""])]
    )
    (group,) = Crosstab.draw_release(released).groups
    shown = [[str(cell.text) for cell in row] for row in group.table.rows]
    withheld = '<span class="muted">withheld</span>'
    assert shown == [
        ["I", "30", "20", "50"],
        ["II", withheld, withheld, ""],
        ["III", withheld, withheld, ""],
        ["All", "", "", "<b>94</b>"],
    ]
    assert Crosstab.part_names(released)[3] == "II, M"


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ([[30, 20], [1, 3], [20, 9]], "few_in_table"),
        ([[30, 3], [0, 0], [20, 0]], "few_in_table"),
        ([[30, 0], [20, 0], [10, 0]], "one_value"),
        ([[30, 20], [0, 0], [0, 0]], "one_value"),
    ],
)
def test_tables_of_few_or_of_one_value_are_withheld(tmp_path, table, rule):
    assert built(with_table(tmp_path, table, counted("a", across=ACROSS)))[1] == {("a", ""): [rule]}


def test_a_patient_with_two_cases_is_no_row(tmp_path):
    made = world(tmp_path, counted())
    for table in (made.table, made.clinical):
        table.loc[table["patient"] == "pseudonorth0001", "patient"] = "pseudonorth0000"
    assert built(made)[1] == {("stages", ""): ["one_row"]}


def test_a_table_the_other_way_round_withholds_the_same_or_stays(tmp_path):
    """What one of the two shows of the counts that the other withholds would be known."""
    turned = {
        "variables": ["clinical.sex"],
        "values": SEXES,
        "across": {"variable": "clinical.stage", "values": STAGES},
    }
    made = with_table(tmp_path, FEW, counted("a", across=ACROSS), counted("b", **turned))
    left, lost, _ = built(made)
    assert set(left) == {("a", "")}
    assert lost == {("b", ""): ["difference"]}


def test_a_table_of_those_who_have_another_category_does_not_give_the_others(tmp_path):
    """Of all 110 and of the 104 with a sex, the six who are left would have their stages."""
    made = world(tmp_path, counted("a"), counted("b", across=ACROSS), patients=110)
    assert made.clinical["sex"].isna().sum() == 6
    left, lost, _ = built(made)
    assert set(left) == {("a", "")}
    assert lost == {("b", ""): ["difference"]}


def test_all_and_a_group_do_not_give_counts_of_few_of_the_others(tmp_path):
    """Of 30 and 27 in a stage, the three who are left are in the other group."""
    made = with_table(tmp_path, [[27, 3], [20, 20], [20, 20]], counted("a"), counted("b", by=BY))
    left, _, _ = built(made)
    assert not {("a", ""), ("b", "women")} <= set(left)


def asked(rows, **more):
    analysis = Crosstab(Settings(**counted("a", **more)))
    codes = {"stage": STAGES.index, "sex": SEXES.index}
    table = rows.assign(**dict(zip(Place._fields, CLINICAL, strict=True)))
    for name, position in codes.items():
        table[name] = [float(position(value)) for value in rows[name]]
    return analysis.propose(Measured(table, Places.of([], ["stage", "sex"])))


def decided(cells, pasts=()):
    case = {case: case for cell in cells for case in cell.cases}
    (found,) = decide(cells, case, Disclosure(min_patients=5), Regions(), History(pasts))
    rules = [r.code for r, what in found.findings.items() if what is Finding.WITHHELD]
    return rules[0] if rules else found.released, _behind([found], Noisy(), {}, {}, {}).past()


def patients(size, seed=0, prefix="p"):
    rows = categories(size, seed)
    rows["case_id"] = rows["patient"] = [f"{prefix}{i:03d}" for i in range(size)]
    return rows


def test_the_same_table_leaves_again_and_a_cohort_without_one_patient_does_not():
    rows = patients(120)
    left, past = decided(asked(rows, across=ACROSS))
    assert left.n == 120
    assert decided(asked(rows, across=ACROSS), [past])[0].n == 120
    fewer = rows[:-1]
    assert decided(asked(fewer, across=ACROSS), [past])[0] == "earlier"


@pytest.mark.parametrize("across", [{}, {"across": ACROSS}])
def test_few_who_join_in_a_count_do_not_leave(across):
    """Twelve join, of whom one has another stage: it would be known."""
    rows, more = patients(120), patients(12, 5, "q")
    _, past = decided(asked(rows, **across))
    more["stage"] = ["III"] + ["I"] * 11
    assert decided(asked(pd.concat([rows, more], ignore_index=True), **across), [past])[0] == (
        "earlier"
    )


def test_enough_who_join_leave():
    rows, more = patients(120), patients(120, 5, "q")
    _, past = decided(asked(rows, across=ACROSS))
    grown = pd.concat([rows, more], ignore_index=True)
    assert decided(asked(grown, across=ACROSS), [past])[0].n == 240


ANALYSIS = Crosstab(Settings(**counted(across=ACROSS)))
LIMITS = Limits(5, 1, 0, 2)


def cell(counts, n):
    return Cell(**KEY._asdict(), counts=counts, n=n)


def test_the_hub_takes_what_a_site_sends():
    ANALYSIS.verify(cell([[30, 20], [None, None], [None, None]], 94), LIMITS)
    ANALYSIS.verify(cell([[30, 20], [0, 6], [7, 9]], 72), LIMITS)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("across", [{}, {"across": ACROSS}])
def test_the_hub_takes_whatever_an_honest_site_sends(seed, across):
    random = np.random.default_rng(seed)
    analysis = Crosstab(Settings(**counted(**across)))
    shape = (3, len(analysis.settings.columns))
    table = random.poisson(random.choice([0, 3, 8, 20], shape))
    minimum = int(random.integers(5, 9))
    content_ = Content(table.tolist(), repeated=False)
    found = analysis.check(content_, int(table.sum()), Disclosure(min_patients=minimum))
    if isinstance(found, Passed):
        sent = cell(found.numbers["counts"], int(table.sum()))
        analysis.verify(sent, Limits(minimum, 1, 0, 2))
        assert analysis.parts(sent) == found.parts


@pytest.mark.parametrize(
    ("counts", "n", "error"),
    [
        ([[30, 20], [9, 9]], 68, ImpossibleCell),
        ([[30], [20], [9]], 59, ImpossibleCell),
        ([[30, 20], [9, 9], [9, 9]], 87, ImpossibleCell),
        ([[30, 20], [9, 9], [9, 9]], 80, ImpossibleCell),
        ([[30, 20], [9, 4], [9, 9]], 81, CellBelowMinimum),
        ([[30, 20], [None, 9], [9, 9]], 100, CellBelowMinimum),
        ([[30, 20], [None, None], [None, None]], 53, CellBelowMinimum),
    ],
)
def test_the_hub_refuses_what_no_honest_site_sends(counts, n, error):
    with pytest.raises(error):
        ANALYSIS.verify(cell(counts, n), LIMITS)


def test_a_count_that_a_site_withheld_has_no_total_and_there_is_no_test():
    one, other = cell(FEW, 94), cell([[30, 20], [None, None], [None, None]], 94)
    found = ANALYSIS.merge({"north": one, "south": other})
    assert found["counts"] == [[60, 40], [None, None], [None, None]]
    assert found["withheld"][0] == {"count": "II, F", "sites": ["south"]}
    assert found["test"]["reason"] == "withheld"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"values": ["I", "II"]}, ["'stage' has other values: [I, II, III]"]),
        ({"values": ["I", "III", "II"]}, ["other values"]),
        ({"variables": ["clinical.dead"]}, ["of the type event, and no category"]),
        ({"variables": ["CT.volume_ml"]}, ["is no category"]),
        ({"across": ACROSS | {"variable": "clinical.sax"}}, ["did you mean 'sex'"]),
        ({"across": ACROSS | {"values": ["F", "X"]}}, ["across: sex", "other values: [F, M]"]),
        ({"across": {"variable": "clinical.stage", "values": STAGES}}, ["among `variables`"]),
    ],
)
def test_wrong_settings_are_named(changes, parts):
    with pytest.raises(ConfigError) as error:
        content(counted(**changes))
    assert all(part in str(error.value) for part in parts), str(error.value)
