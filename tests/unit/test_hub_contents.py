"""What a site with valid keys may say, and what it may not: numbers, record, JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from federation_world import (
    ENERGY,
    MEAN,
    accept,
    edited,
    hub_settings,
    protocol,
    put,
    refusal,
    reseal,
    resign,
    sent,
    sent_again,
    site,
    zipped,
)
from jipflow.analyses.cells import Place
from jipflow.exchange import message
from jipflow.exchange.refusals import Refusal, Refused
from jipflow.files import write_json
from jipflow.hub.check import Asked, check_contents
from jipflow.hub.decisions import write_accepted, write_rejected
from jipflow.hub.merge import merge
from jipflow.hub.rounds import Outlook
from jipflow.release.contents import formats
from jipflow.report.hub import write_hub_report


@pytest.fixture
def north(sent_once, inbox):
    return sent_again(sent_once, inbox)


def first_cell(content):
    return content["analyses"][0]["cells"][0]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda c: first_cell(c).update(n=4), "aggregates_invalid"),
        (lambda c: first_cell(c).update(maximum=4.0), "aggregates_invalid"),
        (lambda c: first_cell(c).update(mean=float("nan")), "aggregates_invalid"),
        (lambda c: first_cell(c).update(mean=1e300), "aggregates_invalid"),
        (lambda c: first_cell(c).update(m2=-1), "aggregates_invalid"),
        (lambda c: c.update(patients=["x"]), "aggregates_invalid"),
        (lambda c: c["analyses"][0].update(kind="levene"), "aggregates_invalid"),
        (lambda c: first_cell(c).update(rows=9), "impossible_cell"),
        (lambda c: c["analyses"][1]["cells"][0].update(counts=[1] * 9), "impossible_cell"),
        (lambda c: c["analyses"][1]["cells"][0].update(counts=[0, 6, 6, 0, 0]), "impossible_cell"),
        (lambda c: c["analyses"][1]["cells"][0].update(counts=[0, 13, 0, 0]), "impossible_cell"),
        (lambda c: c["analyses"][1]["cells"][0].update(counts=[0, 6, 5, 0]), "impossible_cell"),
        (lambda c: c["analyses"][1]["cells"][0].update(counts=[0, 8, 4, 0]), "cell_below_minimum"),
        (
            lambda c: c["analyses"][1]["cells"][0].update(counts=[0, 8, None, 0]),
            "cell_below_minimum",
        ),
        (lambda c: first_cell(c).update(segment="doe"), "outside_protocol"),
        (lambda c: first_cell(c).update(feature="jane-doe"), "outside_protocol"),
        (lambda c: c["analyses"][0].update(id="other"), "outside_protocol"),
        (lambda c: c["analyses"][1].update(edges=[0, 1, 2, 3, 4]), "outside_protocol"),
        (lambda c: c["analyses"][0]["cells"].append(first_cell(c)), "outside_protocol"),
        (lambda c: c["analyses"].append(c["analyses"][0] | {"cells": []}), "outside_protocol"),
        (lambda c: c["analyses"][0]["cells"].pop(), "not_released"),
        (lambda c: c.update(min_patients=6), "header_mismatch"),
        (lambda c: c.update(site="south"), "header_mismatch"),
    ],
)
def test_aggregates_sealed_by_a_site_that_cheats_or_errs(north, inbox, edit, reason):
    assert refusal(edited(north, aggregates=edit), north, inbox) == reason


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda c: c["cells"][0].update(n=3), "disclosure_invalid"),
        (lambda c: c["cells"][0].update(released=False), "not_released"),
        (
            lambda c: c["cells"].append(c["cells"][0] | {"segment": "doe", "released": False}),
            "outside_protocol",
        ),
    ],
)
def test_a_disclosure_record_that_says_something_else(north, inbox, edit, reason):
    assert refusal(edited(north, disclosure=edit), north, inbox) == reason


def test_a_record_of_other_aggregates(north, inbox):
    record = json.loads(north.members["disclosure.json"]) | {"aggregates_sha256": "0" * 64}
    members = north.members | {"disclosure.json": json.dumps(record).encode()}
    manifest = json.loads(members["manifest.json"])
    manifest["files"]["disclosure.json"] = message.describe(members["disclosure.json"]).plain()
    members["manifest.json"] = message.canonical(manifest)
    assert refusal(zipped(resign(members, north)), north, inbox) == "header_mismatch"


def with_minimum(world, inbox, minimum, stated, n):
    """Let a site state a minimum and send cells of n patients; return the reason of the refusal.

    Args:
        minimum: of the protocol.
        stated: what the site says that it applied.
    """
    strict = protocol(minimum, analyses=protocol()["analyses"][:1])
    north = sent(site(world, "north", 15, content=strict), inbox)
    members = north.members
    changed = {}
    for name in message.CONTENT:
        content = json.loads(members[name]) | {"min_patients": stated}
        if name == "aggregates.json":
            for cell in content["analyses"][0]["cells"]:
                cell.update(n=n)
        changed[name] = json.dumps(content).encode()
    raw = zipped(reseal(members | changed, north))
    put(north, raw)
    _, rejected = accept(inbox=inbox, settings=hub_settings([north], inbox, strict))
    return [entry.reason for entry in rejected]


@pytest.mark.parametrize(
    ("minimum", "stated", "n", "reasons"),
    [
        (10, 5, 9, ["cell_below_minimum"]),
        (10, 5, 10, []),
        (5, 12, 11, ["cell_below_minimum"]),
        (5, 12, 12, []),
    ],
)
def test_the_stricter_minimum_of_protocol_and_site_counts(
    tmp_path, inbox, minimum, stated, n, reasons
):
    assert with_minimum(tmp_path, inbox, minimum, stated, n) == reasons


def cell_of(content, analysis, **key):
    """Return the cell of an analysis whose names are these."""
    cells = next(a for a in content["analyses"] if a["id"] == analysis)["cells"]
    return next(c for c in cells if all(c[name] == value for name, value in key.items()))


def moments(feature, **changes):
    return lambda content: cell_of(content, "describe", feature=feature).update(changes)


def ulp_off(content):
    cell = first_cell(content)
    cell.update(mean_rest=math.ulp(cell["mean"]))


def one_makes_up_for_all(content, more=1.0):
    """A single patient has everything, the others have 0; `more` than that is impossible."""
    cell = cell_of(content, "describe", feature=ENERGY)
    cell.update(m2=more * cell["rows"] * (cell["rows"] - 1) * cell["mean"] ** 2)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (moments(MEAN, mean_rest=1e6), "impossible_cell"),
        (ulp_off, "impossible_cell"),
        (moments(MEAN, mean=0.0, mean_rest=1e-300), "impossible_cell"),
        (moments(MEAN, m2=0), "cell_below_minimum"),
        (moments(MEAN, mean=1e9, mean_rest=0.0, m2=1e-3), "cell_below_minimum"),
        (moments(ENERGY, mean=-1.0, mean_rest=0.0), "impossible_cell"),
        (lambda c: one_makes_up_for_all(c, 1.001), "impossible_cell"),
        (moments(MEAN, rows=12_001), "impossible_cell"),
        (moments(MEAN, n=13, rows=13), "cell_below_minimum"),
        (moments(MEAN, n=16, rows=16), "cell_below_minimum"),
        (moments(MEAN, n=8, rows=8), "cell_below_minimum"),
        (moments(MEAN, n=10**30, rows=10**30), "aggregates_invalid"),
        (lambda c: c.update(min_patients=10**400), "aggregates_invalid"),
        (lambda c: c["analyses"][1]["cells"][0].update(counts=[None] * 4), "impossible_cell"),
        (
            lambda c: c["analyses"][1]["cells"][0].update(under=None, counts=[None] * 4, over=None),
            "impossible_cell",
        ),
    ],
)
def test_moments_and_counts_that_no_patients_have(north, inbox, edit, reason):
    assert refusal(edited(north, aggregates=edit), north, inbox) == reason


@pytest.mark.parametrize(
    "edit",
    [
        moments(MEAN, mean_rest=0.0),
        moments(MEAN, rows=12_000),
        one_makes_up_for_all,
        lambda c: [cell.update(n=7, rows=7) for cell in c["analyses"][0]["cells"]],
    ],
)
def test_what_patients_may_have_is_accepted(north, inbox, edit):
    put(north, edited(north, aggregates=edit))
    accepted, rejected = accept(inbox=inbox, settings=hub_settings([north], inbox))
    assert ([a.site for a in accepted], rejected) == (["north"], [])


@pytest.mark.parametrize(
    "changes",
    [
        {"feature": "original_firstorder_Tumour"},
        {"feature": "original_firstorder_MeanX"},
        {"segment": "kidney"},
        {"segmentation": "lesions"},
        {"role": "PT"},
    ],
)
def test_a_cell_that_the_protocol_cannot_measure(north, inbox, changes):
    def invented(content):
        first_cell(content).update(changes)

    def recorded(content):
        content["cells"][0].update(changes)

    raw = edited(north, aggregates=invented, disclosure=recorded)
    assert refusal(raw, north, inbox) == "outside_protocol"
    # Neither is it withheld from anyone.
    raw = edited(north, disclosure=lambda c: c["cells"].append(c["cells"][-1] | changes))
    assert refusal(raw, north, inbox) in {"outside_protocol", "not_released"}


def test_a_feature_that_is_measured_elsewhere_only(north):
    """The radiomics settings of its segment count, and no others."""
    known = formats()
    aggregates = known.aggregates.model_validate_json(north.members["aggregates.json"])
    disclosure = known.disclosure.model_validate_json(north.members["disclosure.json"])
    asked = Asked.by(hub_settings([north], north.path.parent).protocol)
    check_contents(aggregates, disclosure, asked)
    liver = Place("CT", "organs", "liver")
    features = {**asked.features, liver: asked.features[liver] - {MEAN}}
    with pytest.raises(Refused, match=f"describe: CT organs liver {MEAN}") as refused:
        check_contents(aggregates, disclosure, replace(asked, features=features))
    assert refused.value.refusal == Refusal.OUTSIDE_PROTOCOL


def test_half_of_a_surrogate_pair_is_no_text(north, inbox):
    """A whole pair, as of a sign beyond 16 bits, is one."""
    approvals = north.members["approvals.json"]
    details = []
    for name in (b"Ada \\ud83d", b"Ada \\ud83d\\ude00"):
        changed = approvals.replace(b"Ada Roe", name)
        manifest = json.loads(north.members["manifest.json"])
        manifest["files"]["approvals.json"] = message.describe(changed).plain()
        members = north.members | {"approvals.json": changed}
        members = resign(members | {"manifest.json": message.canonical(manifest)}, north)
        put(north, zipped(members))
        _, (refused,) = accept(inbox=inbox, settings=hub_settings([north], inbox))
        details.append((refused.reason, refused.detail))
    assert details == [
        ("approvals_invalid", "a text holds half of a surrogate pair"),
        ("approvals_invalid", ""),
    ]


VOLUMES = {
    "id": "means",
    "kind": "summary",
    "variables": ["CT.volume_ml"],
    "segments": ["liver"],
}


def with_volumes(tmp_path, inbox, by):
    """Return a site whose volumes are released as moments and as a histogram."""
    content = protocol(analyses=[*protocol()["analyses"], VOLUMES])
    content["cohort"]["case"]["by"] = by
    return sent(site(tmp_path, "north", content=content), inbox), content


@pytest.mark.parametrize("by", ["study", "patient"])
@pytest.mark.parametrize(
    ("edit", "reasons"),
    [
        (lambda c: None, {}),
        (lambda c: c["analyses"][1].update(rows=12_000), {"patient": "impossible_cell"}),
        (
            lambda c: c["analyses"][2].update(counts=[10, 10, 0, 0]),
            {"patient": "impossible_cell", "study": "impossible_cell"},
        ),
        (
            lambda c: c["analyses"][1].update(mean=399.0, mean_rest=0.0),
            {"patient": "impossible_cell", "study": "impossible_cell"},
        ),
        (
            lambda c: c["analyses"][1].update(mean=120.0, mean_rest=0.0),
            {"patient": "impossible_cell"},
        ),
        (
            lambda c: c["analyses"][1].update(n=20, rows=20),
            {"patient": "impossible_cell", "study": "impossible_cell"},
        ),
        (
            lambda c: c["analyses"][1].update(mean=-1.0, mean_rest=0.0),
            {"patient": "impossible_cell", "study": "impossible_cell"},
        ),
    ],
)
def test_two_analyses_of_the_same_values(tmp_path, inbox, by, edit, reasons):
    north, content = with_volumes(tmp_path, inbox, by)

    def cells(aggregates):
        edit({"analyses": {i: a["cells"] and a["cells"][0] for i, a in enumerate_(aggregates)}})

    def enumerate_(aggregates):
        by_id = {a["id"]: a for a in aggregates["analyses"]}
        return [(0, by_id["describe"]), (1, by_id["means"]), (2, by_id["volumes"])]

    settings = hub_settings([north], inbox, content)
    put(north, edited(north, aggregates=cells))
    accepted, rejected = accept(inbox=inbox, settings=settings)
    expected = [reasons[by]] if by in reasons else []
    assert [entry.reason for entry in rejected] == expected
    assert len(accepted) == 1 - len(expected)


def test_patients_with_volumes_below_zero(tmp_path, inbox):
    below = {**protocol()["analyses"][1], "edges": [-100, -50, 0, 150, 400]}
    content = protocol(analyses=[below])
    north = sent(site(tmp_path, "north", content=content), inbox)
    settings = hub_settings([north], inbox, content)
    for changes in ({"under": 6, "counts": [0, 0, 0, 6]}, {"counts": [6, 0, 0, 6]}):
        raw = edited(north, aggregates=lambda c, new=changes: first_cell(c).update(new))
        assert refusal(raw, north, inbox, settings) == "impossible_cell"
    put(north, zipped(north.members))
    assert accept(inbox=inbox, settings=settings)[1] == []


def recorded_as(position=0, **changes):
    return lambda content: content["cells"][position].update(changes)


def found_by(rule, finding, position=0):
    return lambda content: content["cells"][position]["rules"].update({rule: finding})


def without(*path):
    def edit(content):
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return edit


def counted_twice(content):
    """Record a cell twice, with a summary that counts it twice."""
    content["cells"].append(content["cells"][0])
    content["summary"].update(cells=len(content["cells"]))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (counted_twice, "disclosure_invalid"),
        (without("rules", "difference"), "disclosure_invalid"),
        (lambda c: c["rules"].update(difference="Ask for jane.doe"), "disclosure_invalid"),
        (without("summary", "withheld", "difference"), "disclosure_invalid"),
        (lambda c: c["summary"].update(cells=99), "disclosure_invalid"),
        (lambda c: c["summary"].update(released=0), "disclosure_invalid"),
        (lambda c: c["summary"]["withheld"].update(difference=7), "disclosure_invalid"),
        (lambda c: c["cells"].append(c["cells"][0]), "disclosure_invalid"),
        (
            lambda c: c["cells"].append(c["cells"][0] | {"released": False}),
            "disclosure_invalid",
        ),
        (found_by("difference", "withheld"), "disclosure_invalid"),
        (found_by("difference", "not applied"), "disclosure_invalid"),
        (found_by("zero_variance", "passed", -1), "disclosure_invalid"),
        (found_by("small_bins", "some bins withheld"), "disclosure_invalid"),
        (without("cells", 0, "rules", "min_patients"), "disclosure_invalid"),
        (recorded_as(-1, withheld_bins=[0, 1]), "disclosure_invalid"),
        (found_by("small_bins", "some bins withheld", -1), "disclosure_invalid"),
        (recorded_as(0, kind="histogram"), "disclosure_invalid"),
    ],
)
def test_a_record_that_the_gate_did_not_write(north, inbox, edit, reason):
    assert refusal(edited(north, disclosure=edit), north, inbox) == reason


def test_the_bins_that_the_record_withholds_are_those_without_a_number(tmp_path, inbox):
    """Three and seven of thirty patients are in two bins that are withheld together."""
    south = site(tmp_path, "south", 30, 1)
    rows = south.table.index[south.table["segment"] == "liver"]
    south.table.loc[rows, "volume_ml"] = [50.0] * 3 + [150.0] * 7 + [250.0] * 20
    sent(south, inbox)
    for bins in ([0], [0, 2], [], ["under", 1]):
        raw = edited(south, disclosure=recorded_as(-1, withheld_bins=bins))
        assert refusal(raw, south, inbox) == "disclosure_invalid"
    put(south, zipped(south.members))
    assert accept(inbox=inbox, settings=hub_settings([south], inbox))[1] == []


NESTED = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize("name", message.CONTENT)
@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b'"site"', b'"site":"north","site"', 1),
        lambda data: data.replace(b'"site"', b'"\\ud800":1,"site"', 1),
        lambda data: data.replace(b'"site"', b'"a\\u0000b\\nc":1,"site"', 1),
        lambda data: data.replace(b'"round": 1', b'"round": ' + b"1" * 5000, 1),
        lambda data: data.replace(b'"round": 1', b'"round": 1e999', 1),
        lambda data: data.replace(b'"round": 1', b'"round": NaN', 1),
        lambda data: data.replace(b'"round": 1', b'"round": true', 1),
        lambda data: data.replace(b'"round": 1', b'"round": ' + NESTED, 1),
        lambda data: b"\xff\xfe" + data,
        lambda data: NESTED,
        lambda data: b"null",
        lambda data: b"",
        lambda data: data + b" " * 2_000_000,
    ],
)
def test_json_that_a_parser_could_stumble_over(north, inbox, tmp_path, name, change):
    """Such a file is refused, and its refusal can be written down."""
    changed = change(north.members[name])
    assert changed != north.members[name]
    members = north.members | {name: changed}
    manifest = json.loads(members["manifest.json"])
    manifest["files"][name] = message.describe(changed).plain()
    members["manifest.json"] = message.canonical(manifest)
    put(north, zipped(resign(members, north)))
    settings = hub_settings([north], inbox)
    accepted, rejected = accept(inbox=inbox, settings=settings)
    assert accepted == []
    reason = {"aggregates.json": "aggregates_invalid", "disclosure.json": "disclosure_invalid"}
    assert [r.reason for r in rejected] in ([reason[name]], ["oversized_member"])
    assert all(r.detail.isprintable() for r in rejected)
    write_rejected(tmp_path / "rejected.json", rejected)


def test_a_member_with_a_huge_minimum_changes_nothing_for_the_others(tmp_path, inbox):
    north, south = (sent(site(tmp_path, name, seed=i), inbox) for i, name in enumerate("ns"))
    settings = hub_settings([north, south], inbox)
    raw = {}
    for name in message.CONTENT:
        content = json.loads(north.members[name]) | {"min_patients": 10**9}
        raw[name] = json.dumps(content).encode()
    put(north, zipped(reseal(north.members | raw, north)))
    accepted, rejected = accept(inbox=inbox, settings=settings)
    assert [a.site for a in accepted] == ["s"]
    assert [r.reason for r in rejected] == ["cell_below_minimum"]
    alone = merge(accepted=accepted, settings=settings)
    assert all(cell["sites"] == ["s"] for a in alone["analyses"] for cell in a["cells"])


OUTLOOK = Outlook(1, ["n", "s"], [], further=False)


def test_the_largest_numbers_of_the_format_are_merged_and_drawn(tmp_path, inbox):
    """What one member may send at most leaves the sums finite, and the page is written."""
    north, south = (sent(site(tmp_path, name, seed=i), inbox) for i, name in enumerate("ns"))
    settings = hub_settings([north, south], inbox)
    largest = {"n": 10**9, "rows": 10**9, "mean": 1e100, "mean_rest": 0.0, "m2": 1e200}
    put(
        north,
        edited(
            north,
            aggregates=lambda c: [cell.update(largest) for cell in c["analyses"][0]["cells"]],
        ),
    )
    accepted, rejected = accept(inbox=inbox, settings=settings)
    result = merge(accepted=accepted, settings=settings)
    write_json(tmp_path / "result.json", result)
    write_accepted(tmp_path / "accepted.json", accepted)
    write_hub_report(
        result=result,
        accepted=accepted,
        rejected=rejected,
        outlook=OUTLOOK,
        settings=settings,
        path=tmp_path / "report.html",
    )


def test_one_segment_beside_another_is_compared(north, inbox):
    """Thirteen spleens beside twelve livers would tell of one patient."""

    def spleens(content):
        for cell in content["analyses"][0]["cells"]:
            if cell["segment"] == "spleen":
                cell.update(n=13, rows=13)

    assert refusal(edited(north, aggregates=spleens), north, inbox) == "cell_below_minimum"


def test_numbers_of_patients_differ_by_the_minimum_that_a_site_states(tmp_path, inbox):
    """Twelve beside twenty is enough for five, and not for nine."""
    strict = protocol(analyses=protocol()["analyses"][:1])
    north = sent(site(tmp_path, "north", 20, content=strict), inbox)
    reasons = []
    for stated in (5, 9):
        changed = {}
        for name in message.CONTENT:
            content = json.loads(north.members[name]) | {"min_patients": stated}
            if name == "aggregates.json":
                for cell in content["analyses"][0]["cells"]:
                    cell.update({"n": 12, "rows": 12} if cell["segment"] == "spleen" else {})
            changed[name] = json.dumps(content).encode()
        put(north, zipped(reseal(north.members | changed, north)))
        _, rejected = accept(inbox=inbox, settings=hub_settings([north], inbox, strict))
        reasons.append([entry.reason for entry in rejected])
    assert reasons == [[], ["cell_below_minimum"]]


def one_bin(tmp_path, inbox):
    """Return a site whose histogram is withheld, for all are in one bin."""
    south = site(tmp_path, "south", 12)
    south.table["volume_ml"] = 150.0 + south.table.index
    return sent(south, inbox)


def test_a_cell_that_was_withheld_names_no_bins(tmp_path, inbox):
    south = one_bin(tmp_path, inbox)
    raw = edited(south, disclosure=recorded_as(-1, withheld_bins=[0]))
    assert refusal(raw, south, inbox) == "disclosure_invalid"


def test_the_result_counts_what_was_withheld(tmp_path, inbox):
    south = one_bin(tmp_path, inbox)
    settings = hub_settings([south], inbox)
    accepted, _ = accept(inbox=inbox, settings=settings)
    (found,) = merge(accepted=accepted, settings=settings)["sites"]
    assert (found["cells_released"], found["cells_withheld"]) == (4, 1)


def test_a_refusal_is_short_whatever_a_site_writes(north, inbox):
    raw = edited(north, aggregates=lambda c: c.update({"x" * 5000: 1}))
    put(north, raw)
    _, (refused,) = accept(inbox=inbox, settings=hub_settings([north], inbox))
    assert (refused.reason, len(refused.detail)) == ("aggregates_invalid", 300)


@pytest.mark.parametrize("name", message.CONTENT)
def test_a_manifest_names_both_files(north, inbox, name):
    manifest = json.loads(north.members["manifest.json"])
    del manifest["files"][name]
    members = north.members | {"manifest.json": message.canonical(manifest)}
    assert refusal(zipped(resign(members, north)), north, inbox) == "file_changed"
