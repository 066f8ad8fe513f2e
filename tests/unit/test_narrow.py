"""A protocol's filter as queries that a PACS can answer."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jipflow.columns import COLUMNS
from jipflow.expressions import FilterError, connect, select_series
from jipflow.pacs.conditions import Wildcard
from jipflow.pacs.narrow import narrow

MATCH = (
    "PatientID",
    "StudyDate",
    "StudyInstanceUID",
    "StudyDescription",
    "Modality",
    "SeriesInstanceUID",
    "SeriesDescription",
    "BodyPartExamined",
)
UIDS = ("SeriesInstanceUID", "StudyInstanceUID")


def queries(where: str | list[str], *roles: str) -> list[dict[str, str]]:
    return narrow(where, roles or ("TRUE",), MATCH)


def matches(row: Mapping[str, Any], keys: Mapping[str, str]) -> bool:
    """Return whether a series meets every key, by the rules of PS3.4 section C.2.2.2."""
    return all(_matches(str(row[name]), name, key) for name, key in keys.items())


def _matches(value: str, name: str, key: str) -> bool:
    if key == "":  # C.2.2.2.3 universal matching
        return True
    if name in UIDS:  # C.2.2.2.2 list of UID matching
        return value in key.split("\\")
    if name == "StudyDate" and "-" in key:  # C.2.2.2.5 range matching
        low, high = key.split("-")
        return value != "" and (low or "0") <= value <= (high or "9")
    if name == "StudyDate":  # C.2.2.2.1 single value matching
        return value == key
    # C.2.2.2.4 wild card matching; leading and trailing spaces do not count (PS3.5 section 6.2)
    pattern = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in key.strip(" "))
    return any(re.fullmatch(pattern, v.strip(" "), re.DOTALL) for v in value.split("\\"))


def catalog(rows: list[dict[str, str]]) -> pd.DataFrame:
    empty = {name: "" if kind == "VARCHAR" else None for name, kind in COLUMNS.items()}
    filled = [{**empty, "SeriesInstanceUID": f"1.2.{n}", **row} for n, row in enumerate(rows)]
    return pd.DataFrame(filled, columns=list(COLUMNS))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("Modality = 'CT'", [{"Modality": "CT"}]),
        ("'CT' = modality", [{"Modality": "CT"}]),
        ("catalog.Modality = 'CT'", [{"Modality": "CT"}]),
        ("Modality IS NOT DISTINCT FROM 'CT'", [{"Modality": "CT"}]),
        ("Modality IN ('CT', 'PT')", [{"Modality": "CT"}, {"Modality": "PT"}]),
        (
            "Modality = 'CT' AND SliceThickness <= 5 AND Rows = 512",
            [{"Modality": "CT"}],
        ),
        (
            "StudyDate BETWEEN '20200101' AND '20201231' AND Modality = 'MR'",
            [{"Modality": "MR", "StudyDate": "20200101-20201231"}],
        ),
        ("StudyDate >= '2015'", [{"StudyDate": "20150101-"}]),
        ("NOT (StudyDate < '20150101')", [{"StudyDate": "20150101-"}]),
        ("NOT (StudyDate <= '20150101')", [{"StudyDate": "20150102-"}]),
        ("'20150101' < StudyDate", [{"StudyDate": "20150102-"}]),
        (
            "StudyDate > '20191231' AND NOT (StudyDate >= '20200301')",
            [{"StudyDate": "20200101-20200229"}],
        ),
        ("StudyDate LIKE '2020%'", [{"StudyDate": "20200101-20201231"}]),
        ("left(StudyDate, 6) = '202002'", [{"StudyDate": "20200201-20200229"}]),
        ("StudyDate[1:4] >= '2019'", [{"StudyDate": "20190101-"}]),
        ("StudyDate = '20200101'", [{"StudyDate": "20200101"}]),
        ("TRY_CAST(StudyDate AS INTEGER) <= 20201231", [{"StudyDate": "-20201231"}]),
        (
            "try_strptime(StudyDate, '%Y%m%d')::DATE < DATE '2020-01-01'",
            [{"StudyDate": "-20191231"}],
        ),
        ("SeriesDescription LIKE 'Thorax%'", [{"SeriesDescription": "Thorax*"}]),
        ("starts_with(SeriesDescription, 'T1')", [{"SeriesDescription": "T1*"}]),
        ("SeriesDescription ^@ 'T1'", [{"SeriesDescription": "T1*"}]),
        ("contains(StudyDescription, 'Brain')", [{"StudyDescription": "*Brain*"}]),
        ("suffix(StudyDescription, 'Brain')", [{"StudyDescription": "*Brain"}]),
        ("PatientID LIKE 'A_7%'", [{"PatientID": "A*7*"}]),
        ("NOT (PatientID NOT LIKE 'A%')", [{"PatientID": "A*"}]),
        ("NOT (Modality <> 'CT' OR SliceThickness > 3)", [{"Modality": "CT"}]),
        (
            "StudyInstanceUID IN ('1.2.3', '1.2.4')",
            [{"StudyInstanceUID": "1.2.3"}, {"StudyInstanceUID": "1.2.4"}],
        ),
        (
            "(Modality = 'CT' AND KVP = 120) OR (Modality = 'PT' AND Units = 'BQML')",
            [{"Modality": "CT"}, {"Modality": "PT"}],
        ),
        ("Modality = 'CT' OR (Modality = 'CT' AND PatientID = 'X')", [{"Modality": "CT"}]),
        ("PatientID = 'X1' AND PatientID LIKE 'X%'", [{"PatientID": "X1"}]),
    ],
)
def test_what_a_pacs_understands_becomes_a_key(where: str, expected: list[dict[str, str]]) -> None:
    assert queries(where) == expected


@pytest.mark.parametrize(
    "where",
    [
        "TRUE",
        "Modality <> 'CT'",
        "Modality NOT IN ('CT')",
        "NOT (Modality = 'CT')",
        "Modality = 'CT' OR SliceThickness < 3",
        "SeriesDescription ILIKE 'thorax%'",
        "lower(SeriesDescription) = 'thorax'",
        "SeriesDescription COLLATE NOCASE = 'thorax'",
        "regexp_matches(SeriesDescription, 'Thorax')",
        "ImageType LIKE 'ORIGINAL%'",
        "SeriesDescription = ''",
        "SeriesDescription = 'a\\b'",
        "PatientID = 5",
        "PatientID IN ('5', 7)",
        "PatientID < 'B'",
        "Modality = SeriesDescription",
        "Modality = 'ct'",
        "StudyInstanceUID LIKE '1.2.%'",
        "StudyDate LIKE '%0101'",
        "StudyDate = '2020'",
        "CASE WHEN Modality = 'CT' THEN FALSE ELSE TRUE END",
        "coalesce(Modality, '') = 'CT'",
    ],
)
def test_what_it_does_not_understand_widens(where: str) -> None:
    assert queries(where) == [{}]


def test_patterns_of_many_wildcards_are_compared_at_once() -> None:
    many = "%a" * 30 + "%b"
    start = time.monotonic()
    found = queries(f"SeriesDescription LIKE '{many}' OR SeriesDescription = '{'a' * 64}'")
    assert time.monotonic() - start < 2
    assert found == [
        {"SeriesDescription": "*" + "a*" * 30 + "b"},
        {"SeriesDescription": "a" * 64},
    ]


@pytest.mark.parametrize(
    ("one", "other", "within"),
    [
        ("ab", "ab", True),
        ("ab", "a", False),
        ("ab", "a*", True),
        ("ab", "*b", True),
        ("ab", "a*b", True),
        ("aba", "ab*ba", False),
        ("a*b", "a*", True),
        ("a*", "a*b", False),
        ("xaxbx", "*a*b*", True),
        ("xbxax", "*a*b*", False),
        ("xab", "a*", False),
    ],
)
def test_a_wildcard_is_within_one_that_covers_it(one: str, other: str, within: bool) -> None:
    assert Wildcard(one).within(Wildcard(other)) is within


def test_a_date_without_a_lower_end_may_be_empty_and_is_no_key() -> None:
    assert queries("StudyDate <= '20201231' AND Modality = 'CT'") == [{"Modality": "CT"}]


def test_wildcards_stand_for_what_a_pacs_may_read_otherwise() -> None:
    assert queries("SeriesDescription = '3*3 Löwe'") == [{"SeriesDescription": "3*3 L*we"}]
    assert queries("SeriesDescription = ' T1 '") == [{"SeriesDescription": "*T1*"}]
    assert queries("starts_with(SeriesDescription, 'T1 ')") == [{"SeriesDescription": "T1*"}]
    assert queries("SeriesDescription LIKE '_ T1 x %'") == [{"SeriesDescription": "*T1 x*"}]
    (query,) = queries(f"SeriesDescription = '{'x' * 70}'")
    assert query == {"SeriesDescription": "x" * 63 + "*"}


def test_steps_and_roles_are_met_together() -> None:
    found = queries(
        ["StudyDate >= '20200101'", "SliceThickness <= 3"],
        "Modality = 'CT' AND KVP > 100",
        "Modality = 'PT'",
    )
    assert found == [
        {"Modality": "CT", "StudyDate": "20200101-"},
        {"Modality": "PT", "StudyDate": "20200101-"},
    ]


def test_a_role_that_no_series_of_the_cohort_can_take_asks_nothing() -> None:
    assert queries("Modality = 'CT'", "Modality = 'PT'", "Modality = 'CT'") == [{"Modality": "CT"}]
    assert queries("Modality = 'CT'", "Modality = 'PT'") == []


def test_only_the_keys_that_the_site_allows_are_used() -> None:
    where = "Modality = 'CT' AND SeriesDescription = 'T1'"
    assert narrow(where, ["TRUE"], ["Modality"]) == [{"Modality": "CT"}]


def test_many_alternatives_are_joined_and_not_dropped() -> None:
    identifiers = ", ".join(f"'STS_{n:03d}'" for n in range(500))
    where = f"PatientID IN ({identifiers}) AND Modality IN ('CT', 'PT')"
    assert queries(where) == [
        {"Modality": "CT", "PatientID": "STS_*"},
        {"Modality": "PT", "PatientID": "STS_*"},
    ]


def test_many_uids_are_parted_into_lists() -> None:
    uids = [f"1.2.{n}" for n in range(120)]
    found = queries("SeriesInstanceUID IN ({})".format(", ".join(f"'{uid}'" for uid in uids)))
    listed = [query["SeriesInstanceUID"].split("\\") for query in found]
    assert sorted(uid for part in listed for uid in part) == sorted(uids)
    assert len(listed) == 3


@pytest.mark.parametrize(
    "where",
    [
        "Modality = ",
        "FALSE) UNION SELECT PatientID FROM catalog WHERE (TRUE",
        "PatientID IN (SELECT PatientID FROM catalog)",
    ],
)
def test_an_invalid_expression_is_refused(where: str) -> None:
    with pytest.raises(FilterError):
        queries(where)


TEXT = st.sampled_from(
    ["", "CT", "PT", "ct", "T1", "T1 ", " T1", "T1_x", "Thorax", "a*b", "a\\b", "ä", "x" * 70, "?"]
)
DATE = st.sampled_from(["", "19991231", "20200101", "20200229", "20201231", "20210101"])
UID = st.sampled_from(["1.2.0", "1.2.1", "1.2.2", "1.2.30"])
TEXT_COLUMNS = ("PatientID", "StudyDescription", "Modality", "SeriesDescription", "ImageType")


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@st.composite
def leaves(draw: st.DrawFn) -> str:
    operator = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])
    kind = draw(st.sampled_from(["text", "like", "in", "date", "dates", "cast", "uid", "other"]))
    column = draw(st.sampled_from([*TEXT_COLUMNS, "StudyDate"]))
    value = DATE | st.sampled_from(["2020", "202002", "2020022"])
    if kind == "text":
        sides = [column, literal(draw(TEXT))]
        if draw(st.booleans()):
            sides.reverse()
        return f"{sides[0]} {draw(operator)} {sides[1]}"
    if kind == "like":
        pattern = draw(TEXT) + draw(st.sampled_from(["", "%", "_", "%1"]))
        name = draw(st.sampled_from(["starts_with", "contains", "suffix", "LIKE", "NOT LIKE"]))
        if name.endswith("LIKE"):
            return f"{column} {name} {literal(pattern)}"
        return f"{name}({column}, {literal(pattern)})"
    if kind == "in":
        values = draw(st.lists(TEXT | DATE, min_size=1, max_size=3))
        negation = draw(st.sampled_from(["", "NOT "]))
        return f"{column} {negation}IN ({', '.join(map(literal, values))})"
    if kind == "date":
        return f"StudyDate {draw(operator)} {literal(draw(value))}"
    if kind == "dates":
        negation = draw(st.sampled_from(["", "NOT "]))
        low, high = literal(draw(value)), literal(draw(value))
        return f"StudyDate {negation}BETWEEN {low} AND {high}"
    if kind == "cast":
        day = draw(DATE.filter(bool))
        iso = f"{day[:4]}-{day[4:6]}-{day[6:]}"
        return draw(
            st.sampled_from(
                [
                    f"TRY_CAST(StudyDate AS INTEGER) {draw(operator)} {day}",
                    f"try_strptime(StudyDate, '%Y%m%d') {draw(operator)} DATE '{iso}'",
                    f"left(StudyDate, 4) {draw(operator)} '{day[:4]}'",
                    f"try_strptime(StudyDate, '%Y%m%d')::DATE {draw(operator)} '{iso}'",
                    f"StudyDate[1:6] {draw(operator)} '{day[:6]}'",
                    f"substr(StudyDate, 1, 4)::VARCHAR {draw(operator)} '{day[:4]}'",
                    f"StudyDate IS NOT DISTINCT FROM '{day}'",
                    f"left(SeriesDescription, 2) {draw(operator)} 'T1'",
                    f"(SeriesDescription || '') {draw(operator)} 'T1'",
                ]
            )
        )
    if kind == "uid":
        uids = draw(st.lists(UID, min_size=1, max_size=3))
        return f"{draw(st.sampled_from(UIDS))} IN ({', '.join(map(literal, uids))})"
    return draw(
        st.sampled_from(
            [
                "SliceThickness < 3",
                "Modality IS NULL",
                "TRUE",
                "FALSE",
                "lower(Modality) = 'ct'",
                "SeriesDescription ILIKE 't1%'",
                "Modality = SeriesDescription",
                "SeriesDescription ^@ 'T1'",
                "(PatientID = 'CT') IS NULL",
            ]
        )
    )


CONDITIONS = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) AND ({two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) OR ({two[1]})"),
        inner.map(lambda one: f"NOT ({one})"),
    ),
    max_leaves=8,
)
ROWS = st.lists(
    st.fixed_dictionaries(
        dict.fromkeys(TEXT_COLUMNS, TEXT)
        | {"StudyDate": DATE, "StudyInstanceUID": UID, "SliceThickness": st.sampled_from([1, 5])}
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(where=CONDITIONS, roles=st.lists(CONDITIONS, min_size=1, max_size=2), rows=ROWS)
def test_no_series_that_the_filter_accepts_is_missed(
    where: str, roles: list[str], rows: list[dict[str, str]]
) -> None:
    found = narrow(where, roles, MATCH)
    table = catalog(rows)
    either = " OR ".join(f"({role})" for role in roles)
    with connect(table) as connection:
        accepted = set(select_series(connection, f"({where}) AND ({either})"))
    for row in table.to_dict("records"):
        if row["SeriesInstanceUID"] in accepted:
            assert any(matches(row, keys) for keys in found), (row, found)
