"""A CT series and DICOM-SEGs of it, made by highdicom, that tests then damage."""

from __future__ import annotations

import copy

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.seg import SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

import typed
from jipflow.images.series import read_series_volume
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.reasons import CaseFault
from jipflow.segment.engines.imported.engine import import_regions, target_of
from series_factory import series_of, write

# A frame has 35 × 33 bits, so that most frames do not start at a byte.
GRID = PhantomGrid((6, 35, 33), (3.0, 2.0, 2.0), (-10.0, -12.0, 5.0))
ENCODERS = {
    RLELossless: "pydicom",
    JPEGLSLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",
}


def box(*bounds):
    mask = np.zeros(GRID.shape, bool)
    mask[tuple(slice(*b) for b in bounds)] = True
    return mask


TUMOUR = box((1, 4), (3, 8), (4, 7))
NODE = box((4, 6), (9, 11), (1, 4))
SLAB = box((2, 3), (0, 35), (0, 33))
GAPPED = box((0, 1), (2, 4), (2, 4)) | box((5, 6), (2, 4), (2, 4))


def spec(**matches):
    segments = [
        {"name": name, "match": match, "term": "lesion", "required": True}
        for name, match in matches.items()
    ]
    return typed.segmentation(
        {"id": "organs", "engine": "imported", "from": "SEG", "role": "CT", "segments": segments}
    )


def on_grid(region, grid):
    """The voxels of a region on the whole grid."""
    mask = np.zeros(grid.shape, bool)
    box = (slice(c, c + n) for c, n in zip(region.corner, region.mask.shape, strict=True))
    mask[tuple(box)] = region.mask
    return mask


def description(number, label):
    return SegmentDescription(
        number, label, codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm, "MANUAL"
    )


class Archive:
    """A CT series and DICOM-SEGs of it, in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.images = dicom.ct_series(np.zeros(GRID.shape, np.int16), GRID)
        self.series = series_of(write(self.images, folder / "ct"))
        self.grid = read_series_volume(self.series).grid
        self.target = target_of("case1", self.series, self.grid)
        self.slices = sorted(self.images, key=lambda d: float(d.ImagePositionPatient[2]))

    def seg(self, pixels, kind="BINARY", labels=("GTV", "Node", "Slab"), **options):
        """A DICOM-SEG by highdicom; pixels as it takes them, slices from the feet upwards."""
        numbers = options.pop("numbers", range(1, len(labels) + 1))
        used = pixels.shape[3] if pixels.ndim == 4 else len(labels)
        return highdicom.seg.Segmentation(
            source_images=self.slices,
            pixel_array=pixels,
            segmentation_type=kind,
            segment_descriptions=[
                description(n, label) for n, label in zip(numbers, labels[:used], strict=False)
            ],
            series_instance_uid=dicom.uid("seg series"),
            series_number=5,
            sop_instance_uid=dicom.uid("seg"),
            instance_number=1,
            manufacturer="a maker",
            manufacturer_model_name="a model",
            software_versions="1.0",
            device_serial_number="1",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            **options,
        )

    def write(self, dataset, change=lambda dataset: None, syntax=None):
        plain = Dataset(dataset)
        plain.file_meta = copy.deepcopy(dataset.file_meta)
        if syntax in ENCODERS:
            plain.compress(syntax, encoding_plugin=ENCODERS[syntax], generate_instance_uid=False)
        change(plain)
        path = self.folder / "seg.dcm"
        pydicom.dcmwrite(path, plain, enforce_file_format=True)
        return path

    def regions(self, path, target=None, **matches):
        notes = []
        wanted = spec(**(matches or {"gtv": "GTV"}))
        target = target or self.target
        regions = list(import_regions([path], wanted, target, notes))
        return {region.name: on_grid(region, target.grid) for region in regions}, " ".join(notes)

    def refusal(self, path, target=None, **matches):
        with pytest.raises(CaseFault) as caught:
            self.regions(path, target, **matches)
        return caught.value.reason, caught.value.message


def stacked(*masks):
    return np.stack(masks, axis=-1).astype(np.uint8)


def labelled(*masks):
    labels = np.zeros(GRID.shape, np.uint8)
    for number, mask in enumerate(masks, start=1):
        labels[mask] = number
    return labels
