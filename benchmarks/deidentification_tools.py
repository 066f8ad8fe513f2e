"""The programs that are compared: each de-identifies files of a folder into another."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pydicom

from deidentification_corpus import ULTRASOUND

Written = dict[Path, Path | None]
"""By path of a file that of the one written for it; None where none was."""
Tool = Callable[[Sequence[Path], Path], Written]

KEY = bytes(range(32))


def jipflow(files: Sequence[Path], folder: Path) -> Written:
    """De-identify with jipflow, as `jipflow export` does file by file."""
    from jipflow.privacy.deidentify import deidentify
    from jipflow.privacy.hide import hide
    from jipflow.privacy.identifiers import identifiers_of
    from jipflow.privacy.pixels import Hide, Refusal, decide_pixels
    from jipflow.settings.export import Export

    settings = Export.model_validate({"pixel_regions": [ULTRASOUND]})
    datasets = {path: pydicom.dcmread(path) for path in files}
    written: Written = {}
    for path, dataset in datasets.items():
        found = decide_pixels(dataset, settings)
        if isinstance(found, Refusal):
            written[path] = None
            continue
        if isinstance(found, Hide):
            hide(path, dataset, found.regions)
        same = [d for d in datasets.values() if d.PatientID == dataset.PatientID]
        made = deidentify(dataset, KEY, known=identifiers_of(same))
        target = folder / f"{made.SOPInstanceUID}.dcm"
        made.save_as(target, enforce_file_format=True)
        written[path] = target
    return written


def dicom_anonymizer(files: Sequence[Path], folder: Path) -> Written:
    """De-identify with dicom-anonymizer by its newest table, private elements removed."""
    from dicomanonymizer.simpledicomanonymizer import anonymize_dicom_file, initialize_actions

    def newest() -> dict:
        return initialize_actions("dicomfields_2026c")

    def one(path: Path, target: Path) -> None:
        anonymize_dicom_file(str(path), str(target), None, True, newest)

    return _each(files, folder, one)


RECIPE = """FORMAT dicom

%filter graylist

LABEL {manufacturer} {model}
  contains Manufacturer {manufacturer}
  + contains ManufacturerModelName {model}
  + equals Modality US
  coordinates 0,0,128,18
"""


def deid(files: Sequence[Path], folder: Path) -> Written:
    """De-identify with deid by its own recipe and the place of the ultrasound's text."""
    import deid
    from deid.config import DeidRecipe
    from deid.dicom import DicomCleaner, replace_identifiers

    recipe = folder / "deid.dicom"
    recipe.write_text(RECIPE.format(**ULTRASOUND), encoding="utf-8")
    headers = DeidRecipe(str(Path(deid.__file__).parent / "data" / "deid.dicom"))

    def one(path: Path, target: Path) -> None:
        source = target
        shutil.copyfile(path, target)
        cleaner = DicomCleaner(output_folder=str(folder), deid=str(recipe))
        if "PixelData" in pydicom.dcmread(path) and cleaner.detect(str(path))["flagged"]:
            cleaner.clean()
            source = Path(cleaner.save_dicom(image_type="cleaned"))
        made = replace_identifiers(str(source), deid=headers, remove_private=True, save=False)[0]
        made.save_as(target)
        if source != target:
            source.unlink(missing_ok=True)

    return _each(files, folder, one)


def nothing(files: Sequence[Path], folder: Path) -> Written:
    """Copy files as they are, which shows that what is to go is found where it stands."""

    def one(path: Path, target: Path) -> None:
        shutil.copyfile(path, target)

    return _each(files, folder, one)


def _each(files: Sequence[Path], folder: Path, one: Callable[[Path, Path], None]) -> Written:
    """De-identify file by file under the files' own names; None where the program fails."""
    written: Written = {}
    for path in files:
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                one(path, target)
            written[path] = target
        except Exception as error:
            logging.getLogger(__name__).warning("%s: %s", path.name, error)
            target.unlink(missing_ok=True)
            written[path] = None
    return written


TOOLS: dict[str, Tool] = {
    "jipflow": jipflow,
    "dicom-anonymizer": dicom_anonymizer,
    "deid": deid,
    "files as they are": nothing,
}
