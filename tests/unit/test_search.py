"""What names a patient is found in whatever a file is packed, encoded or escaped."""

from __future__ import annotations

import base64
import bz2
import gzip
import html
import io
import json
import lzma
import os
import sqlite3
import tarfile
import zipfile
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image, PngImagePlugin
from pydicom.dataset import FileDataset, FileMetaDataset

from jipflow.exchange.keys import new_key
from jipflow.exchange.sealing import seal
from jipflow.privacy import search as module
from jipflow.privacy.search import search
from jipflow.privacy.spellings import name_parts

NAMES = {
    "latin": "Müllerova",
    "cyrillic": "Люкceмбypг",
    "chinese": "山田太郎",
    "quote": "O'Donoghue",
    "short": "Q7",
    "short diacritic": "Äß",
    "short chinese": "李",
    "number": "4711082",
}


def found(path, **tokens):
    return {hit.token for hit in search([path], tokens or NAMES).hits}


def zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", content)
    return buffer.getvalue()


def tarred(content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("a.gz")
        member.size = len(packed := gzip.compress(content))
        archive.addfile(member, io.BytesIO(packed))
    return buffer.getvalue()


def png(content):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Comment", content.decode(), zip=True)
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, "png", pnginfo=info)
    return buffer.getvalue()


def parquet(content):
    rows = [f"row {number}" for number in range(999)] + [content.decode()]
    column = pa.array([[{"message": row}] for row in rows])
    buffer = io.BytesIO()
    pq.write_table(pa.table({"nested": column}), buffer, compression="zstd", write_statistics=False)
    return buffer.getvalue()


def parquet_metadata(content):
    schema = pa.schema([pa.field("x", pa.int8(), metadata={"path": content})])
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": [1]}, schema=schema), buffer)
    return buffer.getvalue()


def database(content):
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (a TEXT)")
    connection.execute("INSERT INTO t VALUES (?)", [content.decode()])
    connection.commit()
    return connection.serialize()


def page(content):
    data = base64.b64encode(png(content)).decode()
    return f'<img src="data:image/png;base64,{data}">'.encode()


def deflated_dicom(content):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SpecificCharacterSet = "GB18030"
    dataset.ImageComments = content.decode()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


CONTAINERS = {
    "text": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstandard": lambda content: bytes(pa.compress(content, "zstd", asbytes=True)),
    "zip": zipped,
    "tar": tarred,
    "png": png,
    "parquet": parquet,
    "parquet metadata": parquet_metadata,
    "sqlite": database,
    "page": page,
    "dicom": deflated_dicom,
    "zip in gzip in zip": lambda content: zipped(gzip.compress(zipped(content))),
    "nrrd": lambda content: b"NRRD0005\nencoding: gzip\n\n" + gzip.compress(content),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_is_opened(tmp_path, kind):
    path = tmp_path / "x"
    for name, token in NAMES.items():
        path.write_bytes(CONTAINERS[kind](f"series of {token}, 7 files".encode()))
        assert found(path) == {name}
    path.write_bytes(CONTAINERS[kind](b"series of Nobody, Q71 files"))
    result = search([path], NAMES)
    assert (result.hits, result.closed, result.files) == ([], {}, 1)
    assert (result.size, result.unpacked > 0) == (path.stat().st_size, kind != "text")


def test_a_short_name_in_a_header(tmp_path):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "Li^Äß"
    dataset.OtherPatientIDs = ["X1", "Q7"]
    dataset.save_as(tmp_path / "x")
    assert found(tmp_path / "x") == {"short", "short diacritic"}


def test_images_that_the_workflow_writes(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((2, 9, 9), np.int16))
    image.SetMetaData("patient", "Müllerova Q7")
    image.SetMetaData("aux_file", "Müllerova Q7")
    for name in ("x.nrrd", "x.nii.gz"):
        sitk.WriteImage(image, str(tmp_path / name), True)
        assert found(tmp_path / name) >= {"latin", "short"}, name


@pytest.mark.parametrize("name", ["latin", "cyrillic", "chinese", "quote", "short diacritic"])
@pytest.mark.parametrize(
    "write",
    [
        lambda token: json.dumps(token).encode(),
        lambda token: repr(token.encode()).encode(),
        lambda token: html.escape(token).encode(),
        lambda token: html.escape(token).encode("ascii", "xmlcharrefreplace"),
        lambda token: quote(token).encode(),
        lambda token: f"x {token.upper()} ".encode(),
        lambda token: f"x {token.lower()} ".encode(),
    ],
)
def test_every_escape_is_known(tmp_path, name, write):
    path = tmp_path / "x"
    path.write_bytes(b"a " + write(NAMES[name]) + b" b")
    assert found(path) == {name}


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("latin", "latin-1"),
        ("latin", "utf-16-le"),
        ("quote", "utf-16-be"),
        ("chinese", "iso2022_jp"),
        ("chinese", "gb18030"),
    ],
)
def test_other_encodings_in_binary_data(tmp_path, name, encoding):
    path = tmp_path / "x"
    path.write_bytes(b"\0\xff" + NAMES[name].encode(encoding) + b"\0")
    assert found(path) == {name}


