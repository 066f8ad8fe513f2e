"""The synthetic cohort: what it writes is what its truth says, and the same each time."""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from pydicom.errors import InvalidDicomError
from scipy import ndimage
from skimage.draw import polygon2mask

from jipflow.phantom import anatomy, cohort, dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.phantom.vendors import VENDORS

STRAYS = ("not_dicom", "unreadable")


@pytest.fixture(scope="module")
def site(phantom_site):
    return phantom_site


@pytest.fixture(scope="module")
def truth(site):
    return json.loads((site / "truth" / "truth.json").read_text())


@pytest.fixture(scope="module")
def series(site, truth):
    """Series Instance UID to its datasets, read from the folder."""
    strays = {name for d in truth["defects"] if d["reason"] in STRAYS for name in d["files"]}
    found = defaultdict(list)
    for path in sorted((site / "dicom").rglob("*")):
        if path.is_file() and path.relative_to(site / "dicom").as_posix() not in strays:
            ds = pydicom.dcmread(path)
            found[ds.SeriesInstanceUID].append(ds)
    return dict(found)


def sound(truth):
    return [p for p in truth["patients"] if p["defect"] is None]


def stack(datasets):
    """Slices from feet to head, rescaled."""
    ordered = sorted(datasets, key=lambda ds: float(ds.ImagePositionPatient[2]))
    return ordered, np.stack(
        [ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in ordered]
    )


def rasterise(contours, grid, roi=0):
    """Masks from contours: pixel-centre rule, even-odd over the loops of a slice."""
    mask = np.zeros(grid.shape, bool)
    for contour in contours.ROIContourSequence[roi].ContourSequence:
        points = np.asarray(contour.ContourData, float).reshape(-1, 3) - grid.origin
        k = points @ grid.normal / grid.spacing[0]
        assert np.allclose(k, k.round()[0], atol=0.01)
        rows = points @ np.asarray(grid.column) / grid.spacing[1]
        columns = points @ np.asarray(grid.row) / grid.spacing[2]
        plane = mask[round(k[0])]
        plane ^= polygon2mask(plane.shape, np.column_stack([rows, columns]))
    return mask


def files(folder):
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        cohort.write_site(tmp_path / name, "south", 1, seed, defects=False, vendors=["siemens"])
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert len(a) > 70
    assert a == b
    assert not set(a.values()) & set(c.values())


def test_ct_does_not_depend_on_pet(tmp_path):
    for name, pet in (("with", True), ("without", False)):
        cohort.write_site(tmp_path / name, "south", 1, 5, pet=pet, vendors=["ge"])
    both, alone = files(tmp_path / "with"), files(tmp_path / "without")
    kept = [name for name in alone if "/CT." in name]
    assert len(kept) > 150
    assert not [name for name in alone if "/PT." in name or "/RTSTRUCT." in name]
    assert all(both[name] == alone[name] for name in kept)


def test_patients_look_alike_and_cover_the_vendors(truth):
    assert [p["patient_id"] for p in truth["patients"]] == [
        f"NORTH-{n:04d}" for n in range(1, 5 + len(cohort.SERIES_DEFECTS) + 1)
    ]
    assert {p["vendor"] for p in sound(truth)} == set(VENDORS)


def test_volumes_are_the_counted_voxels(site, truth):
    for patient in truth["patients"]:
        image = SimpleITK.ReadImage(str(site / "truth" / patient["CT"]["truth"]))
        labels = SimpleITK.GetArrayFromImage(image)
        voxel_ml = np.prod(image.GetSpacing()) / 1000
        for name, value in truth["labels"].items():
            counted = (labels == value).sum() * voxel_ml
            assert counted == pytest.approx(patient["CT"]["volumes_ml"][name], rel=1e-6)
        volumes = patient["CT"]["volumes_ml"]
        assert 600 < volumes["liver"] < 2200
        assert 60 < volumes["spleen"] < 400
        assert 100 < volumes["kidney"] < 450
        assert 2 < volumes["lesion"] < 90


