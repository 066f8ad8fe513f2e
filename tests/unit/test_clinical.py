"""Clinical variables from a CSV file: what each case has, and why it has nothing."""

from __future__ import annotations

import pytest

from clinical_world import VARIABLES, Hospital
from jipflow.reasons import StageError

WIDE = {
    "patient": "pid",
    "variables": {
        "weight": {"value": "weight", "date": "seen", "unit": "kg"},
        "sex": {"value": "sex", "codes": {"w": "F", "m": "M"}},
        "dead": {"value": "dead"},
        "followed": {"date": "last"},
    },
}
HEAD = "pid,weight,seen,sex,dead,last\n"


def with_map(**changes):
    return WIDE | {"variables": WIDE["variables"] | changes}


def weights(hospital, rows, **changes):
    """Return the weight of the one patient whose rows are weight and date."""
    text = HEAD + "".join(f"0012,{weight},{seen},w,0,2021-06-15\n" for weight, seen in rows)
    return hospital.csv(text, WIDE | changes)["0012", "weight"]


@pytest.fixture
def hospital(tmp_path):
    return Hospital(tmp_path, ["0012"])


def test_a_row_a_patient(tmp_path):
    hospital = Hospital(tmp_path, ["0012", "12", "A-7"])
    found = hospital.csv(
        HEAD + "0012,71.5,2020-06-10,w,0,2021-06-15\n12,80,2020-06-20,m,1,2020-06-16\n", WIDE
    )
    assert found == {
        **{("0012", "weight"): 71.5, ("0012", "sex"): "F", ("0012", "dead"): 0.0},
        **{("0012", "followed"): 365.0, ("12", "weight"): 80.0, ("12", "sex"): "M"},
        **{("12", "dead"): 1.0, ("12", "followed"): 1.0},
        **{("A-7", name["name"]): "no_record" for name in VARIABLES},
    }
    assert hospital.counts == {"cases": 3, "weight": 1, "sex": 1, "dead": 1, "followed": 1}


def test_a_row_a_record(tmp_path):
    columns = {"value": "result", "date": "taken"}
    variables = {
        name: columns | {"only": {"test": name.upper()}} for name in ("weight", "sex", "dead")
    }
    variables["weight"]["unit_column"] = "unit"
    variables["weight"]["units"] = {"g": 0.001}
    variables["followed"] = {"date": "taken", "only": {"test": "SEEN"}}
    text = (
        "p;test;result;unit;taken\n1;WEIGHT;70000;g;15.06.2020\n1;WEIGHT;69;kg;01.06.2020\n"
        "1;SEX;F;;\n1;DEAD;0;;\n1;SEEN;;;16.06.2020\n1;SEEN;;;17.06.2020\n"
    )
    mapped = {"patient": "p", "dates": "%d.%m.%Y", "variables": variables}
    found = Hospital(tmp_path, ["1"]).csv(text, mapped)
    assert found == {
        ("1", "weight"): 70.0,
        ("1", "sex"): "F",
        ("1", "dead"): 0.0,
        ("1", "followed"): 2.0,
    }


@pytest.mark.parametrize(
    ("rows", "value"),
    [
        ([("70", "2020-06-12"), ("75", "2020-06-14")], 75.0),
        ([("70", "2020-06-12"), ("75", "2020-06-18")], "ambiguous"),
        ([("70", "2020-06-12"), ("70", "2020-06-12"), ("70.0", "2020-06-18")], 70.0),
        ([("70", "2020-05-01")], "outside_window"),
        ([("70", "2020-05-16")], 70.0),
        ([("70", "2020-05-15")], "outside_window"),
        ([("70", "2020-06-22")], 70.0),
        ([("70", "2020-06-23")], "outside_window"),
        ([("", "2020-06-14"), ("70", "2020-06-01")], 70.0),
        ([("", "2020-06-14")], "value_missing"),
        ([("70", "14.06.2020")], "date_unreadable"),
        ([("70", "")], "date_unreadable"),
        ([("70", "2020-06-14"), ("71", "2020-13-45")], "date_unreadable"),
        ([("7o", "2020-06-14")], "value_unreadable"),
        ([("<70", "2020-06-14")], "value_unreadable"),
        ([("nan", "2020-06-14")], "value_unreadable"),
        ([("1e999", "2020-06-14")], "out_of_range"),
        ([("700", "2020-06-14")], "out_of_range"),
        ([("19.999", "2020-06-14")], "out_of_range"),
    ],
)
def test_the_record_that_counts(hospital, rows, value):
    assert weights(hospital, rows) == value