@pytest.mark.parametrize("before", ["", "a", "ab"])
def test_base64_wherever_it_begins(tmp_path, before):
    path = tmp_path / "x"
    path.write_bytes(base64.b64encode(f"{before}Müllerova/1.dcm".encode()))
    assert found(path) == {"latin"}


def test_letters_without_their_marks_and_days_in_other_forms(tmp_path):
    path = tmp_path / "x"
    path.write_text("/archive/mullerova born 04.12.1953")
    assert found(path, name="Müllerová", birth="19531204") == {"name", "birth"}
    pd.DataFrame({"day": [pd.Timestamp(1953, 12, 4)], "id": [4711082.0]}).to_parquet(path)
    assert found(path, birth="19531204", id="4711082") == {"birth", "id"}


def test_a_number_is_not_found_in_a_longer_one(tmp_path):
    path = tmp_path / "x"
    path.write_text("0.347110829 34711082 47110829")
    assert found(path) == set()
    path.write_text("1.2.4711082.7")
    assert found(path) == {"number"}


def test_names_of_files_folders_and_links(tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
    (tmp_path / "latin" / "1_MÜLLEROVA.log").touch()
    (tmp_path / "short" / "Q7_CT.png").touch()
    (tmp_path / "number" / "4711082").mkdir()
    (tmp_path / "quote" / "link").symlink_to("/archive/O'Donoghue/1.dcm")
    hits = search([tmp_path], NAMES).hits
    assert {hit.token for hit in hits} == {"latin", "short", "number", "quote"}
    assert {hit.place for hit in hits} == {"name"}


def test_a_record_of_snakemake_whose_name_is_cut(tmp_path):
    name = base64.urlsafe_b64encode(b"/results/O'Donoghue/1.png").decode()
    for cut in range(5, len(name) - 5, 3):
        folder = tmp_path / str(cut) / ".snakemake" / "metadata" / f"@{name[:cut]}"
        folder.mkdir(parents=True)
        (folder / name[cut:]).touch()
        assert found(tmp_path / str(cut)) == {"quote"}, cut


def test_a_token_on_the_border_of_two_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 2048)
    path = tmp_path / "x"
    for start in range(2020, 2060, 3):
        path.write_text("." * start + " Q7 " + "." * 3000)
        assert found(path) == {"short"}, start
        path.write_text("." * start + "Müllerova" + "." * 3000)
        assert found(path) == {"latin"}, start
        path.write_text("x" * start + "xQ7x" + "x" * 3000 + "1" * start + "4711082" + "1" * 3000)
        assert found(path) == set(), start


def test_what_cannot_be_opened_is_named_and_not_clean(tmp_path):
    whole = gzip.compress(os.urandom(9000))
    (tmp_path / "cut.gz").write_bytes(whole[:5000])
    (tmp_path / "cut.parquet").write_bytes(parquet(b"x")[:-30])
    public = new_key(tmp_path / "keys" / "k")
    (tmp_path / "sealed.age").write_bytes(seal(b"x", public))
    nested = b"x"
    for _ in range(10):
        nested = zipped(nested)
    (tmp_path / "deep.zip").write_bytes(nested)
    closed = search([tmp_path], NAMES).closed
    assert {path.name for path, _ in closed} == {"cut.gz", "cut.parquet", "sealed.age", "deep.zip"}


def test_a_file_that_is_not_there_or_cannot_be_read_ends_the_search(tmp_path):
    with pytest.raises(FileNotFoundError):
        search([tmp_path / "gone"], NAMES)
    with pytest.raises(ValueError, match="blank"):
        search([tmp_path], {"id": " "})


def test_words_of_a_name():
    words = ["De", "Vries", "Jan-Piet", "山田", "太郎"]
    assert name_parts("De Vries^Jan-Piet^A=山田^太郎") == words


def test_a_word_is_found_as_one_of_its_own_however_long_and_in_text_alone(tmp_path):
    contents = {
        "note.txt": b"of pat-000012, twice",
        "longer.txt": b"of PAT-0000123",
        "bytes.bin": b"\0 PAT-000012 \0",
        "packed.gz": gzip.compress(b"(PAT-000012)"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = search([tmp_path], {}, {"word 1": "PAT-000012"}).hits
    assert [(hit.path.name, hit.token) for hit in found] == [
        ("note.txt", "word 1"),
        ("packed.gz", "word 1"),
    ]