def test_ct_lies_where_its_truth_lies(site, truth, series):
    for patient in sound(truth):
        ct = patient["CT"]
        ordered, hu = stack(series[ct["series_uid"]])
        label_map = SimpleITK.ReadImage(str(site / "truth" / ct["truth"]))
        labels = SimpleITK.GetArrayFromImage(label_map)
        assert hu.shape == labels.shape == tuple(ct["size_xyz"][::-1])
        first = ordered[0]
        assert label_map.GetOrigin() == pytest.approx(ct["origin_xyz_mm"], abs=1e-3)
        assert list(first.ImagePositionPatient) == pytest.approx(ct["origin_xyz_mm"], abs=1e-4)
        assert label_map.GetSpacing() == pytest.approx(ct["spacing_xyz_mm"], abs=1e-5)
        assert list(first.PixelSpacing) == pytest.approx(ct["spacing_xyz_mm"][1::-1])
        heights = [float(ds.ImagePositionPatient[2]) for ds in ordered]
        assert np.diff(heights) == pytest.approx(ct["spacing_xyz_mm"][2], abs=1e-6)

        mean = {name: hu[labels == value].mean() for name, value in truth["labels"].items()}
        assert 80 < mean["liver"] < 125
        assert 25 < mean["liver"] - mean["lesion"] < 60
        assert mean["kidney"] > mean["spleen"] + 15
        noise = hu[ndimage.binary_erosion(labels == 1, iterations=3)].std()
        assert noise == pytest.approx(VENDORS[patient["vendor"]].ct_noise, rel=0.25)
        assert hu[:, 0, 0].mean() == pytest.approx(-1000, abs=20)
        # The liver is on the patient's right, the spleen on the left; x grows to the left.
        assert np.nonzero(labels == 1)[2].mean() < np.nonzero(labels == 2)[2].mean() - 15


def test_headers_follow_the_vendors(truth, series):
    seen = {}
    for patient in sound(truth):
        ct, pt = (series[patient[role]["series_uid"]] for role in ("CT", "PT"))
        assert {ds.Manufacturer for ds in ct + pt} == {VENDORS[patient["vendor"]].manufacturer}
        assert {ds.FrameOfReferenceUID for ds in ct + pt} == {patient["frame_of_reference_uid"]}
        top = max(ct, key=lambda ds: float(ds.ImagePositionPatient[2]))
        seen[patient["vendor"]] = (
            {ds.PixelRepresentation for ds in ct},
            len({ds.RescaleSlope for ds in pt}) > 1,
            int(top.InstanceNumber) == 1,
        )
    assert seen == {
        "ge": ({1}, True, True),
        "siemens": ({0}, True, False),
        "philips": ({0}, False, True),
    }


def test_suv_from_the_header_is_the_truth(site, truth, series):
    for patient in sound(truth):
        ordered, values = stack(series[patient["PT"]["series_uid"]])
        ds = ordered[0]
        assert (ds.Units, ds.DecayCorrection) == ("BQML", "START")
        drug = ds.RadiopharmaceuticalInformationSequence[0]
        injected = pydicom.valuerep.DT(drug.RadiopharmaceuticalStartDateTime)
        started = pydicom.valuerep.DT(ds.SeriesDate + ds.SeriesTime)
        assert all(d.AcquisitionTime >= d.SeriesTime for d in ordered)
        elapsed = (started - injected).total_seconds()
        assert 3300 <= elapsed < 4600
        left = float(drug.RadionuclideTotalDose) * 2 ** (
            -elapsed / float(drug.RadionuclideHalfLife)
        )
        suv = values * float(ds.PatientWeight) * 1000 / left
        mask = SimpleITK.GetArrayFromImage(
            SimpleITK.ReadImage(str(site / "truth" / patient["PT"]["truth"]))
        ).astype(bool)
        expected = patient["PT"]["suv"]
        assert suv[mask].mean() == pytest.approx(expected["lesion_mean"], rel=1e-3)
        assert suv[mask].max() == pytest.approx(expected["lesion_max"], rel=1e-3)
        assert 0.6 * expected["lesion_true"] < suv[mask].mean() < 1.05 * expected["lesion_true"]
        assert 6 <= expected["lesion_true"] <= 12


