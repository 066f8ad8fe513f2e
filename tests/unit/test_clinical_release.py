"""Clinical variables in analyses: through the gate like features, and as groups."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from federation_world import MEAN, accept, hub_settings, protocol, site
from jipflow.hub.merge import merge
from jipflow.hub.rounds import Outlook
from jipflow.release.contents import ReleaseError, read_release
from jipflow.release.since import read_review
from jipflow.release.terms import Terms
from jipflow.report.basis import basis
from jipflow.report.disclosure import write_disclosure_page
from jipflow.report.hub import write_hub_report
from jipflow.settings.resources import ConfigError

VARIABLES = [
    {"name": "weight", "type": "number", "unit": "kg"},
    {"name": "sex", "type": "category", "values": ["F", "M"]},
    {"name": "dead", "type": "event"},
]
SEXES = {"of": "clinical.sex", "groups": {"women": "F", "men": "M"}}


def described(id="describe", *variables, **more):
    return {"id": id, "kind": "summary", "variables": list(variables), **more}


def content(*analyses, **changes):
    return protocol(analyses=list(analyses), clinical=VARIABLES, **changes)


def world(tmp_path, *analyses, sexes="F" * 9 + "M" * 11, name="north", seed=0):
    made = site(tmp_path, name, len(sexes), seed, content=content(*analyses))
    cases = made.table[["case_id", "patient"]].drop_duplicates().reset_index(drop=True)
    rng = np.random.default_rng(seed + 100)
    cases["weight"] = rng.normal(75, 9, len(cases))
    cases["sex"] = [None if sex == " " else sex for sex in sexes]
    cases["dead"] = rng.integers(0, 2, len(cases)).astype(float)
    made.clinical = cases
    return made


def built(made, failed=()):
    made.write(failed)
    aggregates, record = made.build()
    left = {
        (a["id"], c["role"], c["feature"], c["group"]): c
        for a in aggregates["analyses"]
        for c in a["cells"]
    }
    lost = {
        (c["analysis"], c["role"], c["feature"], c["group"]): [
            rule for rule, found in c["rules"].items() if found == "withheld"
        ]
        for c in record["cells"]
        if not c["released"]
    }
    return left, lost


def test_a_variable_needs_no_measured_case(tmp_path):
    made = world(tmp_path, described("age", "clinical.weight", f"CT.{MEAN}", segments=["liver"]))
    failed = list(made.clinical["case_id"][:6])
    left, lost = built(made, failed)
    assert lost == {}
    weight = left["age", "clinical", "weight", ""]
    assert (weight["n"], weight["segmentation"], weight["segment"]) == (20, "clinical", "patient")
    assert weight["mean"] == pytest.approx(made.clinical["weight"].mean(), rel=1e-12)
    assert left["age", "CT", MEAN, ""]["n"] == 14


def test_a_missing_value_is_of_no_number(tmp_path):
    made = world(tmp_path, described("age", "clinical.weight"))
    made.clinical.loc[:3, "weight"] = np.nan
    left, _ = built(made)
    assert left["age", "clinical", "weight", ""]["n"] == 16


def test_two_records_of_one_thing_that_differ_in_one_patient(tmp_path):
    """As within two windows of days: the difference of their means would be that patient's."""
    windows = [*VARIABLES, {"name": "weight_later", "type": "number", "unit": "kg"}]
    text = protocol(
        analyses=[described("a", "clinical.weight*")],
        clinical=windows,
        disclosure={"min_patients": 5},
    )
    made = world(tmp_path)
    made.settings = site(tmp_path / "two", "north", content=text).settings
    made.clinical["weight_later"] = made.clinical["weight"]
    made.clinical.loc[7, "weight_later"] += 3.7
    left, lost = built(made)
    assert list(left) == [("a", "clinical", "weight", "")]
    assert lost == {("a", "clinical", "weight_later", ""): ["difference"]}
    made.clinical["weight_later"] = np.random.default_rng(8).normal(75, 9, 20)
    assert len(built(made)[0]) == 2


def test_a_star_never_crosses_from_features_to_variables(tmp_path):
    made = world(tmp_path, described("all", "CT.original_*", "clinical.we*"))
    left, lost = built(made)
    assert {key[2] for key in (*left, *lost) if key[1] == "clinical"} == {"weight"}
    assert "weight" not in {key[2] for key in (*left, *lost) if key[1] == "CT"}


def test_few_patients_have_it(tmp_path):
    made = world(tmp_path, described("age", "clinical.weight"))
    made.clinical.loc[3:, "weight"] = np.nan
    assert built(made) == ({}, {("age", "clinical", "weight", ""): ["min_patients"]})


