"""Download manifests of IDC and TCIA become a cohort's filter, or are refused by line."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
import yaml

from jipflow.catalog import manifest as manifests
from jipflow.catalog.manifest import condition, read_manifest, resolve
from jipflow.cli import main
from jipflow.expressions import check_expression, connect, select_series
from jipflow.files import write_parquet
from jipflow.reasons import StageError

ROOT = "1.3.6.1.4.1.14519.5.2.1.8162.7003"
ONE, TWO, THREE = (f"{ROOT}.{number}" for number in (1, 2, 3))
FOLDERS = ("6079cc3b-4b0f-41ec-bdbb-c6e754e88229", "a1e77e5c-299f-49ef-a659-f4484e0cedd2")
ABOUT = "# To download the files in this manifest, first install s5cmd\n"
TCIA = (
    "downloadServerUrl=https://public.cancerimagingarchive.net/nbia-download/servlet/DownloadServlet"
    "\nincludeAnnotation=true\nnoOfrRetry=4\ndatabasketId=manifest-1542731172463.tcia\n"
    "manifestVersion=3.0\nListOfSeriesToDownload=\n"
)


def written(tmp_path, text, name="manifest.txt"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "series", "folders"),
    [
        (
            f"{ABOUT}cp s3://idc-open-data/{FOLDERS[0]}/* .\n"
            f"cp 's3://public-datasets-idc/{FOLDERS[1].upper()}/*' ./images\n",
            set(),
            set(FOLDERS),
        ),
        # What idc-index writes for its layout of folders, and files one by one.
        (
            f'sync s3://idc-open-data/{FOLDERS[0]}/* "/data/c/P 1/{ROOT}.9/CT_{ONE}"\n'
            f"s5cmd cp --concurrency 5 s3://idc-open-data/{FOLDERS[1]}/a.dcm ./b/\n",
            {ONE},
            {FOLDERS[1]},
        ),
        (f"cp s3://bucket/{ONE}/* .\ncp s3://bucket/{ROOT}.9/{TWO}/* .\n", {ONE, TWO}, set()),
        (f"cp s3://bucket/{ONE}/{ROOT}.9 .\ncp s3://bucket/{TWO} .\n", {ONE, TWO}, set()),
        (f"sync s3://bucket/{ROOT}.9/{ONE} a/\nsync s3://bucket/{TWO}/ b/\n", {ONE, TWO}, set()),
        (f"{TCIA}{ONE}\r\n{TWO}\r\n\r\n{ONE}\r\n", {ONE, TWO}, set()),
        (f"\ufeffmanifestVersion=3.0\nListOfSeriesToDownload={ONE}\n", {ONE}, set()),
        (f"PatientID,SeriesInstanceUID\nP1,{ONE}\nP2,{TWO}\n", {ONE, TWO}, set()),
        # NBIA's metadata.csv, and a cohort of IDC's portal.
        (f'Series UID,Collection,Notes\n{ONE},C,"a, b\nc"\n', {ONE}, set()),
        (
            f"Manifest for cohort\nUser: x\n\nPatientID\tseries_uuid\nP\t{FOLDERS[0]}\n",
            set(),
            {FOLDERS[0]},
        ),
        (f"crdc_series_uuid;SeriesInstanceUID\n{FOLDERS[0]};{ONE}\n", {ONE}, set()),
    ],
)  # fmt: skip
def test_each_kind_is_read_by_what_it_holds(tmp_path, text, series, folders):
    found = read_manifest(written(tmp_path, text))
    assert (found.series, found.folders) == (series, folders)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"cp s3://b/{ONE}/* .\nrm -rf /\n", "line 2: is no command `cp s3://BUCKET/SERIES/*"),
        (f"cp s3://b/{ONE}/* .\ncp s3://b/everything/* .\n", "line 2: names neither a SeriesInst"),
        (f"cp s3://b/{ONE}/* '.\n", "line 1: has a quotation mark that is not closed"),
        (f"cp s3://b/{ONE}/* s3://c/\n", "line 1: is no command"),
        (f"{TCIA}{ONE}\n1.2.x\n", "line 8: is no SeriesInstanceUID"),
        (f"{TCIA}{ONE}|1.2|x\n", "line 7: is no SeriesInstanceUID"),
        (f"{TCIA}1.02\n", "line 7: is no SeriesInstanceUID"),
        (f"{TCIA}1.{'2' * 64}\n", "line 7: is no SeriesInstanceUID"),
        (f"manifestVersion=3.0\n{ONE}\n", "line 2: is no setting, and ListOfSeriesToDownload="),
        ("manifestVersion=3.0\n", "has no line ListOfSeriesToDownload="),
        (
            f"SeriesInstanceUID,a\n{ONE},1\n{TWO}\n",
            "line 3: has no SeriesInstanceUID in its column",
        ),
        (f"SeriesInstanceUID,a\n{ONE},1\nP1,2\n", "line 3: has no SeriesInstanceUID in its column"),
        ("PatientID,Modality\nP1,CT\n", "is no manifest: it has no command of s5cmd, no List"),
        ("SeriesInstanceUID\n", "names no series"),
        ("", "is no manifest"),
        (f"{TCIA}{'1' * 10_001}\n", "line 7: has more than 10,000 characters"),
    ],
)
def test_a_malformed_line_is_refused_by_its_number(tmp_path, text, message):
    with pytest.raises(StageError, match=re.escape(message)):
        read_manifest(written(tmp_path, text))


def test_bytes_that_are_no_text_and_a_manifest_that_is_too_large_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.tcia"
    path.write_bytes(TCIA.encode() + b"\xff\xfe\n")
    with pytest.raises(StageError, match="line 7: is not UTF-8"):
        read_manifest(path)
    monkeypatch.setattr(manifests, "MOST_BYTES", 100)
    with pytest.raises(StageError, match="has more than 100 bytes; split it"):
        read_manifest(written(tmp_path, TCIA + ONE))


def catalog(tmp_path, paths):
    """A catalog of series by the path of a file of each."""
    folder = tmp_path / "catalog"
    rows = [{"SeriesInstanceUID": uid, "path": path} for uid, path in paths.items()]
    write_parquet(folder / "instances.parquet", pa.Table.from_pylist(rows))
    write_parquet(folder / "series.parquet", pa.Table.from_pylist(rows).select([0]))
    return folder


def test_a_folder_s_series_is_known_from_the_index_or_from_the_paths_of_a_catalog(tmp_path):
    text = "".join(f"cp s3://idc-open-data/{folder}/* .\n" for folder in FOLDERS)
    path = written(tmp_path, text)
    assert resolve(read_manifest(path), None, None) == set(FOLDERS)
    # s5cmd copies into one folder, idc-index into one called by Modality and UID.
    flat = {ONE: "/data/4.dcm", TWO: f"/data/c/P/{ROOT}.9/CT_{TWO}/4.dcm"}
    assert resolve(read_manifest(path), None, catalog(tmp_path, flat)) == set(FOLDERS)
    kept = {ONE: f"/data/{FOLDERS[0]}/4.dcm", TWO: "/data/5.dcm"}
    found = read_manifest(path)
    assert resolve(found, None, catalog(tmp_path, kept)) == {FOLDERS[1]}
    assert found.series == {ONE}
    # A header may have anything; this would have made the filter take all series.
    hostile = {f"{ONE}') OR TRUE OR SeriesInstanceUID IN ('1": f"/data/{FOLDERS[0]}/4.dcm"}
    found = read_manifest(path)
    assert resolve(found, None, catalog(tmp_path, hostile)) == set(FOLDERS)
    assert found.series == set()
    rows = [
        {"crdc_series_uuid": folder, "SeriesInstanceUID": uid, "Modality": "CT"}
        for folder, uid in zip(FOLDERS, (ONE, TWO), strict=True)
    ]
    write_parquet(tmp_path / "idc_index.parquet", pa.Table.from_pylist(rows))
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    written(tmp_path, "\n".join(lines) + "\n", "idc_index.csv")
    for name in ("idc_index.parquet", "idc_index.csv"):
        found = read_manifest(path)
        assert resolve(found, tmp_path / name, None) == set()
        assert found.series == {ONE, TWO}
    for name in ("catalog/series.parquet", "manifest.txt"):
        with pytest.raises(StageError, match="has no columns crdc_series_uuid and SeriesInst"):
            resolve(read_manifest(path), tmp_path / name, None)


def test_the_filter_takes_these_series_and_no_others(tmp_path, capsys):
    path = written(tmp_path, f"{TCIA}{ONE}\n{THREE}\n")
    assert main(["manifest", str(path)]) == 0
    where = yaml.safe_load(capsys.readouterr().out)["cohort"]["where"]
    check_expression(where)
    with connect() as database:
        assert select_series(database, where) == []
    assert re.findall(r"'([^']*)'", where) == [ONE, THREE]
    out = tmp_path / "where.yaml"
    assert main(["manifest", str(path), "--out", str(out)]) == 0
    assert yaml.safe_load(out.read_text())["cohort"]["where"] == where


def test_what_is_missing_in_a_catalog_and_what_is_there_besides_is_printed(tmp_path, capsys):
    path = written(tmp_path, f"{TCIA}{ONE}\n{THREE}\n")
    folder = catalog(tmp_path, {ONE: "/data/4.dcm", TWO: "/data/5.dcm"})
    assert main(["manifest", str(path), "--catalog", str(folder)]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: 2 series",
        f"{folder}: 1 of them are there",
        "missing there: 1",
        f"  {THREE}",
        "there, and not in the manifest: 1",
    ]


def test_a_filter_of_a_part_of_a_manifest_is_never_made(tmp_path, capsys):
    path = written(tmp_path, f"cp s3://b/{ONE}/* .\ncp s3://b/{FOLDERS[0]}/* .\n")
    assert main(["manifest", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "names 1 folder of IDC's buckets" in captured.err
    assert "--index" in captured.err


def test_more_series_than_an_expression_has_room_for_are_refused():
    most = [f"{ROOT}.{number}" for number in range(10_000_000, 10_030_000)]
    with pytest.raises(StageError, match="30,000 series make an expression of"):
        condition(most)
    check_expression(condition(most[:15_000]))