def test_contours_reproduce_the_lesion_exactly(site, truth, series):
    for patient in sound(truth):
        (contours,) = series[patient["RTSTRUCT"]["series_uid"]]
        pt, path = patient["PT"], site / "truth" / patient["PT"]["truth"]
        mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).astype(bool)
        grid = PhantomGrid(
            tuple(pt["size_xyz"][::-1]),
            tuple(pt["spacing_xyz_mm"][::-1]),
            tuple(pt["origin_xyz_mm"]),
        )
        assert contours.StructureSetROISequence[0].ROIName == "GTV_PET"
        assert mask.sum() * grid.voxel_ml == pytest.approx(pt["volumes_ml"]["lesion"])
        assert np.array_equal(rasterise(contours, grid), mask)

        images = {ds.SOPInstanceUID: ds for ds in series[pt["series_uid"]]}
        for contour in contours.ROIContourSequence[0].ContourSequence:
            image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            assert contour.ContourData[2] == pytest.approx(
                float(image.ImagePositionPatient[2]), abs=1e-3
            )


@settings(max_examples=40, deadline=None)
@given(mask=arrays(bool, (2, 7, 6)))
def test_contours_reproduce_any_mask_on_an_oblique_grid(mask):
    grid = PhantomGrid(
        (2, 7, 6),
        (3.0, 1.5, 2.0),
        (-31.25, 12.5, 7.0),
        row=(0.8, 0.6, 0.0),
        column=(0.0, 0.0, -1.0),
    )
    images = dicom.pt_series(np.ones(grid.shape), grid)
    assert np.array_equal(rasterise(dicom.rtstruct({"GTV": mask}, grid, images), grid), mask)


def test_every_file_is_dicom_but_the_planted_ones(site, truth):
    unreadable = set()
    for path in (site / "dicom").rglob("*"):
        if path.is_file():
            try:
                if "SeriesInstanceUID" not in pydicom.dcmread(path, stop_before_pixels=True):
                    raise InvalidDicomError
            except InvalidDicomError:
                unreadable.add(path.relative_to(site / "dicom").as_posix())
    planted = {n for d in truth["defects"] if d["reason"] in STRAYS for n in d["files"]}
    assert len(planted) == 2
    assert unreadable == planted


def test_defects_are_what_they_say(site, truth, series):
    defects = {d["kind"]: d for d in truth["defects"]}
    assert {k: d["reason"] for k, d in defects.items() if d["level"] == "series"} == (
        cohort.SERIES_DEFECTS
    )
    by_id = {p["patient_id"]: p for p in truth["patients"]}
    for kind in cohort.SERIES_DEFECTS:
        assert by_id[defects[kind]["patient_id"]]["defect"] == kind

    def geometry(kind):
        datasets = series[defects[kind]["series_uid"]]
        expected = by_id[defects[kind]["patient_id"]]["CT"]["size_xyz"][2]
        return datasets, expected, {tuple(ds.ImageOrientationPatient) for ds in datasets}

    datasets, expected, orientations = geometry("missing_slices")
    assert len(datasets) == expected - 1
    assert len(orientations) == 1
    gaps = np.diff(sorted(float(ds.ImagePositionPatient[2]) for ds in datasets))
    assert np.sum(gaps > 1.5 * gaps.min()) == 1

    datasets, expected, orientations = geometry("mixed_orientation")
    assert len(datasets) == 2 * expected
    assert len(orientations) == 2

    datasets, expected, orientations = geometry("shifted_slice")
    assert len(datasets) == expected
    rows = [float(ds.ImagePositionPatient[1]) for ds in datasets]
    assert sorted(set(rows)) == [min(rows), min(rows) + 5]
    assert len(orientations) == 1

    datasets, expected, _ = geometry("truncated_pixels")
    short = [ds for ds in datasets if len(ds.PixelData) < ds.Rows * ds.Columns * 2]
    assert len(datasets) == expected
    assert len(short) == 1

    assert {ds.Units for ds in series[defects["unsupported_units"]["series_uid"]]} == {"CNTS"}
    (scout,) = series[defects["localizer"]["series_uid"]]
    assert scout.ImageType[2] == "LOCALIZER"
    assert by_id[scout.PatientID]["defect"] is None