def test_a_fault_is_of_one_variable_of_one_case(tmp_path):
    hospital = Hospital(tmp_path, ["1", "2"])
    found = hospital.csv(
        HEAD + "1,70,2020-06-15,x,2,2020-06-14\n2,70,2020-06-15,m,1,2020-06-15\n", WIDE
    )
    assert {name: found["1", name] for name in ("weight", "sex", "dead", "followed")} == {
        "weight": 70.0,
        "sex": "value_not_allowed",
        "dead": "value_not_allowed",
        "followed": "out_of_range",
    }
    assert [found["2", name] for name in ("weight", "sex", "dead", "followed")] == [70, "M", 1, 0]


def test_two_answers_to_one_question_are_none(hospital):
    text = HEAD + "0012,70,2020-06-15,w,0,2020-06-16\n0012,70,2020-06-15,m,0,2020-06-16\n"
    found = hospital.csv(text, WIDE)
    assert found["0012", "sex"] == "ambiguous"
    assert found["0012", "followed"] == 1.0


@pytest.mark.parametrize(
    ("unit", "weight"),
    [("kg", 70.0), ("g", "unit_differs"), ("lb", pytest.approx(31.7514659)), ("", "unit_differs")],
)
def test_units(hospital, unit, weight):
    entry = {"value": "weight", "date": "seen", "unit_column": "sex", "units": {"lb": 0.45359237}}
    text = HEAD + f"0012,70,2020-06-15,{unit},0,2020-06-16\n"
    mapped = with_map(weight=entry)
    assert hospital.csv(text, mapped)["0012", "weight"] == weight


def test_how_hospitals_write_files(hospital):
    text = '"pid";"weight";"seen";"sex";"dead";"last"\r\n'
    text += '"0012 ";"70,5";" 15.06.2020";"w";"0";"16.06.2020"\r\n\r\n'
    mapped = WIDE | {"decimal": ",", "dates": "%d.%m.%Y"}
    for raw in (b"\xef\xbb\xbf" + text.encode(), text.encode("utf-8")):
        assert hospital.csv("", mapped, raw=raw)["0012", "weight"] == 70.5
    assert weights(hospital, [('"1.070,5"', "15.06.2020")], **mapped) == "value_unreadable"
    assert weights(hospital, [('"70.5"', "15.06.2020")], **mapped) == "value_unreadable"
    assert weights(hospital, [('"70,5"', "2020-06-15")]) == "value_unreadable"


def test_a_row_with_a_cell_too_many_gives_nothing(tmp_path):
    hospital = Hospital(tmp_path, ["1", "2"])
    text = HEAD + "1,70,5,2020-06-15,w,0,2020-06-16\n2,70,2020-06-15,m,1,2020-06-15\n"
    found = hospital.csv(text, WIDE)
    assert found["1", "weight"] == found["1", "sex"] == "row_unreadable"
    assert found["2", "weight"] == 70.0


def test_patients_that_the_site_calls_otherwise(tmp_path):
    hospital = Hospital(tmp_path, ["0012", "0013", "0014"])
    text = HEAD + "9,70,2020-06-15,w,0,2020-06-16\n8,80,2020-06-15,m,1,2020-06-16\n"
    link = "PatientID,identifier\n0012,9\n0013,8\n0013,7\n"
    found = hospital.csv(text, WIDE, link)
    assert found["0012", "weight"] == 70.0
    assert found["0013", "sex"] == "M"
    assert found["0014", "sex"] == "not_linked"


@pytest.mark.parametrize("date", ["", "unknown", "2020"])
def test_a_study_without_date(tmp_path, date):
    hospital = Hospital(tmp_path, [("1", date)])
    found = hospital.csv(HEAD + "1,70,2020-06-15,w,0,2020-06-16\n", WIDE)
    assert found["1", "weight"] == found["1", "followed"] == "no_study_date"
    assert found["1", "sex"] == "F"


