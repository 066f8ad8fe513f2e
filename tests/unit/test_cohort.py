"""Cases, roles, pseudonyms and shards that never move."""

from __future__ import annotations

import secrets
import stat
from pathlib import Path

import pandas as pd
import pytest

from jipflow.cases import Wanted, read_cases
from jipflow.catalog import assignment, cohort
from jipflow.columns import COLUMNS
from jipflow.files import read_json, write_parquet
from jipflow.outcomes import Status, read_outcomes
from jipflow.privacy.pseudonyms import check_secret, fingerprint, pseudonym, site_secret
from jipflow.reasons import Reason, StageError
from jipflow.settings.protocol import Cohort
from jipflow.settings.run import load_settings
from jipflow.settings.schema import load


def row(patient, study, modality, number, **values):
    kinds = {"VARCHAR": "", "DOUBLE": None, "BIGINT": None}
    empty = {name: kinds[kind] for name, kind in COLUMNS.items()}
    return {
        **empty,
        "PatientID": patient,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"1.2.{number}",
        "Modality": modality,
        "NumberOfInstances": 10 + number,
        "SliceThickness": 3.0,
        **values,
    }


class World:
    def __init__(self, folder):
        self.folder = folder
        self.modified = {}
        self.files = 2
        self.settings = load_settings(
            {
                "site": {"id": "north", "name": "North"},
                "sources": [{"name": "a", "kind": "folder", "path": str(folder)}],
                "identity": {"secret_file": str(folder / "secret" / "identity.key")},
                "processing": {"shard_size": 2},
                "protocol": "sarcoma-ct",
            }
        )

    def select(self, rows, pacs=(), where="true", by="study", **roles):
        self.write_catalog("catalog", rows)
        folders = [self.folder / "catalog"]
        if pacs:
            self.write_catalog("pacs", pacs)
            folders.append(self.folder / "pacs")
        settings = self.settings
        if roles:
            chosen = load(Cohort, {"where": where, "case": {"by": by, "roles": roles}}, "cohort")
            protocol = settings.protocol.model_copy(update={"cohort": chosen})
            settings = settings.model_copy(update={"protocol": protocol})
        cohort.run(
            settings=settings,
            catalog_dirs=folders,
            out_dir=self.folder / "cohort",
            results=self.folder,
        )

    def write_catalog(self, name, rows):
        types = {"VARCHAR": "str", "DOUBLE": "float64", "BIGINT": "Int64"}
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        table = table.astype({name: types[kind] for name, kind in COLUMNS.items()})
        write_parquet(self.folder / name / "series.parquet", table)
        instances = [
            {
                "SOPInstanceUID": f"{r['SeriesInstanceUID']}.{i}",
                "SeriesInstanceUID": r["SeriesInstanceUID"],
                "path": f"/{name}/{r['SeriesInstanceUID']}/{i}",
                "bytes": 1000,
                "modified_ns": self.modified.get(r["SeriesInstanceUID"], 5),
                "Source": name,
            }
            for r in rows
            for i in range(self.files)
        ]
        columns = ["SOPInstanceUID", "SeriesInstanceUID", "path", "bytes", "modified_ns", "Source"]
        table = pd.DataFrame(instances, columns=columns)
        write_parquet(self.folder / name / "instances.parquet", table)

    @property
    def cases(self):
        return pd.read_csv(self.folder / "cohort" / "cases.tsv", sep="\t", dtype=str)

    @property
    def outcomes(self):
        return read_outcomes(self.folder / "cohort" / "outcomes.parquet")

    @property
    def flow(self):
        return read_json(self.folder / "cohort" / "flow.json")["steps"]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_the_secret_is_made_once_and_kept_from_others(tmp_path):
    path = tmp_path / "secrets" / "identity.key"
    secret = site_secret(path, tmp_path)
    assert len(secret) == 32
    assert site_secret(path, tmp_path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(StageError, match="chmod 600"):
        site_secret(path, tmp_path)
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(StageError, match="backup"):
        site_secret(path, tmp_path)


def test_of_two_jobs_that_make_the_secret_at_once_both_have_the_first(tmp_path, monkeypatch):
    path = tmp_path / "secrets" / "identity.key"
    found = []

    def while_another_starts(size):
        monkeypatch.setattr(secrets, "token_hex", drawn)
        found.append(site_secret(path, tmp_path))
        return drawn(size)

    drawn = secrets.token_hex
    monkeypatch.setattr(secrets, "token_hex", while_another_starts)
    assert site_secret(path, tmp_path) == found[0]
    assert [p.name for p in path.parent.iterdir()] == ["identity.key"]


def kept(folder):
    """A secret, and results that were made with it."""
    path, results = folder / "identity.key", folder / "results"
    secret = site_secret(path, results)
    (results / "demo" / "cohort").mkdir(parents=True)
    (results / "demo" / "cohort" / "assignment.tsv").touch()
    return path, results, secret


def test_results_keep_what_distinguishes_their_secret_and_not_the_secret(tmp_path):
    _, results, secret = kept(tmp_path)
    content = (results / "identity.json").read_text()
    assert fingerprint(secret) in content
    assert secret.hex() not in content
    assert fingerprint(bytes(32)) != fingerprint(secret)


def test_another_secret_than_that_of_the_results_is_refused(tmp_path):
    path, results, secret = kept(tmp_path)
    path.write_text(secret.hex()[::-1] + "\n")
    for check in (check_secret, site_secret):
        with pytest.raises(StageError, match=r"made with another secret than .*name new results"):
            check(path, results)
    path.write_text(secret.hex() + "\n")
    check_secret(path, results)


@pytest.mark.parametrize("gone", ["identity.json", "demo/cohort/assignment.tsv"])
def test_no_secret_is_made_where_results_are(tmp_path, gone):
    path, results, _ = kept(tmp_path)
    path.unlink()
    (results / gone).unlink()
    for check in (check_secret, site_secret):
        with pytest.raises(StageError, match="is missing, and the pseudonyms"):
            check(path, results)
    assert not path.exists()
    check_secret(path, tmp_path / "new results")


@pytest.mark.parametrize("content", [None, "", "[]", "{}"])
def test_results_without_a_fingerprint_belong_to_no_secret(tmp_path, content):
    path, results, _ = kept(tmp_path)
    (results / "identity.json").unlink()
    if content is not None:
        (results / "identity.json").write_text(content)
    with pytest.raises(StageError, match="missing or damaged"):
        site_secret(path, results)


def test_a_secret_that_cannot_be_read_is_neither_missing_nor_made_again(tmp_path, monkeypatch):
    path, results, _ = kept(tmp_path)
    stat_of = Path.stat

    def denied(self, **options):
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return stat_of(self, **options)

    monkeypatch.setattr(Path, "stat", denied)
    with pytest.raises(StageError, match=r"cannot be read \(Permission denied\); run as the acc"):
        check_secret(path, tmp_path / "new results")
    with pytest.raises(StageError, match="cannot be read"):
        site_secret(path, results)


def test_a_secret_that_is_a_link_to_nothing_is_named(tmp_path):
    path = tmp_path / "identity.key"
    path.symlink_to(tmp_path / "unplugged")
    with pytest.raises(StageError, match="link to a file that does not exist"):
        site_secret(path, tmp_path)


def test_pseudonyms_depend_on_everything_and_on_the_split():
    one, other = bytes(32), bytes(31) + b"1"
    names = {
        pseudonym(one, "case", "p1", "s1"),
        pseudonym(one, "case", "p1s", "1"),
        pseudonym(one, "patient", "p1", "s1"),
        pseudonym(other, "case", "p1", "s1"),
    }
    assert len(names) == 4
    assert pseudonym(one, "case", "p1", "s1") in names
    assert all(len(name) == 16 and name.isalnum() and name.islower() for name in names)


def test_no_identifier_is_in_the_cohort_tables(world):
    world.select([row("DOE-JANE", "1.9", "CT", 1), row("ROE-JOHN", "1.8", "CT", 2)])
    text = (world.folder / "cohort" / "cases.tsv").read_text()
    assert "DOE" not in text
    assert "ROE" not in text
    assert set(world.cases["shard"]) == {"s00001"}


def test_shards_never_move_and_new_cases_open_new_ones(world):
    rows = [row(f"p{i}", f"1.{i}", "CT", i) for i in range(3)]
    world.select(rows)
    first = dict(zip(world.cases["case_id"], world.cases["shard"], strict=True))
    shards = world.folder / "cohort" / "shards"
    stamps = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    world.select([row(f"a{i}", f"1.5{i}", "CT", 50 + i) for i in range(3)] + rows)
    second = dict(zip(world.cases["case_id"], world.cases["shard"], strict=True))
    assert first.items() <= second.items()
    assert sorted(first.values()) == ["s00001", "s00001", "s00002"]
    new = sorted(shard for case, shard in second.items() if case not in first)
    assert new == ["s00003", "s00003", "s00004"]
    for name, stamp in stamps.items():
        assert (shards / name).stat().st_mtime_ns == stamp


def test_where_the_site_sets_no_size_shards_have_the_usual_one(world, monkeypatch):
    site = world.settings.site
    usual = site.processing.model_copy(update={"shard_size": None})
    site = site.model_copy(update={"processing": usual})
    world.settings = world.settings.model_copy(update={"site": site})
    monkeypatch.setattr(assignment, "USUAL", 3)
    world.select([row(f"p{i}", f"1.{i}", "CT", i) for i in range(4)])
    assert sorted(world.cases["shard"]) == ["s00001", "s00001", "s00001", "s00002"]


def test_a_file_fixed_in_place_changes_its_own_shard_only(world):
    rows = [row(f"p{i}", f"1.{i}", "CT", i) for i in range(3)]
    world.select(rows)
    shards = world.folder / "cohort" / "shards"
    stamps = {path.stem: path.stat().st_mtime_ns for path in shards.iterdir()}
    series = world.cases.set_index("series_uid")["shard"]
    world.modified["1.2.1"] = 6
    world.select(rows)
    changed = {p.stem for p in shards.iterdir() if p.stat().st_mtime_ns != stamps[p.stem]}
    assert changed == {series["1.2.1"]}


@pytest.mark.parametrize("damaged", [b"", b"PAR1", None])
def test_a_shards_file_that_was_cut_off_is_written_again(world, damaged):
    rows = [row(f"p{i}", f"1.{i}", "CT", i) for i in range(3)]
    world.select(rows)
    path = min((world.folder / "cohort" / "shards").iterdir())
    content = path.read_bytes()
    path.write_bytes(content[:40] + bytes(40) + content[80:] if damaged is None else damaged)
    world.select(rows)
    assert path.read_bytes() == content


def test_a_case_that_left_keeps_its_shard_for_its_return(world):
    rows = [row(f"p{i}", f"1.{i}", "CT", i) for i in range(3)]
    world.select(rows)
    first = dict(zip(world.cases["case_id"], world.cases["shard"], strict=True))
    world.select(rows[1:])
    world.select(rows)
    assert dict(zip(world.cases["case_id"], world.cases["shard"], strict=True)) == first


def test_the_flow_counts_each_step(world):
    rows = [
        row("p1", "1.1", "CT", 1),
        row("p1", "1.1", "RTSTRUCT", 2),
        row("p2", "1.2", "MR", 3),
        row("p3", "1.3", "CT", 4),
        row("p3", "1.3", "CT", 5),
    ]
    world.select(rows)
    counts = [(s["step"], s["series"], s["patients"]) for s in world.flow]
    assert counts == [
        ("found", 5, 3),
        ("images", 4, 3),
        ("where-1", 3, 2),
        ("cases", 1, 1),
    ]
    assert world.flow[-1]["cases"] == 1


CT = {"where": "Modality = 'CT'"}


def test_every_step_of_the_filter_is_met(world):
    rows = [
        row(f"p{n}", f"1.{n}", modality, n, SliceThickness=thickness, Rows=lines)
        for n, (modality, thickness, lines) in enumerate(
            [("CT", 1.0, 512), ("CT", 5.0, 512), ("CT", 1.0, 256), ("PT", 1.0, 512)], start=1
        )
    ]
    steps = ["Modality = 'CT' -- of any kind", "SliceThickness < 3 OR FALSE", "Rows = 512"]
    world.select(rows, where=steps, CT={"where": "TRUE"})
    assert list(world.cases["series_uid"]) == ["1.2.1"]
    assert [(s["step"], s["label"], s["series"], s["patients"]) for s in world.flow[:-1]] == [
        ("found", "Series found", 4, 4),
        ("images", "Image series, no contours or segmentations", 4, 4),
        ("where-1", steps[0], 3, 3),
        ("where-2", steps[1], 2, 2),
        ("where-3", steps[2], 1, 1),
    ]


def test_a_role_takes_series_of_the_cohort_alone(world):
    rows = [row("p1", "1.1", "CT", 1, Rows=512), row("p1", "1.1", "CT", 2, Rows=256)]
    world.select(rows, where="Rows = 512", CT=CT)
    assert list(world.cases["series_uid"]) == ["1.2.1"]


def test_a_header_cannot_add_lines_or_cells_to_the_table_of_cases(world):
    odd = ["ACME\ns00009\tx", 'AC\tME "q"', "a\rb", "a\x85b\u2028c", '"half', "Ma\u00df \x1b[31m"]
    rows = [
        row(
            f"p{number}",
            f"1.{number}",
            "CT",
            number,
            Manufacturer=text,
            ManufacturerModelName=text,
            ProtocolName=text,
        )
        for number, text in enumerate(odd)
    ]
    world.select(rows, CT=CT)
    lines = (world.folder / "cohort" / "cases.tsv").read_text().splitlines()
    assert [line.count("\t") for line in lines] == [9] * 7
    assert {line.split("\t")[2] for line in lines[1:]} == {"s00001", "s00002", "s00003"}
    for column in ("model", "protocol_name"):
        assert sorted(world.cases[column]) == [
            *('"half', 'AC ME "q"', "ACME s00009 x", "Maß  [31m", "a b", "a b c"),
        ]


def two_studies():
    return [
        row("p1", "1.1", "CT", 1),
        row("p1", "1.2", "CT", 2),
        row("p2", "1.3", "CT", 3),
    ]


def test_the_cases_of_a_patient_share_its_pseudonym_and_count_as_one(world):
    world.select(two_studies(), CT=CT)
    by_series = world.cases.set_index("series_uid")
    assert len(set(world.cases["case_id"])) == 3
    assert by_series.patient["1.2.1"] == by_series.patient["1.2.2"] != by_series.patient["1.2.3"]
    assert not set(world.cases["patient"]) & set(world.cases["case_id"])
    counts = world.flow[-1]
    assert (counts["series"], counts["patients"], counts["cases"]) == (3, 2, 3)


def test_a_case_may_be_all_that_a_patient_has(world):
    world.select(two_studies(), by="patient", CT=CT | {"prefer": "NumberOfInstances DESC"})
    assert sorted(world.cases["series_uid"]) == ["1.2.2", "1.2.3"]
    counts = world.flow[-1]
    assert (counts["series"], counts["patients"], counts["cases"]) == (2, 2, 2)
    world.select(two_studies(), by="patient", CT=CT)
    assert [o.reason for o in world.outcomes if o.reason] == [Reason.SEVERAL_SERIES_FOR_ROLE]
    assert world.flow[-1]["cases"] == 1


def test_the_file_of_a_shard_that_has_no_case_left_goes(world):
    rows = [row(f"p{i}", f"1.{i}", "CT", i) for i in range(3)]
    world.select(rows, CT=CT)
    shards = world.folder / "cohort" / "shards"
    assert sorted(path.name for path in shards.iterdir()) == ["s00001.parquet", "s00002.parquet"]
    left = world.cases[world.cases["shard"] == "s00001"]["series_uid"]
    world.select([r for r in rows if r["SeriesInstanceUID"] in set(left)], CT=CT)
    assert [path.name for path in shards.iterdir()] == ["s00001.parquet"]
    (shards / "s00009.parquet").write_bytes(b"of another run")
    world.select([], CT=CT)
    assert list(shards.iterdir()) == []


def test_a_value_that_does_not_suit_the_filter_is_not_shown(world):
    with pytest.raises(StageError, match="cannot be converted") as error:
        world.select(
            [row("DOE^JOHN", "1.1", "CT", 1)], where=["TRUE", "PatientID::INTEGER > 5"], CT=CT
        )
    assert "DOE" not in str(error.value)
    with pytest.raises(StageError, match="holds a query"):
        world.select([], where="PatientID IN (SELECT PatientID FROM catalog)", CT=CT)


def test_who_leaves_is_recorded_with_the_reason(world):
    rows = [
        row("p1", "1.1", "CT", 1),
        row("p1", "1.1", "PT", 2),
        row("p2", "1.2", "PT", 3),
        row("p3", "1.3", "CT", 4),
        row("p3", "1.3", "CT", 5),
        row("", "1.4", "CT", 6),
    ]
    world.select(
        rows, CT={"where": "Modality = 'CT'"}, PT={"where": "Modality = 'PT'", "required": False}
    )
    reasons = sorted(o.reason for o in world.outcomes if o.status is Status.EXCLUDED)
    assert reasons == sorted(
        [Reason.MISSING_ROLE, Reason.SEVERAL_SERIES_FOR_ROLE, Reason.MISSING_PATIENT_ID]
    )
    assert [o.status for o in world.outcomes].count(Status.OK) == 1
    assert sorted(world.cases["role"]) == ["CT", "PT"]


def test_prefer_chooses_among_several(world):
    rows = [
        row("p1", "1.1", "CT", 1, SliceThickness=5.0),
        row("p1", "1.1", "CT", 2, SliceThickness=1.0),
        row("p1", "1.1", "CT", 3, SliceThickness=2.5),
    ]
    world.select(rows, CT={"where": "Modality = 'CT'", "prefer": "SliceThickness"})
    assert list(world.cases["series_uid"]) == ["1.2.2"]


def test_a_case_is_given_its_patients_contours_whatever_their_study(world):
    rows = [
        row("p1", "1.1", "CT", 1),
        row("p1", "1.7", "RTSTRUCT", 2),
        row("p2", "1.2", "RTSTRUCT", 3),
    ]
    world.select(rows)
    (case,) = read_cases(world.folder / "cohort" / "shards" / "s00001.parquet", {})
    assert [a.series_uid for a in case.annotations] == ["1.2.2"]
    assert set(case.roles) == {"CT"}
    assert len(case.roles["CT"].paths) == 2


def test_two_roles_may_be_two_volumes_of_one_series(world):
    both = {role: {"where": "Modality = 'CT'"} for role in ("EARLY", "LATE")}
    world.select([row("p1", "1.1", "CT", 1)], **both)
    wanted = {"EARLY": Wanted(time_point=1), "LATE": Wanted(time_point="last")}
    (case,) = read_cases(world.folder / "cohort" / "shards" / "s00001.parquet", wanted)
    early, late = case.roles["EARLY"], case.roles["LATE"]
    assert (early.series_uid, early.paths) == (late.series_uid, late.paths)
    assert {role: series.wanted for role, series in case.roles.items()} == wanted


def test_a_case_of_two_roles_is_given_its_contours_once(world):
    rows = [
        row("p1", "1.1", "CT", 1),
        row("p1", "1.1", "PT", 2),
        row("p1", "1.1", "RTSTRUCT", 3),
    ]
    both = {role: {"where": f"Modality = '{role}'"} for role in ("CT", "PT")}
    world.select(rows, where=["Modality IN ('CT', 'PT')"], **both)
    shard = pd.read_parquet(world.folder / "cohort" / "shards" / "s00001.parquet")
    assert not shard.duplicated().any()
    assert sorted(shard["role"]) == ["", "", "CT", "CT", "PT", "PT"]


def test_an_empty_cohort_is_no_crash(world):
    world.select([row("p1", "1.1", "MR", 1)])
    assert world.cases.empty
    assert world.flow[-1]["cases"] == 0


def test_a_series_in_two_catalogs_counts_once_from_the_first(world):
    both = row("p1", "1.1", "CT", 1)
    world.select([both], pacs=[both, row("p2", "1.2", "CT", 2)])
    assert world.flow[0]["series"] == 2
    shard = pd.read_parquet(world.folder / "cohort" / "shards" / "s00001.parquet")
    assert dict(zip(shard["series_uid"], shard["source"], strict=True)) == {
        "1.2.1": "catalog",
        "1.2.2": "pacs",
    }
    assert len(shard) == 4


def test_a_shard_names_study_source_and_instance_of_every_file(world):
    world.select([row("p1", "1.1", "CT", 1), row("p1", "1.7", "SEG", 2)])
    shard = pd.read_parquet(world.folder / "cohort" / "shards" / "s00001.parquet")
    assert list(shard.columns) == [
        "case_id", "patient", "shard", "role", "series_uid", "study_uid", "modality", "source",
        "sop_uid", "path", "bytes", "modified_ns",
    ]  # fmt: skip
    assert set(zip(shard["role"], shard["study_uid"], shard["sop_uid"], strict=True)) == {
        ("", "1.7", "1.2.2.0"),
        ("", "1.7", "1.2.2.1"),
        ("CT", "1.1", "1.2.1.0"),
        ("CT", "1.1", "1.2.1.1"),
    }


def test_a_series_without_listed_instances_is_no_silent_loss(world):
    world.files = 0
    world.select([row("p1", "1.1", "CT", 1)])
    assert [o.reason for o in world.outcomes] == [Reason.NOT_RETRIEVED]
    assert world.cases.empty


def test_prefer_may_look_at_other_series_by_a_window(world):
    rows = [row("p1", "1.1", "CT", n, SliceThickness=float(t)) for n, t in ((1, 5), (2, 1), (3, 2))]
    order = "row_number() OVER (PARTITION BY StudyInstanceUID ORDER BY SliceThickness)"
    world.select(rows, CT={"where": "Modality = 'CT'", "prefer": order})
    assert list(world.cases["series_uid"]) == ["1.2.2"]


def test_blank_patients_of_any_white_space_are_excluded(world):
    world.select([row(" \t", "1.1", "CT", 1), row("p2", "1.2", "CT", 2)])
    assert list(world.cases["series_uid"]) == ["1.2.2"]
    reasons = [o.reason for o in world.outcomes if o.status is Status.EXCLUDED]
    assert reasons == [Reason.MISSING_PATIENT_ID]


def test_nothing_but_the_cohorts_files_is_left_behind(world):
    world.select([row("p1", "1.1", "CT", 1)])
    assert sorted(path.name for path in (world.folder / "cohort").iterdir()) == [
        "assignment.tsv",
        "cases.tsv",
        "flow.json",
        "outcomes.parquet",
        "shards",
    ]


def test_series_without_patient_count_as_no_patient(world):
    world.select([row("", "1.1", "CT", 1), row("p2", "1.2", "CT", 2)])
    assert [step["patients"] for step in world.flow][:2] == [1, 1]


def test_the_files_of_a_series_stand_in_order(world, monkeypatch):
    """Whatever the order of the catalog: the same files give the same shard."""
    writes = write_parquet

    def reversed_(path, table):
        writes(path, table.iloc[::-1] if path.name == "instances.parquet" else table)

    monkeypatch.setitem(globals(), "write_parquet", reversed_)
    world.files = 5
    world.select([row("p1", "1.1", "CT", 1)])
    shard = pd.read_parquet(world.folder / "cohort" / "shards" / "s00001.parquet")
    assert list(shard["path"]) == sorted(shard["path"])


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_secret_that_a_group_may_read_is_refused(tmp_path, mode):
    path = tmp_path / "secrets" / "identity.key"
    site_secret(path, tmp_path)
    path.chmod(mode)
    with pytest.raises(StageError, match="chmod 600"):
        site_secret(path, tmp_path)


@pytest.mark.parametrize("digits", [62, 66, 128])
def test_a_secret_of_another_length_is_refused(tmp_path, digits):
    path = tmp_path / "identity.key"
    path.write_text("ab" * (digits // 2))
    path.chmod(0o600)
    with pytest.raises(StageError, match="no secret of 32 bytes"):
        site_secret(path, tmp_path)