def test_without_defects_all_is_sound(tmp_path):
    cohort.write_site(tmp_path, "east", 1, 3, defects=False, pet=False)
    found = json.loads((tmp_path / "truth" / "truth.json").read_text())
    assert found["defects"] == []
    assert len(found["patients"]) == 1
    assert sorted(p.name for p in (tmp_path / "truth").iterdir()) == [
        "EAST-0001_CT.nii.gz",
        "truth.json",
    ]


def test_organs_are_drawn_on_defective_series_too(tmp_path):
    cohort.write_site(tmp_path, "west", 1, 3, pet=False, organs=True, vendors=["siemens"])
    drawn = {}
    for path in (tmp_path / "dicom").rglob("*"):
        try:
            ds = pydicom.dcmread(path, stop_before_pixels=True)
        except (IsADirectoryError, pydicom.errors.InvalidDicomError, EOFError):
            continue
        if ds.get("Modality") == "RTSTRUCT":
            drawn[ds.PatientID] = [roi.ROIName for roi in ds.StructureSetROISequence]
    found = json.loads((tmp_path / "truth" / "truth.json").read_text())
    assert len(found["patients"]) == 5
    assert drawn == {p["patient_id"]: list(anatomy.LABELS) for p in found["patients"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"site": "a/b"}, "no valid name"),
        ({"patients": 0}, "at least one patient"),
        ({"vendors": ["acme"]}, "vendors must be among ge, siemens, philips"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        cohort.write_site(tmp_path, **({"site": "x", "patients": 1, "seed": 1} | arguments))
    assert not list(tmp_path.iterdir())


def test_a_site_is_never_overwritten(tmp_path):
    (tmp_path / "dicom").mkdir()
    with pytest.raises(FileExistsError):
        cohort.write_site(tmp_path, "x", 1, 1)


def test_factory_refuses_an_array_that_is_not_on_its_grid():
    grid = PhantomGrid.centred((3, 4, 5), (5.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="its grid"):
        dicom.ct_series(np.zeros((3, 5, 4), np.int16), grid)
    with pytest.raises(ValueError, match="BQML, CNTS or GML"):
        dicom.pt_series(np.ones(grid.shape), grid, scan=dicom.Scan(units="PROPCPS"))


def test_coronal_slices_show_the_same_voxels():
    grid = PhantomGrid.centred((3, 4, 5), (5.0, 2.0, 1.0))
    volume = np.arange(60).reshape(grid.shape)
    turned, plane = dicom.coronal(volume, grid)
    for k, j, i in ((0, 0, 0), (2, 1, 4), (1, 3, 2)):
        offset = grid.position(k, j, i) - plane.origin
        at = [
            round(float(offset @ axis) / step)
            for axis, step in zip(
                (plane.normal, plane.column, plane.row), plane.spacing, strict=True
            )
        ]
        assert np.allclose(plane.position(*at), grid.position(k, j, i))
        assert turned[tuple(at)] == volume[k, j, i]


def test_anatomy_is_the_same_on_two_grids():
    body = anatomy.make_anatomy(np.random.default_rng(4))
    volumes = []
    for step in (3.0, 4.5):
        grid = PhantomGrid.centred(
            (round(180 / step), round(390 / step), round(390 / step)), (step,) * 3
        )
        volumes.append((anatomy.labels(body.tissues(grid)) == 1).sum() * grid.voxel_ml)
    assert volumes[0] == pytest.approx(volumes[1], rel=0.02)


def test_phantom_imports_nothing_of_the_pipeline():
    for path in Path(cohort.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                inside = name.startswith("jipflow") and not name.startswith("jipflow.phantom")
                assert not inside, f"{path.name} imports {name}"
