"""Groups by the scanner: cells of their own, which tell of nobody beside all that leaves."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest

from federation_world import (
    EDGES,
    MEAN,
    VOLUME,
    accept,
    hub_settings,
    protocol,
    refusal,
    reseal,
    site,
    unpack,
    zipped,
)
from jipflow.analyses.cells import (
    CellKey,
    Measured,
    Place,
    Values,
    follow,
    measured_places,
    scanners_of,
)
from jipflow.analyses.contract import analyses_of
from jipflow.exchange.refusals import Refusal
from jipflow.hub.merge import merge
from jipflow.hub.rounds import Outlook
from jipflow.release.behind import read_behind
from jipflow.release.contents import read_release
from jipflow.release.since import read_review
from jipflow.release.terms import Terms
from jipflow.report.basis import NONE, SEVERAL, basis
from jipflow.report.disclosure import write_disclosure_page
from jipflow.report.hub import write_hub_report
from jipflow.settings.protocol import By
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import settings_of

GE, SIEMENS, PHILIPS = "GE MEDICAL SYSTEMS", "SIEMENS", "Philips"
MAKERS = {"of": "manufacturer", "groups": {"ge": "GE.*", "siemens": "(?i)siemens.*"}}
SHAPE = "original_shape_MeshVolume"


def described(id="makers", by=None, feature=MEAN, segments=("liver",), **more):
    content = {"id": id, "variables": [f"CT.{feature}"], "segments": list(segments), **more}
    if by is not None:
        content["by"] = by
    return {"kind": "histogram" if "edges" in more else "summary"} | content


def world(tmp_path, scanners, *analyses, name="north", seed=0):
    """Return a site with one patient a scanner, each with one case."""
    content = protocol(analyses=list(analyses))
    made = site(tmp_path, name, len(scanners), seed, content=content)
    made.scanners = {f"case{name}{i:04d}": scanner for i, scanner in enumerate(scanners)}
    return made


def scanners(*counts):
    makers = (GE, SIEMENS, PHILIPS)
    return [
        (maker, f"{maker} 1") for maker, n in zip(makers, counts, strict=False) for _ in range(n)
    ]


def built(made):
    """Return the numbers of the cells that leave, and the rule that withheld each other."""
    made.write()
    aggregates, record = made.build()
    left = {
        (a["id"], c["feature"], c["group"]): c for a in aggregates["analyses"] for c in a["cells"]
    }
    lost = {
        (c["analysis"], c["feature"], c["group"]): [
            rule for rule, found in c["rules"].items() if found == "withheld"
        ]
        for c in record["cells"]
        if not c["released"]
    }
    return left, lost


def values(made, group="", feature=MEAN, segment="liver"):
    """Return the values of the cases of a maker."""
    maker = {"ge": GE, "siemens": SIEMENS, "philips": PHILIPS}.get(group)
    of = [c for c, scanner in made.scanners.items() if maker in (None, scanner[0])]
    rows = made.table[made.table["case_id"].isin(of) & (made.table["segment"] == segment)]
    return rows[feature]


def total(cell):
    return cell["rows"] * cell["mean"]


def test_each_group_is_a_cell_of_its_patients(tmp_path):
    made = world(tmp_path, scanners(8, 12, 3), described(by=MAKERS))
    left, lost = built(made)
    assert lost == {}
    assert {key[2]: cell["n"] for key, cell in left.items()} == {"ge": 8, "siemens": 12}
    for group in ("ge", "siemens"):
        cell, found = left["makers", MEAN, group], values(made, group)
        assert cell["mean"] == pytest.approx(found.mean(), rel=1e-12)
        assert cell["m2"] / (cell["n"] - 1) == pytest.approx(found.var(), rel=1e-12)


def test_no_text_of_a_header_leaves(tmp_path):
    made = world(tmp_path, scanners(8, 12, 3), described(by=MAKERS))
    built(made)
    for name in ("aggregates.json", "disclosure.json"):
        text = (made.release / name).read_text()
        assert not any(maker in text for maker in (GE, SIEMENS, PHILIPS))
        assert '"group": "ge"' in text


def test_groups_by_how_a_series_was_acquired(tmp_path):
    """A technician may have put a patient's name into the name of the protocol of acquisition."""
    by = {"of": "protocol_name", "groups": {"mprage": "(?i)(t1_)?mprage.*", "tfe": "3D T1 TFE"}}
    named = ["t1_mprage_sag", "MPRAGE iso Doe^Jane"] * 4 + ["3D T1 TFE"] * 7
    named += ["", " ", "T2 Doe^Jane", "3D T1 TFE Doe^Jane"]
    made = world(tmp_path, [(GE, "", name) for name in named], described(by=by))
    left, lost = built(made)
    assert lost == {}
    assert {key[2]: cell["n"] for key, cell in left.items()} == {"mprage": 8, "tfe": 7}
    released = [path.read_text() for path in made.release.iterdir()]
    assert not any("Doe" in text or "TFE" in text or "MPRAGE" in text for text in released)


