"""Files of one SOP Instance UID: which of them are copies, and which were changed under it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pydicom

from jipflow.catalog import copies, scan
from jipflow.files import sha256_file
from jipflow.phantom import dicom
from jipflow.settings.site import Folder
from series_factory import ct_datasets, write

SOUND = 2
TABLES = ("series", "instances", "skipped")


def scanned(folder, out_dir):
    source = Folder(name="archive", kind="folder", path=str(folder))
    scan.run(sources=[source], out_dir=out_dir, threads=1)


def changed_in_place(path: Path) -> bytes:
    """An image whose last pixel is another, in as many bytes."""
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    return bytes(data)


def test_a_file_that_was_changed_in_place_at_its_size_is_no_copy(tmp_path, monkeypatch):
    folder = tmp_path / "archive"
    images = write(ct_datasets((SOUND, 4, 4)), folder)
    (folder / "anew.dcm").write_bytes(changed_in_place(images[0]))
    (folder / "copy.dcm").write_bytes(images[0].read_bytes())
    (folder / "zz.dcm").write_bytes(changed_in_place(images[0]))
    hashed = []
    monkeypatch.setattr(
        copies, "sha256_file", lambda path: hashed.append(path) or sha256_file(path)
    )

    def again():
        hashed.clear()
        scan.run(
            sources=[Folder(name="archive", kind="folder", path=str(folder))],
            out_dir=tmp_path / "out",
            threads=1,
        )
        read = {name: pd.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in TABLES}
        (series,) = read["series"].to_dict("records")
        assert series["NumberOfInstances"] == SOUND
        return {Path(path).name for path in read["instances"]["path"]}, read["skipped"]

    listed, skipped = again()
    assert {"anew.dcm", images[0].name} <= listed
    assert len(listed) == SOUND + 1
    assert len(hashed) == 4
    assert list(skipped["kind"]) == ["duplicate", "duplicate"]
    assert skipped["reason"][1].endswith("content as " + str(folder / "anew.dcm"))
    assert again()[0] == listed
    assert not hashed
    hashes = tmp_path / "out" / "hashes.parquet"
    content = hashes.read_bytes()
    for damage in (b"damaged", content[:4] + bytes(40) + content[44:]):
        hashes.write_bytes(damage)
        assert again()[0] == listed
        assert len(hashed) == 4
    (folder / "copy.dcm").write_bytes(changed_in_place(images[0]))
    listed, skipped = again()
    assert [path.name for path in hashed] == ["copy.dcm"]
    assert list(skipped["kind"]) == ["duplicate", "duplicate"]


def test_a_patient_with_the_uids_of_another_one_does_not_vanish(tmp_path):
    """As where a template of UIDs was used twice: a series of two patients is refused by name."""
    folder = tmp_path / "archive"
    for name in ("other", "own"):
        (folder / name).mkdir(parents=True)
    for number, path in enumerate(write(ct_datasets((SOUND, 4, 4)), folder)):
        dataset = pydicom.dcmread(path)
        dataset.PatientID = dataset.PatientID[::-1]
        (folder / f"other/{number}.dcm").write_bytes(dicom.to_bytes(dataset))
        dataset.SeriesInstanceUID = dicom.uid("a series of its own")
        (folder / f"own/{number}.dcm").write_bytes(dicom.to_bytes(dataset))
    scan.run(
        sources=[Folder(name="archive", kind="folder", path=str(folder))],
        out_dir=tmp_path / "out",
        threads=1,
    )
    assert len(pd.read_parquet(tmp_path / "out" / "instances.parquet")) == 3 * SOUND
    assert not len(pd.read_parquet(tmp_path / "out" / "skipped.parquet"))
    assert len(pd.read_parquet(tmp_path / "out" / "series.parquet")) == 2
