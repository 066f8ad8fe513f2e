"""Every DICOM file is counted once; what is no DICOM is counted too."""

from __future__ import annotations

import json
import os
import shutil

import pandas as pd
import pytest

from jipflow.catalog.columns import COLUMNS
from jipflow.catalog.query import FilterError, check_expression, connect, select_series
from jipflow.catalog.scan import scan


@pytest.fixture(scope="module")
def catalog(phantom_site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalog")
    sources = [{"name": "archive", "kind": "folder", "path": str(phantom_site / "dicom")}]
    summary = scan(sources, folder, threads=2)
    return folder, summary


def test_counts_add_up(phantom_site, catalog):
    folder, summary = catalog
    files = sum(len(names) for _, _, names in os.walk(phantom_site / "dicom"))
    instances = pd.read_parquet(folder / "instances.parquet")
    series = pd.read_parquet(folder / "series.parquet")
    assert summary["files"] == files
    assert summary["dicom_files"] == files - 1
    assert len(instances) == files - 2
    assert instances["SOPInstanceUID"].is_unique
    assert instances["path"].is_unique
    assert series["SeriesInstanceUID"].is_unique
    assert series["NumberOfInstances"].sum() == len(instances)
    assert summary["series"] == len(series) == instances["SeriesInstanceUID"].nunique()
    assert summary["patients"] == 3 + 5


def test_strays_are_listed_with_their_reason(phantom_site, catalog):
    folder, _ = catalog
    truth = json.loads((phantom_site / "truth" / "truth.json").read_text())
    skipped = pd.read_parquet(folder / "skipped.parquet")
    planted = {
        (str(phantom_site / "dicom" / name), entry["reason"])
        for entry in truth["defects"]
        if entry["level"] == "file"
        for name in entry["files"]
    }
    assert set(zip(skipped["path"], skipped["kind"], strict=True)) == planted
    assert skipped["reason"].str.len().min() > 0


def test_the_same_folder_gives_the_same_bytes(phantom_site, catalog, tmp_path):
    folder, _ = catalog
    sources = [{"name": "archive", "kind": "folder", "path": str(phantom_site / "dicom")}]
    scan(sources, tmp_path, threads=1)
    for name in ("series.parquet", "instances.parquet", "skipped.parquet", "summary.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_copies_and_odd_names_are_counted_once(phantom_site, tmp_path):
    source = next((phantom_site / "dicom").rglob("*.dcm"))
    folder = tmp_path / "archive"
    folder.mkdir()
    shutil.copy(source, folder / "a b\nc.dcm")
    shutil.copy(source, folder / "z-copy.dcm")
    (folder / "empty").touch()
    with open(os.path.join(os.fsencode(folder), b"latin-\xe9.dcm"), "wb") as stream:
        stream.write(source.read_bytes())
    summary = scan(
        [{"name": "x", "kind": "folder", "path": str(folder)}], tmp_path / "out", threads=1
    )
    skipped = pd.read_parquet(tmp_path / "out" / "skipped.parquet")
    assert summary["files"] == 4
    assert summary["series"] == 1
    assert sorted(skipped["kind"]) == ["duplicate", "not_dicom", "unreadable"]
    assert len(pd.read_parquet(tmp_path / "out" / "instances.parquet")) == 1


def test_filters_select_what_they_say(catalog):
    folder, _ = catalog
    series = pd.read_parquet(folder / "series.parquet")
    with connect(series) as connection:
        thin = select_series(connection, "Modality = 'CT' AND SliceThickness <= 4.5")
        ordered = select_series(connection, "true", "NumberOfInstances DESC")
    rows = series.set_index("SeriesInstanceUID")
    expected = rows[(rows["Modality"] == "CT") & (rows["SliceThickness"] <= 4.5)]
    assert thin == sorted(expected.index)
    assert rows.loc[ordered, "NumberOfInstances"].is_monotonic_decreasing


@pytest.mark.parametrize(
    "expression",
    [
        "nonsense(Modality)",
        "true); COPY catalog TO '/tmp/x'; --",
        "(SELECT count(*) FROM read_csv('/etc/passwd')) > 0",
        "getenv('HOME') = ''",
    ],
)
def test_filters_cannot_reach_outside(expression):
    with pytest.raises(FilterError):
        check_expression(expression)


def test_the_schema_of_the_catalog_is_fixed(catalog):
    folder, _ = catalog
    assert list(pd.read_parquet(folder / "series.parquet").columns) == list(COLUMNS)