@pytest.mark.parametrize(("deaths", "leaves"), [(0, 0), (4, 0), (5, 1), (15, 1), (16, 0), (20, 0)])
def test_an_event_that_few_have_or_few_lack(tmp_path, deaths, leaves):
    made = world(tmp_path, described("d", "clinical.dead"))
    made.clinical["dead"] = [1.0] * deaths + [0.0] * (20 - deaths)
    left, lost = built(made)
    assert (len(left), len(lost)) == (leaves, 1 - leaves)


def test_groups_by_a_category(tmp_path):
    analysis = described("sexes", f"CT.{MEAN}", "clinical.weight", segments=["liver"], by=SEXES)
    made = world(tmp_path, analysis, sexes="F" * 8 + "M" * 12 + " " * 4)
    left, lost = built(made)
    assert lost == {}
    assert {(key[2], key[3]): cell["n"] for key, cell in left.items()} == {
        **{(MEAN, "women"): 8, (MEAN, "men"): 12},
        **{("weight", "women"): 8, ("weight", "men"): 12},
    }
    women = made.clinical["weight"][made.clinical["sex"] == "F"]
    cell = left["sexes", "clinical", "weight", "women"]
    assert cell["mean"] == pytest.approx(women.mean(), rel=1e-12)


def test_a_small_group_is_withheld_and_so_is_what_gives_it_away(tmp_path):
    analyses = [described("all", "clinical.weight"), described("b", "clinical.weight", by=SEXES)]
    left, lost = built(world(tmp_path, *analyses, sexes="F" * 3 + "M" * 17))
    assert lost["b", "clinical", "weight", "women"] == ["min_patients"]
    sums = {key[0::3] for key in left}
    assert len(sums & {("all", ""), ("b", "men")}) < 2


def test_the_hub_merges_what_sites_say_of_a_variable(tmp_path):
    sites = [
        world(tmp_path, described("age", "clinical.weight", by=SEXES), name=name, seed=seed)
        for seed, name in enumerate(("north", "south", "west"))
    ]
    settings = hub_settings(
        sites, tmp_path / "inbox", content(described("age", "clinical.weight", by=SEXES))
    )
    for made in sites:
        made.send(tmp_path / "inbox")
    accepted, rejected = accept(inbox=tmp_path / "inbox", settings=settings)
    assert rejected == []
    pooled = pd.concat([made.clinical for made in sites])
    cells = merge(accepted=accepted, settings=settings)["analyses"][0]["cells"]
    assert {cell["group"] for cell in cells} == {"women", "men"}
    for cell in cells:
        values = pooled["weight"][pooled["sex"] == {"women": "F", "men": "M"}[cell["group"]]]
        assert cell["n"] == values.size
        assert cell["mean"] == pytest.approx(values.mean(), rel=1e-9)
    text = hub_page(tmp_path, accepted, settings)
    assert "clinical data · group women" in text
    assert "values F, M" in text


def hub_page(tmp_path, accepted, settings):
    """The words of the hub's page of a round in which nothing was refused."""
    page = tmp_path / "hub.html"
    write_hub_report(
        result=merge(accepted=accepted, settings=settings),
        accepted=accepted,
        rejected=[],
        outlook=Outlook(1, sorted(entry.site for entry in accepted), [], further=False),
        settings=settings,
        path=page,
    )
    return words(page)