def test_a_group_of_few_is_withheld(tmp_path):
    left, lost = built(world(tmp_path, scanners(4, 12), described(by=MAKERS)))
    assert {key[2] for key in left} == {"siemens"}
    assert lost == {("makers", MEAN, "ge"): ["min_patients"]}


def test_a_case_of_no_group_or_of_two_is_left_out(tmp_path):
    both = {"of": "manufacturer", "groups": {"ge": "GE.*", "med": ".*MEDICAL.*", "rest": "[A-F].*"}}
    headers = [("GE", "")] * 7 + [("X MEDICAL", "")] * 6 + [(GE, "")] * 9 + [("", "")] * 8
    left, lost = built(world(tmp_path, headers, described(by=both)))
    assert {key[2]: cell["n"] for key, cell in left.items()} == {"ge": 7, "med": 6}
    assert lost == {("makers", MEAN, "rest"): ["min_patients"]}


def test_the_role_of_another_series_decides():
    by = By.model_validate({"of": "model", "role": "PT", "groups": {"mct": "mCT.*"}})
    rows = [
        {"case_id": f"c{i}", "role": role, "manufacturer": "", "model": model}
        for i in range(6)
        for role, model in (("CT", "mCT as CT"), ("PT", "mCT 40" if i < 3 else "other"))
        if (i, role) != (2, "PT")
    ]
    table = pd.DataFrame(
        {
            **{"case_id": [f"c{i}" for i in range(6)], "patient": [f"p{i}" for i in range(6)]},
            **{"role": "CT", "segmentation": "organs", "segment": "liver", MEAN: np.arange(6.0)},
        }
    )
    place = Place("CT", "organs", "liver")
    measured = Measured(table, [place], scanners_of(rows))
    found = measured.values(CellKey(*place, MEAN, "mct"), by)
    assert list(found.case_ids) == ["c0", "c1"]
    assert measured.values(CellKey(*place, MEAN)).numbers.size == 6


def test_the_few_beside_a_group_stay_unknown(tmp_path):
    """All less those of one maker are the three of others: their sum would follow."""
    analyses = [described("all"), described(by={**MAKERS, "groups": {"ge": "GE.*"}})]
    made = world(tmp_path, scanners(14, 0, 3), *analyses)
    left, lost = built(made)
    cells = {c.key.group: c.values.numbers for c in ungated(made)}
    assert cells[""].sum() - cells["ge"].sum() == pytest.approx(values(made, "philips").sum())
    assert set(left) == {("all", MEAN, "")}
    assert lost == {("makers", MEAN, "ge"): ["difference"]}


def test_the_few_beside_several_groups_stay_unknown(tmp_path):
    left, lost = built(world(tmp_path, scanners(9, 12, 4), described("all"), described(by=MAKERS)))
    assert len(left) == 2
    assert list(lost.values()) == [["difference"]]
    left, lost = built(
        world(tmp_path / "b", scanners(9, 12, 5), described("all"), described(by=MAKERS))
    )
    assert len(left) == 3


def ungated(made):
    made.write()
    rows = pd.read_csv(made.root / "cases.tsv", sep="\t", dtype=str, keep_default_na=False)
    places = measured_places(made.settings.protocol)
    table = Measured(made.table, places, scanners_of(rows.to_dict("records")))
    return [c for a in analyses_of(made.settings.protocol) for c in a.propose(table)]