@pytest.mark.parametrize(("date", "weight"), [("20200615", 70.0), ("20200616", "no_study_date")])
def test_a_case_of_several_studies(hospital, date, weight):
    hospital.another_study("0012", date)
    found = hospital.csv(HEAD + "0012,70,2020-06-15,w,0,2020-06-16\n", WIDE)
    assert found["0012", "weight"] == weight
    assert found["0012", "sex"] == "F"


def test_no_date_leaves_the_stage(hospital):
    weights(hospital, [("70", "2020-05-01")])
    weights(hospital, [("70", "01.05.2020")])
    written = b"".join(path.read_bytes() for path in sorted(hospital.out.iterdir()))
    for text in (b"2020", b"05-01", b"0012"):
        assert text not in written
    assert not any("2020" in message for message in hospital.messages.values())


def test_no_text_of_a_cell_leaves_the_stage(hospital):
    """In the wrong column may stand a name, a date of birth or a number of the hospital."""
    for text in ("Meier", "01.02.1950", "19500201", "1e999", "4711", "M. Meier 1950"):
        found = hospital.csv(HEAD + f"0012,{text},2020-06-15,{text},{text},2020-06-16\n", WIDE)
        gaps = {found["0012", name] for name in ("weight", "sex", "dead")}
        assert gaps <= {"value_unreadable", "value_not_allowed", "out_of_range"}
        for message in hospital.messages.values():
            assert text not in message
            assert not any(part in message for part in ("Meier", "1950", "1.95", "4711"))
    assert "a value written as 'a. aaaaa 9999' is no number" in hospital.messages["0012", "weight"]


@pytest.mark.parametrize("line", ["0012,Meier,1950-02-01,w,0,2020-06-16\n", "sex_of;0012;Meier\n"])
def test_a_file_without_names_of_columns_is_not_quoted(hospital, line):
    with pytest.raises(StageError, match="first line must have the names") as error:
        hospital.csv(line, WIDE)
    assert not any(part in str(error.value) for part in ("0012", "Meier", "1950"))


def test_a_number_at_a_bound_in_another_unit(tmp_path):
    variable = {"name": "dose", "type": "number", "unit": "g", "range": [0.1, 0.3]}
    hospital = Hospital(tmp_path, ["1", "2"], [variable])
    entry = {"value": "dose", "unit_column": "unit", "units": {"x": 0.1}}
    mapped = {"patient": "pid", "variables": {"dose": entry}}
    found = hospital.csv("pid,dose,unit\n1,3,x\n1,0.3,g\n2,1,x\n", mapped)
    assert (found["1", "dose"], found["2", "dose"]) == (0.3, 0.1)


def test_the_same_file_gives_the_same_bytes(hospital):
    rows = [("70", "2020-06-12"), ("75", "2020-06-14")]
    weights(hospital, rows)
    first = {path.name: path.read_bytes() for path in hospital.out.iterdir()}
    weights(hospital, rows)
    assert {path.name: path.read_bytes() for path in hospital.out.iterdir()} == first


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("pid,weigth,seen,sex,dead,last\n", ["no column 'weight'", "did you mean 'weigth'"]),
        ("pid,weight,seen,sex,sex,dead,last\n", ["'sex' twice"]),
        ("", ["no column 'pid'"]),
        (HEAD + '0012,"70,2020-06-15,w\n', ["is no table"]),
    ],
)
def test_a_file_that_is_not_as_the_map_says(hospital, text, parts):
    with pytest.raises(StageError) as error:
        hospital.csv(text, WIDE)
    assert all(part in str(error.value) for part in [*parts, "data.csv"])


def test_a_file_of_another_encoding(hospital):
    raw = HEAD.encode() + "0012,70,2020-06-15,w,0,2020-06-16\nMüller,,,,,\n".encode("cp1252")
    with pytest.raises(StageError, match="encoding"):
        hospital.csv("", WIDE, raw=raw)
    assert hospital.csv("", WIDE | {"encoding": "cp1252"}, raw=raw)["0012", "sex"] == "F"


def test_a_file_that_is_away_is_a_fault_of_the_place(hospital):
    source = {"kind": "csv", "file": str(hospital.root / "away.csv"), "map": hospital.map(WIDE)}
    with pytest.raises(OSError, match="away"):
        hospital.made(source)
