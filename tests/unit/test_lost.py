"""Files that cannot be read do not take a case with them that nobody misses."""

from __future__ import annotations

import shutil

import pytest

from jipflow.catalog import cohort, scan
from jipflow.catalog.nothing import why_no_case
from jipflow.files import read_json
from jipflow.outcomes import Status, read_outcomes
from jipflow.phantom import dicom
from jipflow.privacy.pseudonyms import pseudonym, site_secret
from jipflow.settings.protocol import Cohort
from jipflow.settings.run import load_settings
from jipflow.settings.schema import load
from jipflow.settings.site import Folder
from series_factory import ct_datasets, write

CT = {"where": "Modality = 'CT'"}


class Site:
    """A folder of series of which some files are damaged, and the cohort of it."""

    def __init__(self, folder):
        self.folder = folder
        self.archive = folder / "archive"
        self.archive.mkdir()
        self.settings = load_settings(
            {
                "site": {"id": "north", "name": "North"},
                "sources": [{"name": "a", "kind": "folder", "path": str(self.archive)}],
                "identity": {"secret_file": str(folder / "secret" / "identity.key")},
                "protocol": "sarcoma-ct",
            }
        )

    def series(self, patient, name="ct", modality="CT", study="s1"):
        datasets = ct_datasets((3, 6, 6))
        for number, dataset in enumerate(datasets):
            dataset.PatientID = patient
            dataset.StudyInstanceUID = dicom.uid(patient, study)
            dataset.SeriesInstanceUID = dicom.uid(patient, name)
            dataset.SOPInstanceUID = dicom.uid(patient, name, number)
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.Modality = modality
        return write(datasets, self.archive / patient / name)

    def select(self, by="study", where="true", roles=None):
        (source,) = (s for s in self.settings.site.sources if isinstance(s, Folder))
        catalog = self.folder / "results" / "catalog"
        scan.run(sources=[source], out_dir=catalog, threads=1)
        case = {"by": by, "roles": roles or {"CT": CT}}
        chosen = load(Cohort, {"where": where, "case": case}, "cohort")
        protocol = self.settings.protocol.model_copy(update={"cohort": chosen})
        cohort.run(
            settings=self.settings.model_copy(update={"protocol": protocol}),
            catalog_dirs=[catalog],
            out_dir=self.folder / "results" / "p" / "cohort",
            results=self.folder / "results",
        )
        outcomes = read_outcomes(self.folder / "results" / "p" / "cohort" / "outcomes.parquet")
        flow = read_json(self.folder / "results" / "p" / "cohort" / "flow.json")["steps"]
        return outcomes, {step["step"]: (step["series"], step["patients"]) for step in flow}

    def name(self, *identity):
        secret = site_secret(self.folder / "secret" / "identity.key", self.folder / "results")
        return pseudonym(secret, "case", *identity)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def cut_behind(tag):
    """Damage that leaves the header before a tag: the file ends within the element."""

    def damage(path):
        data = path.read_bytes()
        place = data.index(tag, 300)
        path.write_bytes(data[: place + 9])

    return damage


def impossible(path):
    """An element that hides what follows, before the UIDs of study and series."""
    data = path.read_bytes()
    place = data.index(b"\x18\x00\x60\x00DS")
    path.write_bytes(data[: place + 4] + b"\x06\x00\xff\x7f" + data[place + 8 :])


AFTER_UIDS = cut_behind(b"\x28\x00\x10\x00US")
BEFORE_UIDS = cut_behind(b"\x18\x00\x60\x00DS")
DAMAGES = {"behind its UIDs": AFTER_UIDS, "before its UIDs": BEFORE_UIDS, "impossible": impossible}