def test_two_divisions_that_differ_by_few(tmp_path):
    """By the maker and by the model, of which two patients have an older one."""
    models = {"of": "model", "groups": {"new": "new.*"}}
    headers = [(GE, "old")] * 2 + [(GE, "new")] * 12 + [(SIEMENS, "x")] * 9
    made = world(tmp_path, headers, described(by=MAKERS), described("models", models))
    _, lost = built(made)
    assert ("models", MEAN, "new") in lost or ("makers", MEAN, "ge") in lost
    assert all(rules == ["difference"] for rules in lost.values())


@pytest.mark.parametrize("ends", [[4000.0], [0.0] * 8])
def test_the_others_are_enough_but_one_or_few_of_them_make_the_difference(tmp_path, ends):
    """Of all and of a group the means may leave, but not that of the rest, which follows."""
    analyses = [described("all"), described(by={**MAKERS, "groups": {"ge": "GE.*"}})]
    made = world(tmp_path, scanners(14, 0, 9), *analyses)
    assert len(built(made)[0]) == 2
    rest = made.table.index[
        made.table["case_id"].isin([f"casenorth{i:04d}" for i in range(14, 23)])
    ]
    rest = [i for i in rest if made.table.loc[i, "segment"] == "liver"]
    made.table.loc[rest[: len(ends)], MEAN] = ends
    left, lost = built(made)
    assert len(left) == 1
    assert list(lost.values()) in ([["difference"]], [["dominance"]])


def test_what_follows_of_three_sets_is_looked_at(tmp_path):
    """All less two groups are enough, but one of them has nearly everything."""
    made = world(tmp_path, scanners(20, 20, 6), described("all"), described(by=MAKERS))
    assert len(built(made)[0]) == 3
    one = (made.table["case_id"] == "casenorth0043") & (made.table["segment"] == "liver")
    made.table.loc[one, MEAN] = 1000.0
    left, lost = built(made)
    assert len(left) == 2
    assert list(lost.values()) == [["difference"]]


def with_second_cases(made, patients, scanner):
    """Give some patients a second case, on another scanner."""
    rows = made.table[made.table["patient"].isin([f"pseudonorth{i:04d}" for i in patients])].copy()
    rows["case_id"] = rows["case_id"].str.replace("case", "again")
    rows[MEAN] += 5.0
    made.scanners |= dict.fromkeys(rows["case_id"], scanner)
    made.table = pd.concat([made.table, rows], ignore_index=True)


def test_a_patient_of_two_groups_counts_in_neither(tmp_path):
    """Tests over groups take these for different patients."""
    made = world(tmp_path, scanners(9, 12), described(by=MAKERS))
    with_second_cases(made, [0, 1], (SIEMENS, ""))
    left, lost = built(made)
    assert lost == {}
    assert [(c["n"], c["rows"]) for c in left.values()] == [(7, 7), (12, 12)]
    counted = {row.group: (row.cases, row.patients) for row in basis_of(made).groups}
    assert counted == {"ge": (7, 7), "siemens": (12, 12), NONE: (0, 0), SEVERAL: (4, 2)}


@pytest.mark.parametrize(("several", "leaves"), [(2, 2), (6, 3)])
def test_how_few_are_in_two_groups_does_not_follow(tmp_path, several, leaves):
    """The patients of two groups, less those of all, are those who are in both."""
    made = world(tmp_path, scanners(16, 16), described("all"), described(by=MAKERS))
    with_second_cases(made, range(several), (SIEMENS, ""))
    left, lost = built(made)
    assert len(left) == leaves
    assert all(rules == ["difference"] for rules in lost.values())


def test_groups_of_like_size_leave_together(tmp_path):
    """That they differ in all their patients is known of groups, and of no other cells."""
    left, lost = built(world(tmp_path, scanners(9, 11), described(by=MAKERS)))
    assert len(left) == 2
    other = {"of": "model", "groups": {"one": f"{SIEMENS}.*"}}
    ge = {**MAKERS, "groups": {"ge": "GE.*"}}
    left, lost = built(
        world(tmp_path / "b", scanners(9, 11), described(by=ge), described("m", other))
    )
    assert len(left) == 1
    assert list(lost.values()) == [["difference"]]


def features_of(made, count):
    """Let a site have features of one family, of all its patients."""
    rng = np.random.default_rng(1)
    names = [f"original_shape_F{i}" for i in range(count)]
    for name in names:
        made.table[name] = rng.normal(50, 9, len(made.table))
    return names


