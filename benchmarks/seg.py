"""117 segments on a 512 × 512 × 300 CT as DICOM-SEG: jipflow beside dcmqi's itkimage2segimage."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import highdicom
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from jipflow.cases import Series
from jipflow.images.masks import Segment, Segmentation, write_segmentation
from jipflow.images.series import read_series_volume
from jipflow.images.volume import Grid, read_volume
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from report import Cell, Cost, measure, write_result

SEGMENTS = 117
SHAPE = (300, 512, 512)
SPACING = (1.5, 0.8, 0.8)
ROUNDS = 3
TOOLS = Path(sys.executable).parent

OURS = """
import sys, time
from pathlib import Path
import pydicom
from jipflow.cases import Series
from jipflow.objects.seg_writer import build_seg
from jipflow.objects.terms import read_terms
from jipflow.images.masks import read_segmentation
from jipflow.images.series import read_planes
masks, images, out, encoding, syntax, times = map(str, sys.argv[1:])
for _ in range(int(times)):
    start = time.process_time()
    dataset = build_seg(
        read_segmentation(Path(masks)),
        read_planes(Series("1", "CT", tuple(sorted(Path(images).iterdir())))),
        read_terms(), encoding=encoding, description="organs", series_number=9001,
        identity=("benchmark",), notes=[],
    )
    if syntax == "deflated":
        if encoding == "labelmap":
            dataset.decompress(generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    print(time.process_time() - start)
"""


def anatomy(seed: int = 7) -> NDArray[np.uint8]:
    """A label map of smooth blobs, as many and as large as the organs of a trunk."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    for number in range(SEGMENTS, 0, -1):
        half = np.minimum(np.exp(rng.normal((3.33, 3.1, 3.1), 0.45)), (150, 110, 110))
        centre = rng.uniform((0.12, 0.25, 0.2), (0.88, 0.75, 0.8)) * SHAPE
        low = np.maximum(np.floor(centre - 1.3 * half), 0).astype(int)
        high = np.minimum(np.ceil(centre + 1.3 * half) + 1, SHAPE).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        rough = rng.normal(size=np.maximum((high - low) // 12, 2) + 1)
        rough = ndimage.zoom(rough, (high - low) / np.array(rough.shape), order=1)
        depth = sum(
            ((axis - c) / h) ** 2 for axis, c, h in zip(np.ogrid[box], centre, half, strict=True)
        )
        labels[box][depth + 0.25 * rough < 1] = number
    return labels


def write_images(folder: Path) -> Grid:
    """Write the CT and return its grid."""
    hu = np.zeros(SHAPE, np.int16)
    paths = dicom.write_series(dicom.ct_series(hu, PhantomGrid.centred(SHAPE, SPACING)), folder)
    return read_series_volume(Series("1", "CT", tuple(sorted(paths)))).grid


def write_masks(folder: Path, layers: list[NDArray[np.uint8]], grid: Grid) -> None:
    """Write label maps, whose labels follow each other, for both programs."""
    segments = []
    for index, layer in enumerate(layers):
        for label in np.unique(layer[layer > 0]).tolist():
            name = f"segment {len(segments) + 1}"
            segments.append(Segment(name, index, label, "liver", "AUTOMATIC", "phantom", "1"))
    write_segmentation(folder, Segmentation(tuple(layers), tuple(segments), grid))
    described: list[list[dict[str, object]]] = [[] for _ in layers]
    for segment in segments:
        described[segment.layer].append(
            {
                "labelID": segment.label,
                "SegmentLabel": segment.name,
                "SegmentDescription": segment.name,
                "SegmentAlgorithmType": segment.method,
                "SegmentAlgorithmName": segment.producer,
                "SegmentedPropertyCategoryCodeSequence": code("91723000", "Anatomical Structure"),
                "SegmentedPropertyTypeCodeSequence": code("10200004", "Liver"),
                "recommendedDisplayRGBValue": [221, 130, 101],
            }
        )
    metadata = {
        "ContentCreatorName": "jipflow",
        "ContentLabel": "SEGMENTATION",
        "ContentDescription": "organs",
        "SeriesDescription": "organs",
        "SeriesNumber": "9001",
        "InstanceNumber": "1",
        "segmentAttributes": described,
    }
    (folder / "dcmqi.json").write_text(json.dumps(metadata))


def code(value: str, meaning: str) -> dict[str, str]:
    return {"CodeValue": value, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning}


def ours(masks: Path, images: Path, out: Path, encoding: str, syntax: str, times: int) -> Cost:
    words = [str(masks), str(images), str(out), encoding, syntax, str(times)]
    return measure([sys.executable, "-c", OURS, *words])


def by_dcmqi(masks: Path, images: Path, out: Path, encoding: str, syntax: str) -> Cost:
    layers = ",".join(str(path) for path in sorted(masks.glob("*.nrrd")))
    return measure(
        [
            *(str(TOOLS / "itkimage2segimage"), "--inputImageList", layers),
            *("--inputDICOMDirectory", str(images), "--outputDICOM", str(out)),
            *("--inputMetadata", str(masks / "dcmqi.json"), "--segmentationType", encoding),
            *("--compress", "deflate" if syntax == "deflated" else "none"),
        ]
    )


def read_by_dcmqi(path: Path, folder: Path, grid: Grid) -> list[NDArray[np.generic]]:
    """Label maps that segimage2itkimage makes of a file, on the grid of the CT."""
    folder.mkdir()
    measure(
        [
            *(str(TOOLS / "segimage2itkimage"), "--mergeSegments", "--inputDICOM", str(path)),
            *("--outputDirectory", str(folder), "--prefix", "x"),
        ]
    )
    layers = []
    for file in sorted(folder.glob("*.nrrd")):
        volume = read_volume(file)
        start = np.linalg.solve(grid.affine, volume.grid.affine[:, 3])[0]
        assert abs(start - round(start)) < 1e-3
        layer = np.zeros(grid.shape, np.uint16)
        layer[round(start) : round(start) + len(volume.array)] = volume.array
        layers.append(layer)
    return layers


def read_by_highdicom(path: Path, grid: Grid) -> NDArray[np.generic]:
    """The label map that highdicom reads from a file without overlaps."""
    seg = highdicom.seg.segread(path)
    geometry = highdicom.VolumeGeometry(
        grid.affine,
        grid.shape,
        coordinate_system="PATIENT",
        frame_of_reference_uid=seg.FrameOfReferenceUID,
    )
    return seg.get_volume(combine_segments=True, rtol=1e-3).match_geometry(geometry).array


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = folder / "ct"
        grid = write_images(images)
        labels = anatomy()
        body = ndimage.binary_dilation(labels[::4, ::4, ::4] > 0, iterations=3)
        body = np.kron(body, np.ones((4, 4, 4), bool))[tuple(slice(n) for n in SHAPE)]
        write_masks(folder / "apart", [labels], grid)
        write_masks(folder / "over", [labels, body.astype(np.uint8)], grid)
        frames = sum(len(np.unique(plane)) - 1 for plane in labels)
        pairs = [
            ("labelmap", "apart", "native"),
            ("labelmap", "apart", "deflated"),
            ("binary", "apart", "native"),
            ("binary", "apart", "deflated"),
            ("binary", "over", "native"),
        ]
        rows: list[list[Cell]] = []
        for encoding, masks, syntax in pairs:
            paths = folder / "ours.dcm", folder / "dcmqi.dcm"
            whole, peer = [], []
            for _ in range(rounds):
                whole.append(ours(folder / masks, images, paths[0], encoding, syntax, 1))
                peer.append(by_dcmqi(folder / masks, images, paths[1], encoding, syntax))
            warm = ours(folder / masks, images, paths[0], encoding, syntax, 3).output.split()
            if masks == "apart" and syntax == "native":
                read = read_by_dcmqi(paths[0], folder / f"read-{encoding}", grid)
                assert len(read) == 1
                np.testing.assert_array_equal(read[0], labels)
                np.testing.assert_array_equal(read_by_highdicom(paths[1], grid), labels)
            title = f"{encoding}, {SEGMENTS + (masks == 'over')} segments"
            title += " that overlap" if masks == "over" else ""
            written = "RLE" if encoding == "labelmap" and syntax == "native" else syntax
            seconds = [min(cost.processor_seconds for cost in costs) for costs in (whole, peer)]
            wall = [min(cost.seconds for cost in costs) for costs in (whole, peer)]
            peak = [max(cost.peak_mb for cost in costs) for costs in (whole, peer)]
            size = [path.stat().st_size / 1e6 for path in paths]
            in_shard = min(float(word) for word in warm[1:])
            jipflow = [seconds[0], in_shard, wall[0], size[0], peak[0]]
            dcmqi = [seconds[1], seconds[1], wall[1], size[1], peak[1]]
            rows.append([title, f"jipflow, {written}", *jipflow])
            rows.append([title, f"dcmqi, {syntax}", *dcmqi])
            ratios = [theirs / own for own, theirs in zip(jipflow, dcmqi, strict=True)]
            rows.append([title, "dcmqi / jipflow", *ratios])
            print(rows[-3:], flush=True)
    write_result(
        "seg",
        "DICOM-SEG of a whole trunk",
        [
            *("object", "writer", "processor s", "processor s, a shard's next"),
            *("wall s", "MB", "peak MiB"),
        ],
        rows,
        packages=["highdicom", "pydicom", "dcmqi", "numpy"],
        notes=[
            f"{SEGMENTS} smooth blobs on a CT of {SHAPE[2]} × {SHAPE[1]} × {SHAPE[0]}, {frames:,} "
            "frames as binary; where they overlap, one more segment holds them all.",
            f"Seconds: of a process of its own, the least of {rounds} rounds in which the writers "
            "take turns. jipflow's starts Python and imports its libraries, which the stage does "
            "once a shard: a shard's next object costs what the fourth column says.",
            "The stage writes label maps with RLE and binary objects uncompressed, which archives "
            "accept; the deflated ones of jipflow are written here to compare like with like.",
            "dcmqi reads jipflow's objects, and highdicom dcmqi's, voxel for voxel.",
        ],
    )


if __name__ == "__main__":
    main()