@pytest.mark.parametrize("by", ["study", "patient"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_series_of_which_no_file_can_be_read_is_a_row_of_the_flow(site, damage, by):
    site.series("sound")
    for path in site.series("lost"):
        damage(path)
    outcomes, flow = site.select(by)
    assert flow["found"] == (2, 2)
    assert flow["readable"] == (1, 1)
    assert flow["cases"] == (1, 1)
    (bad,) = (o for o in outcomes if o.status is not Status.OK)
    assert (bad.status, bad.reason) == (Status.EXCLUDED, "unreadable")
    assert "all 3 files of series" in bad.message
    assert "copy them again from the archive" in bad.message
    if by == "patient":
        assert bad.case_id == site.name("lost")
    elif damage is AFTER_UIDS:
        assert bad.case_id == site.name("lost", dicom.uid("lost", "s1"))
        assert dicom.uid("lost", "ct") in bad.message


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
@pytest.mark.parametrize("other", ["RTSTRUCT", "MR"])
def test_what_else_a_patient_has_hides_no_lost_series(site, damage, other):
    site.series("p1", "other", other)
    for path in site.series("p1"):
        damage(path)
    ((outcome,), flow) = site.select(by="patient", where="Modality = 'CT'")
    assert (outcome.status, outcome.reason) == (Status.EXCLUDED, "unreadable")
    assert outcome.case_id == site.name("p1")
    assert flow["found"][0] - flow["readable"][0] == 1


def test_a_cohort_of_nothing_else_says_so(site):
    for path in site.series("lost"):
        AFTER_UIDS(path)
    outcomes, flow = site.select()
    assert [o.reason for o in outcomes] == ["unreadable"]
    assert flow["readable"] == (0, 0)
    text = why_no_case(site.folder / "results" / "p")
    assert "none of the 1 series has a file that can be read" in text


def test_a_case_that_lacks_a_role_for_it_is_excluded_for_that(site):
    site.series("p1", "pet", "PT")
    for path in site.series("p1"):
        AFTER_UIDS(path)
    roles = {"CT": {**CT, "required": True}, "PT": {"where": "Modality = 'PT'"}}
    ((outcome,), flow) = site.select(roles=roles)
    assert (outcome.status, outcome.reason) == (Status.EXCLUDED, "unreadable")
    assert outcome.message.startswith("no series meets role CT")
    assert f"all 3 files of series {dicom.uid('p1', 'ct')} (CT) cannot be read" in outcome.message
    assert flow["found"] == (2, 1)


def test_of_what_is_known_to_be_no_use_no_case_is_made(site):
    site.series("sound")
    for path in site.series("lost", modality="MR"):
        AFTER_UIDS(path)
    outcomes, flow = site.select()
    assert [o.status for o in outcomes] == [Status.OK]
    assert outcomes[0].message == ""
    assert flow["found"] == (2, 2), "it was found all the same"


@pytest.mark.parametrize(
    ("where", "excluded"),
    [
        ("Rows > 5", 1),
        ("ConvolutionKernel = 'hidden'", 1),
        ("SliceThickness > 500", 0),
        ("Manufacturer = 'nobody'", 0),
    ],
)
def test_a_filter_over_what_the_damage_hides_may_be_met(site, where, excluded):
    for path in site.series("lost"):
        BEFORE_UIDS(path)
    outcomes, _ = site.select(where=where)
    assert len(outcomes) == excluded


@pytest.mark.parametrize("damage", [AFTER_UIDS, BEFORE_UIDS], ids=["known", "unknown"])
def test_a_case_of_whose_series_some_files_are_lost_says_so(site, damage):
    """Slices that are gone at an end of the stack leave a regular, shorter volume."""
    paths = site.series("p1")
    site.series("p2")
    damage(paths[-1])
    outcomes, flow = site.select()
    assert [o.status for o in outcomes] == [Status.OK, Status.OK]
    (noted,) = (o for o in outcomes if o.message)
    assert noted.case_id == site.name("p1", dicom.uid("p1", "s1"))
    assert noted.message.startswith("1 files of series")
    assert "readable" not in flow


def test_a_lost_series_beside_the_one_of_the_role_is_noted_and_no_more(site):
    site.series("p1")
    for path in site.series("p1", "second"):
        AFTER_UIDS(path)
    (outcome,), _ = site.select()
    assert outcome.status is Status.OK
    assert f"all 3 files of series {dicom.uid('p1', 'second')}" in outcome.message


def test_files_of_another_study_are_not_of_this_case(site):
    site.series("p1")
    for path in site.series("p1", "later", study="s2"):
        AFTER_UIDS(path)
    outcomes, _ = site.select()
    assert sorted((o.status.value, bool(o.message)) for o in outcomes) == [
        ("excluded", True),
        ("ok", False),
    ]
    ((outcome,), _) = site.select(by="patient")
    assert outcome.status is Status.OK
    assert "later" not in outcome.message
    assert dicom.uid("p1", "later") in outcome.message


def test_a_structure_set_that_cannot_be_read_is_noted_in_the_case(site):
    site.series("p1")
    for path in site.series("p1", "contours", "RTSTRUCT"):
        AFTER_UIDS(path)
    (outcome,), _ = site.select()
    assert outcome.status is Status.OK
    assert "(RTSTRUCT) cannot be read" in outcome.message


def test_a_series_whose_patient_is_unknown_is_a_row_all_the_same(site):
    for path in site.series(""):
        AFTER_UIDS(path)
    (outcome,), flow = site.select()
    assert (outcome.status, outcome.reason) == (Status.EXCLUDED, "unreadable")
    assert flow["found"] == (1, 0)


def test_a_sound_archive_has_no_such_row(site):
    site.series("p1")
    shutil.copy(site.series("p2")[0], site.archive / "again.dcm")
    (site.archive / "letter.txt").write_text("no image")
    outcomes, flow = site.select()
    assert "readable" not in flow
    assert {o.message for o in outcomes} == {""}