def test_the_sums_of_the_others_are_not_as_many_as_they_are(tmp_path):
    """Sums over all and over a group give those of the rest, in each feature of a family."""
    count, rest = 6, 8
    analyses = [
        described("all", feature="original_shape_F*"),
        described(by={**MAKERS, "groups": {"ge": "GE.*"}}, feature="original_shape_F*"),
    ]
    made = world(tmp_path, scanners(30, 0, rest), *analyses)
    features_of(made, count)
    left, lost = built(made)
    both = [name for id, name, _ in left if id == "makers" and ("all", name, "") in left]
    assert 2 * len(both) <= rest - 2
    assert both
    assert all(rules == ["saturation"] for rules in lost.values())
    alone = world(tmp_path / "b", scanners(30, 0, rest), analyses[0])
    features_of(alone, count)
    assert len(built(alone)[0]) == count


def test_groups_do_not_use_up_what_the_other_may_release(tmp_path):
    """Each of two groups of twelve has five features, as if it were alone."""
    made = world(tmp_path, scanners(12, 12), described(by=MAKERS, feature="original_shape_F*"))
    features_of(made, 8)
    left, lost = built(made)
    assert sorted(group for _, _, group in left) == ["ge"] * 5 + ["siemens"] * 5
    assert all(rules == ["saturation"] for rules in lost.values())


def test_a_later_release_by_groups_is_held_against_all_that_left(tmp_path, inbox):
    made = world(tmp_path, scanners(14, 0, 3), described("all"))
    made.send(inbox)
    by = described(by={**MAKERS, "groups": {"ge": "GE.*"}})
    content = protocol(analyses=[by]) | {"protocol": {"id": "b", "version": "1.0.0", "title": "b"}}
    made.settings = settings_of(made.settings.site.plain(), content)
    left, lost = built(made)
    assert left == {}
    assert lost == {("makers", MEAN, "ge"): ["earlier"]}


def test_what_follows_of_three_releases_is_looked_at(tmp_path, inbox):
    """A group, another and all, a release each: the rest is enough, one of them has nearly all."""
    made = world(tmp_path, scanners(20, 20, 6), described("all"))
    one = (made.table["case_id"] == "casenorth0043") & (made.table["segment"] == "liver")
    made.table.loc[one, MEAN] = 1000.0
    found = []
    for name, analysis in {
        "a": described(by={**MAKERS, "groups": {"ge": "GE.*"}}),
        "b": described("second", {**MAKERS, "groups": {"siemens": "SIEMENS"}}),
        "c": described("all"),
    }.items():
        content = protocol(analyses=[analysis])
        content["protocol"]["id"] = name
        made.settings = settings_of(made.settings.site.plain(), content)
        found += built(made)[0]
        if name != "c":
            made.send(inbox)
    assert len(found) == 2


def test_a_patient_of_two_groups_in_earlier_releases_hides_nothing(tmp_path, inbox):
    """Groups that share a patient left; all but three of the second and the first do not."""
    made = world(tmp_path, scanners(12, 15), described(by=MAKERS))
    with_second_cases(made, [0], (SIEMENS, ""))
    made.send(inbox)
    made.scanners |= {f"casenorth{i:04d}": (PHILIPS, "") for i in range(12, 15)}
    both = {"of": "manufacturer", "groups": {"both": "GE.*|SIEMENS"}}
    content = protocol(analyses=[described("b", both)])
    content["protocol"]["id"] = "b"
    made.settings = settings_of(made.settings.site.plain(), content)
    left, lost = built(made)
    assert left == {}
    assert lost == {("b", MEAN, "both"): ["earlier"]}


def test_the_same_release_again_tells_nothing_new(tmp_path, inbox):
    made = world(tmp_path, scanners(12, 15), described(by=MAKERS))
    with_second_cases(made, [0], (SIEMENS, ""))
    before = built(made)
    made.send(inbox)
    assert built(made) == before
    kept = read_behind(made.behind).past().cells
    assert {cell.key.group for cell in kept} == {"ge", "siemens"}


def test_bins_of_all_and_of_a_group_do_not_give_those_of_the_rest(tmp_path):
    ge = {**MAKERS, "groups": {"ge": "GE.*"}}
    both = [
        described("all", feature=VOLUME, edges=EDGES),
        described(by=ge, feature=VOLUME, edges=EDGES),
    ]
    left, lost = built(world(tmp_path, scanners(20, 0, 8), *both))
    assert len(left) == 1
    assert list(lost.values()) == [["same_bins"]]
    groups = described(by=MAKERS, feature=VOLUME, edges=EDGES)
    assert len(built(world(tmp_path / "b", scanners(20, 18), groups))[0]) == 2