def words(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")))


BINNED = {
    "id": "bins",
    "kind": "histogram",
    "variables": ["clinical.weight", f"CT.{MEAN}"],
    "edges": [0, 60, 80, 100, 120],
    "segments": ["liver"],
}


def test_pages_name_a_variable_with_its_unit_and_no_place(tmp_path):
    analyses = [described("age", "clinical.weight", f"CT.{MEAN}", by=SEXES), BINNED]
    made = world(tmp_path, *analyses, sexes="F" * 3 + "M" * 27)
    made.clinical["weight"] = np.repeat([50.0, 70.0, 90.0, 110.0], [3, 9, 9, 9])
    made.write()
    made.build()
    page = tmp_path / "disclosure.html"
    write_disclosure_page(
        release=read_release(made.release),
        terms=Terms.of(made.settings),
        review=read_review(made.release, built=False),
        path=page,
        basis=page_basis(made),
        secret=bytes(32),
    )
    settings = hub_settings([made], tmp_path / "inbox", content(*analyses))
    made.send(tmp_path / "inbox")
    accepted, _ = accept(inbox=tmp_path / "inbox", settings=settings)
    site, hub = words(page), hub_page(tmp_path, accepted, settings)
    assert "weight kg clinical data (group women) age min_patients" in site
    assert "weight kg clinical data bins bins below 0; 0 to 60" in site
    assert "weight kg clinical data bins small_bins" in hub
    assert "(organs on CT, group women)" in site
    for text in (site, hub):
        assert "clinical data weight kg" in text
        assert "clinical on clinical" not in text
    review = (made.release / "review.json").read_text()
    assert "bins: clinical data weight" in review


def test_other_cases_than_the_cohorts_are_refused(tmp_path):
    made = world(tmp_path, described("age", "clinical.weight"))
    whole = made.clinical
    made.clinical = whole[:-1]
    with pytest.raises(ReleaseError, match="other cases or patients"):
        built(made)
    made.clinical = whole.drop(columns="dead")
    with pytest.raises(ReleaseError, match="other variables"):
        built(made)
    made.clinical = None
    with pytest.raises(ReleaseError, match="were not read"):
        built(made)


def page_basis(made):
    return basis(
        settings=made.settings,
        features=made.root / "features.parquet",
        cases=made.root / "cases.tsv",
        outcomes=made.root / "outcomes.parquet",
        clinical=made.root / "clinical.parquet",
    )


def test_the_releasers_page_counts_who_has_a_variable(tmp_path):
    made = world(
        tmp_path, described("age", "clinical.weight", by=SEXES), sexes="F" * 10 + "M" * 8 + "  "
    )
    made.clinical.loc[:2, "weight"] = np.nan
    made.write()
    found = page_basis(made)
    assert [(v.name, v.unit, v.cases, v.missing) for v in found.variables] == [
        *[("weight", "kg", 17, 3), ("sex", "", 18, 2), ("dead", "", 20, 0)]
    ]
    assert [(g.of, g.group, g.cases) for g in found.groups][:2] == [
        *[("clinical.sex", "men", 8), ("clinical.sex", "women", 10)]
    ]
    assert {place.role for place in found.places} == {"CT"}


@pytest.mark.parametrize(
    ("analysis", "parts"),
    [
        (described("a", "clinical.wieght"), ["no clinical variable", "did you mean 'weight'"]),
        (described("a", "clinical.sex"), ["'sex' is a category", "by.of: clinical.sex"]),
        (described("a", "clinical.*"), ["'sex' is a category"]),
        (described("a", "CT.volume_ml", by=SEXES | {"of": "clinical.age"}), ["no category", "sex"]),
        (described("a", "CT.volume_ml", by=SEXES | {"of": "clinical.dead"}), ["no category"]),
        (described("a", "CT.volume_ml", by=SEXES | {"of": "sex"}), ["by.of", "sex"]),
        (described("a", "CT.volume_ml", by=SEXES | {"role": "CT"}), ["remove by.role"]),
        (
            described("a", "CT.volume_ml", by={"of": "clinical.sex", "groups": {"w": "female"}}),
            ["by.groups.w", "none of the values", "F, M"],
        ),
        (
            described(
                "a", "CT.volume_ml", by={"of": "clinical.sex", "groups": {"w": "F", "x": "."}}
            ),
            ["'F' is in several groups"],
        ),
        (
            described("a", "clinical.weight", by={"of": "model", "groups": {"w": "F"}}),
            ["by.role", "no series"],
        ),
    ],
)
def test_wrong_analyses_are_named(analysis, parts):
    with pytest.raises(ConfigError) as error:
        content(analysis)
    assert all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"type": "category"}, ["weight", "needs `values`"]),
        ({"values": ["a", "b"]}, ["only a category"]),
        ({"type": "event"}, ["only a number has a `unit`"]),
        ({"range": [5, 1]}, ["range", "exchange"]),
        ({"name": "volume_ml"}, ["something else in tables"]),
        ({"name": "sex"}, ["'sex' is used twice"]),
        ({"name": "Weight"}, ["name"]),
        ({"window": {"before": -1, "after": 0}}, ["before"]),
        ({"window": {"before": 3}}, ["after"]),
        ({"choose": "middle"}, ["choose", "nearest"]),
        ({"type": "numeric"}, ["type", "number"]),
    ],
)
def test_wrong_variables_are_named(change, parts):
    variables = [VARIABLES[0] | change, *VARIABLES[1:]]
    with pytest.raises(ConfigError) as error:
        protocol(clinical=variables)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_no_role_has_the_name():
    roles = {"CT": {"where": "true"}, "Clinical": {"where": "true"}}
    with pytest.raises(ConfigError, match="'Clinical' is of clinical variables"):
        protocol(cohort={"where": "true", "case": {"roles": roles}})


def test_no_clinical_variable_is_declared():
    with pytest.raises(ConfigError, match=re.escape("the protocol has no `clinical` variables")):
        protocol(analyses=[described("a", "clinical.weight")])
