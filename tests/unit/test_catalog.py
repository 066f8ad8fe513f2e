"""Every DICOM file is counted once; what is no DICOM is counted too."""

from __future__ import annotations

import json
import os
import shutil

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from jipflow.catalog import scan
from jipflow.catalog.query import open_catalogs
from jipflow.columns import COLUMNS
from jipflow.expressions import FilterError, check_expression, connect, select_series
from jipflow.settings.site import Folder
from series_factory import ct_datasets, write


def tables(folder):
    """The content of the files of a catalog."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def catalog(phantom_site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalog")
    sources = [Folder(name="archive", kind="folder", path=str(phantom_site / "dicom"))]
    summary = scan.run(sources=sources, out_dir=folder, threads=2)
    return folder, summary


def test_counts_add_up(phantom_site, catalog):
    folder, summary = catalog
    files = sum(len(names) for _, _, names in os.walk(phantom_site / "dicom"))
    instances = pd.read_parquet(folder / "instances.parquet")
    series = pd.read_parquet(folder / "series.parquet")
    assert summary["files"] == files
    assert summary["dicom_files"] == files - 1
    assert summary["sources"] == {"archive": {"files": files, "dicom_files": files - 1}}
    assert len(instances) == files - 2
    assert instances["SOPInstanceUID"].is_unique
    assert instances["path"].is_unique
    assert series["SeriesInstanceUID"].is_unique
    assert series["NumberOfInstances"].sum() == len(instances)
    assert summary["series"] == len(series) == instances["SeriesInstanceUID"].nunique()
    assert summary["patients"] == 5 + 5


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
    sources = [Folder(name="archive", kind="folder", path=str(phantom_site / "dicom"))]
    scan.run(sources=sources, out_dir=tmp_path, threads=1)
    assert tables(tmp_path) == tables(folder)


def test_a_second_scan_reads_nothing_and_gives_the_same_bytes(phantom_site, tmp_path):
    sources = [Folder(name="archive", kind="folder", path=str(phantom_site / "dicom"))]
    first = scan.run(sources=sources, out_dir=tmp_path, threads=2)
    before = tables(tmp_path)
    second = scan.run(sources=sources, out_dir=tmp_path, threads=1)
    assert first["read"] == first["files"]
    assert second == {**first, "read": first["unreadable"]}
    assert tables(tmp_path) == before


def test_only_what_changed_is_read_again(tmp_path):
    paths = write(ct_datasets((6, 4, 4)), tmp_path / "archive" / "b")
    sources = [Folder(name="archive", kind="folder", path=str(tmp_path / "archive"))]
    out = tmp_path / "out"
    assert scan.run(sources=sources, out_dir=out, threads=1)["read"] == 6
    write(ct_datasets((2, 4, 4), seed=1), tmp_path / "archive" / "a", lambda ds: ds[1].update(
        {"SeriesInstanceUID": "1.2.3", "SOPInstanceUID": "1.2.3.4"}))  # fmt: skip
    paths[1].unlink()
    shutil.copy(tmp_path / "archive" / "a" / "0001.dcm", tmp_path / "archive" / "c.dcm")
    os.utime(paths[3], ns=(1, 1))
    counts = scan.run(sources=sources, out_dir=out, threads=1)
    assert counts["read"] == 2 + 1 + 1, "two in a, one touched, one copied"
    fresh = tmp_path / "fresh"
    assert {**scan.run(sources=sources, out_dir=fresh, threads=1), "read": 4} == counts
    assert tables(out) == tables(fresh)
    assert str(paths[1]) not in set(pd.read_parquet(out / "instances.parquet")["path"])


def test_rows_of_another_source_or_of_other_code_are_not_trusted(tmp_path, monkeypatch):
    write(ct_datasets((2, 4, 4)), tmp_path / "archive")
    out = tmp_path / "out"

    def read(name):
        source = Folder(name=name, kind="folder", path=str(tmp_path / "archive"))
        return scan.run(sources=[source], out_dir=out, threads=1)["read"]

    assert [read("a"), read("a"), read("b"), read("b")] == [2, 0, 2, 0]
    (out / "headers.parquet").write_bytes(b"no table")
    assert read("b") == 2
    table = pq.read_table(out / "headers.parquet")
    pq.write_table(table.replace_schema_metadata({"headers": "older"}), out / "headers.parquet")
    assert read("b") == 2
    pq.write_table(table.drop_columns("Modality"), out / "headers.parquet")
    assert read("b") == 2
    assert read("b") == 0
    content = (out / "headers.parquet").read_bytes()
    (out / "headers.parquet").write_bytes(content[:4] + bytes(40) + content[44:])
    assert read("b") == 2
    assert read("b") == 0


def test_a_source_that_left_takes_its_rows_with_it(tmp_path):
    for name in ("a", "b"):
        write(ct_datasets((2, 4, 4), seed=ord(name)), tmp_path / name, lambda ds, n=name: [
            d.update({"SeriesInstanceUID": f"1.{ord(n)}", "SOPInstanceUID": f"1.{ord(n)}.{i}"})
            for i, d in enumerate(ds)])  # fmt: skip
    a, b = (Folder(name=n, kind="folder", path=str(tmp_path / n)) for n in ("a", "b"))
    assert scan.run(sources=[a, b], out_dir=tmp_path / "out", threads=1)["series"] == 2
    counts = scan.run(sources=[b], out_dir=tmp_path / "out", threads=1)
    assert (counts["series"], counts["read"]) == (1, 0)


def test_what_a_killed_scan_left_is_removed(tmp_path):
    write(ct_datasets((2, 4, 4)), tmp_path / "archive")
    left = tmp_path / "out" / ".partial-scratch" / "spill"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    source = Folder(name="a", kind="folder", path=str(tmp_path / "archive"))
    assert scan.run(sources=[source], out_dir=tmp_path / "out", threads=1)["series"] == 1
    assert not left.parent.exists()


def test_nothing_but_the_tables_is_left_behind(catalog):
    folder, _ = catalog
    assert sorted(path.name for path in folder.iterdir()) == [
        "hashes.parquet",
        "headers.parquet",
        "instances.parquet",
        "lost.parquet",
        "mended.parquet",
        "series.parquet",
        "skipped.parquet",
        "summary.json",
    ]


def test_copies_and_odd_names_are_counted_once(phantom_site, tmp_path):
    source = next((phantom_site / "dicom").rglob("*.dcm"))
    folder = tmp_path / "archive"
    folder.mkdir()
    shutil.copy(source, folder / "a b\nc.dcm")
    shutil.copy(source, folder / "z-copy.dcm")
    (folder / "empty").touch()
    with open(os.path.join(os.fsencode(folder), b"latin-\xe9.dcm"), "wb") as stream:
        stream.write(source.read_bytes())
    summary = scan.run(
        sources=[Folder(name="x", kind="folder", path=str(folder))],
        out_dir=tmp_path / "out",
        threads=1,
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


@pytest.mark.parametrize("function", ["read_csv", "read_text", "read_parquet", "glob"])
def test_filters_over_the_files_of_a_catalog_reach_no_other_file(catalog, tmp_path, function):
    folder, _ = catalog
    other = tmp_path / "other.parquet"
    shutil.copy(folder / "skipped.parquet", other)
    with open_catalogs([folder], tmp_path / "spill") as connection:
        assert select_series(connection, "Modality = 'CT'")
        query = f"(SELECT count(*) FROM {function}('{other}')) > 0"
        with pytest.raises(FilterError, match="holds a query"):
            select_series(connection, query)
        with pytest.raises(duckdb.PermissionException):
            connection.execute(f"SELECT 1 FROM catalog WHERE {query}")
        for statement in ("SET enable_external_access = true", "SET allowed_directories = ['/']",
                          "RESET allowed_paths", f"COPY catalog TO '{tmp_path}/x.parquet'",
                          f"ATTACH '{tmp_path}/x.db'", "INSTALL httpfs"):  # fmt: skip
            with pytest.raises(duckdb.Error):
                connection.execute(statement)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.parquet"]


def test_a_filter_over_files_finds_what_it_finds_over_a_table(catalog, tmp_path):
    folder, _ = catalog
    series = pd.read_parquet(folder / "series.parquet")
    where, order = "Rows > 16 AND SeriesDescription <> ''", "SliceThickness DESC NULLS LAST"
    with connect(series) as table, open_catalogs([folder], tmp_path) as files:
        assert select_series(table, where, order) == select_series(files, where, order) != []


def test_the_schema_of_the_catalog_is_fixed(catalog):
    folder, _ = catalog
    assert list(pd.read_parquet(folder / "series.parquet").columns) == list(COLUMNS)