def test_follow_gives_what_a_set_divides_and_no_more():
    def of(*numbers):
        ids = np.array([f"c{i}" for i in numbers], dtype=object)
        return Values(np.array(numbers, float), ids, ids, frozenset(ids))

    def parts(values, *others):
        return sorted(sorted(v.numbers.astype(int).tolist()) for v in follow(values, others))

    assert parts(of(1, 2, 3)) == []
    assert parts(of(1, 2, 3), of(1, 2, 3)) == []
    assert parts(of(1, 2, 3), of(1, 2)) == [[3]]
    assert parts(of(1, 2, 3, 4), of(1, 2), of(3)) == [[1, 2, 4], [3, 4], [4]]
    assert parts(of(1, 2), of(2, 3)) == [[1], [2], [3]]
    assert parts(of(1, 2), of(1, 2, 3), of(2)) == [[1], [3]]


def three(tmp_path, inbox, *analyses):
    counts = {"east": (9, 12), "north": (14, 11), "west": (12, 30)}
    made = {
        name: world(tmp_path, scanners(*n), *analyses, name=name, seed=i)
        for i, (name, n) in enumerate(counts.items())
    }
    for one in made.values():
        one.path = one.send(inbox)
    return made


def test_the_hub_merges_each_group_to_what_all_rows_give(tmp_path, inbox):
    analyses = [described(by=MAKERS), described("all")]
    made = three(tmp_path, inbox, *analyses)
    settings = hub_settings(made.values(), inbox, protocol(analyses=analyses))
    accepted, rejected = accept(inbox=inbox, settings=settings)
    assert rejected == []
    result = merge(accepted=accepted, settings=settings)
    found = {(a["id"], c["group"]): c for a in result["analyses"] for c in a["cells"]}
    for (_, group), cell in found.items():
        pooled = pd.concat([values(one, group) for one in made.values()])
        assert cell["n"] == pooled.size
        assert cell["mean"] == pytest.approx(pooled.mean(), rel=1e-9)
        assert cell["variance"] == pytest.approx(pooled.var(), rel=1e-9)
    assert len(found) == 3


def forged(world_, change, inbox, settings):
    """Let a site send changed cells, its record with them."""
    members = unpack(world_.path.read_bytes())
    for other in set(inbox.glob("*.age")) - {world_.path}:
        other.unlink()
    aggregates = json.loads(members["aggregates.json"])
    record = json.loads(members["disclosure.json"])
    for cells in (*(a["cells"] for a in aggregates["analyses"]), record["cells"]):
        for cell in cells:
            change(cell)
    members |= {
        "aggregates.json": json.dumps(aggregates).encode(),
        "disclosure.json": json.dumps(record).encode(),
    }
    return refusal(zipped(reseal(members, world_)), world_, inbox, settings)


def rename(cell):
    if cell["group"] == "ge":
        cell["group"] = "philips"


def enlarge(cell):
    if cell["group"] == "ge" and "n" in cell:
        cell["n"] = cell["rows"] = 90


def approach(cell):
    if cell["group"] == "ge" and "n" in cell:
        cell["n"] = cell["rows"] = 23


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (rename, Refusal.OUTSIDE_PROTOCOL),
        (enlarge, Refusal.IMPOSSIBLE_CELL),
        (approach, Refusal.CELL_BELOW_MINIMUM),
    ],
)
def test_the_hub_refuses_groups_that_cannot_be(tmp_path, inbox, change, reason):
    analyses = [described(by=MAKERS), described("all")]
    made = three(tmp_path, inbox, *analyses)
    settings = hub_settings(made.values(), inbox, protocol(analyses=analyses))
    assert forged(made["north"], change, inbox, settings) == reason


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ({**MAKERS, "role": "MR"}, ["by.role", "'MR' is not a role"]),
        ({**MAKERS, "groups": {}}, ["groups"]),
        ({**MAKERS, "groups": {"ge": ""}}, ["groups"]),
        ({**MAKERS, "groups": {"ge": "GE("}}, ["is not a regular expression"]),
        ({**MAKERS, "groups": {"GE": "GE"}}, ["GE"]),
        ({**MAKERS, "groups": {"all": ".*"}}, ["'all' means something else"]),
        ({**MAKERS, "groups": {"together": ".*"}}, ["'together' means something else"]),
        ({**MAKERS, "of": "station"}, ["by.of", "station"]),
    ],
)
def test_wrong_groups_are_named(by, words):
    with pytest.raises(ConfigError) as error:
        protocol(analyses=[described(by=by)])
    assert all(word in str(error.value) for word in words), str(error.value)


def test_one_name_is_one_group_in_all_analyses():
    other = {**MAKERS, "groups": {"ge": "GE HEALTH.*"}}
    with pytest.raises(ConfigError, match="'ge' is a group of the analysis 'makers' too"):
        protocol(analyses=[described(by=MAKERS), described("b", other)])
    protocol(analyses=[described(by=MAKERS), described("b", MAKERS, feature=SHAPE)])


def test_no_two_sets_that_leave_give_a_few_by_any_sum(tmp_path):
    """Sums of all, of two makers and of two models, in every small combination."""
    models = {"of": "model", "groups": {"old": "old", "new": "new"}}
    rng = np.random.default_rng(4)
    for trial in range(6):
        headers = [
            (rng.choice([GE, SIEMENS, PHILIPS]), rng.choice(["old", "new", "x"], p=[0.6, 0.3, 0.1]))
            for _ in range(30)
        ]
        made = world(
            tmp_path / f"{trial}",
            headers,
            *(described("all"), described(by=MAKERS), described("models", models)),
        )
        left, _ = built(made)
        sets = [c.cases for c in ungated(made) if (c.order[0], MEAN, c.key.group) in left]
        cases = sorted(frozenset().union(*sets))
        rows = np.array([[case in each for case in cases] for each in sets], float)
        for weights in itertools.product((-2, -1, 0, 1, 2), repeat=len(sets)):
            of = np.count_nonzero(np.array(weights) @ rows)
            assert of == 0 or of >= 5


def basis_of(made):
    """Return whom the site's release is of."""
    return basis(
        settings=made.settings,
        features=made.root / "features.parquet",
        cases=made.root / "cases.tsv",
        outcomes=made.root / "outcomes.parquet",
    )


def words(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")))


def test_the_releasers_page_says_which_group_and_counts_who_is_left_out(tmp_path):
    by = {"of": "manufacturer", "groups": {"ge": "GE.*", "med": ".*MEDICAL.*", "siemens": SIEMENS}}
    headers = scanners(0, 12, 3) + [("GE", "")] * 7 + [(GE, "")] * 2
    made = world(tmp_path, headers, described(by=by))
    built(made)
    found = basis_of(made)
    counted = {row.group: (row.cases, row.patients) for row in found.groups}
    groups = {"ge": (7, 7), "med": (0, 0), "siemens": (12, 12)}
    assert counted == groups | {NONE: (3, 3), SEVERAL: (2, 2)}
    write_disclosure_page(
        release=read_release(made.release),
        terms=Terms.of(made.settings),
        review=read_review(made.release, built=False),
        path=tmp_path / "d.html",
        basis=found,
        secret=bytes(32),
    )
    page = words(tmp_path / "d.html")
    for group in ("ge", "siemens"):
        assert f"liver · organs on CT · group {group}" in page
    assert "(organs on CT, group med)" in page
    assert f"manufacturer of CT {NONE} 3 3" in page
    assert f"manufacturer of CT {SEVERAL} 2 2" in page
    assert not any(maker in page for maker in (GE, PHILIPS))


def test_the_hubs_page_says_which_group(tmp_path, inbox):
    analyses = [described(by=MAKERS), described("v", MAKERS, VOLUME, edges=EDGES)]
    made = three(tmp_path, inbox, *analyses)
    settings = hub_settings(made.values(), inbox, protocol(analyses=analyses))
    accepted, rejected = accept(inbox=inbox, settings=settings)
    result = merge(accepted=accepted, settings=settings)
    write_hub_report(
        result=result,
        accepted=accepted,
        rejected=rejected,
        outlook=Outlook(1, sorted(made), [], further=False),
        settings=settings,
        path=tmp_path / "h.html",
    )
    page = words(tmp_path / "h.html")
    for group in ("ge", "siemens"):
        assert page.count(f"liver · organs on CT · group {group}") >= 2
