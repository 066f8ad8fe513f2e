"""The face cut away from volumes of a head, by planes below and before the brain.

Quickshear (Schimke and Hale, "Quickshear Defacing for Neuroimages", USENIX HealthSec 2011) removes
what lies beyond an edge of the lower half of the convex hull of the brain's sagittal profile, moved
away from the brain; so no brain can be lost. It takes the first edge from the front, which is steep
where a forehead is round and leaves much of the face; here all edges are taken that fall from the
forehead backwards. The brain is found by thresholds and morphology, which is enough for its
profile. What is found is checked against what a brain can be; in doubt the series stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from jipflow.images.pixels import decode
from jipflow.images.read import frame_headers
from jipflow.images.volume import Volume
from jipflow.privacy.hide import Frame, change_pixels
from jipflow.reasons import CaseFault, Reason

STEP = 2.0
"""Spacing in mm of the grid on which the brain is looked for."""
MARGIN = 5.0
"""Distance in mm from the brain's profile at which planes lie; eyes begin at twice of it."""
BELOW = 120.0
"""How far in mm below the brain a face may reach; farther down nothing is removed, so that the
trunk of a longer scan stays."""

BRAIN_ML = (700.0, 1900.0)
"""Volume of what is found: brain of a child of two years and more, to that of a large man with the
fluid around it."""
STEEPEST = 70.0
FLATTEST = 15.0
"""Fall in degrees, from the front backwards, of the edges whose planes are taken: steeper ones cut
the forehead, flatter ones the nape."""
LONGEST_REACH = 1.15
"""What is found reaches at most so far to the front and below, as a share of its reach to the back
and above, both at 45 degrees from its centre. It was 0.95, 0.96 and 1.07 of three brains, and 1.23
and more where a brain ran into the face."""
SKULL_ML = 300.0
"""What a skull encloses at least, if it is one; a vertebra or the pelvis enclose far less in the
axial plane."""

CAVITY_CM2 = 15.0
"""Area that bone encloses in an axial slice of a skull."""
DIRECTIONS = 16
"""In which bone is looked for from a voxel."""
MEETING = 14
"""In how many of them it is met from within a skull. What is enclosed so had 1420 ml in a CT of a
patient's head, and at most 9 ml in those of 17 trunks and limbs; what bone closes off within its
slice had 170 ml in that head."""
BONE_HU = 200.0
SOFT_HU = (-20.0, 110.0)

LARGEST_TOP = 0.4
"""Share of the largest axial section that the topmost one of MR has at most: else the top of the
head lies beyond the image, and a neck may be taken for brain."""
BRAIN_HEIGHT = 135.0
"""What lies farther than this below the top of the head, in mm, is no brain."""
ERODED = 14.0
"""Distance in mm by which tissue of MR is eroded, so that brain and face come apart."""

Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Shear:
    """Planes, parallel to the left-right axis, below any of which a face lies; LPS millimetres.

    Attributes:
        planes: of each the rise of z with y, and z at y = 0.
        lowest: z below which nothing is removed.
    """

    planes: tuple[tuple[float, float], ...]
    lowest: float

    def removes(self, y: Numbers, z: Numbers) -> Mask:
        """Return which points are removed, given their coordinates."""
        below: Mask = np.zeros(np.broadcast_shapes(y.shape, z.shape), bool)
        for slope, offset in self.planes:
            below |= z < slope * y + offset
        return below & (z >= self.lowest)


def find_shear(volume: Volume, modality: str, name: str) -> Shear:
    """Return the planes that cut the face of a head away and leave its brain.

    Args:
        volume: of the head, as `jipflow.images.series.read_series_volume` reads it.
        modality: ``CT`` or ``MR``.
        name: of the series, for messages.

    Raises:
        CaseFault: no brain of a plausible size and place is found (``face_not_cut``).
    """
    if modality not in ("CT", "MR"):
        raise _not_cut(name, f"of {modality} no brain is looked for; cut by the CT or MR with it")
    values, origin = _upright(volume)
    brain = _cavity(values) if modality == "CT" else _brain(values)
    millilitres = float(brain.sum()) * STEP**3 / 1000
    if not BRAIN_ML[0] <= millilitres <= BRAIN_ML[1]:
        raise _not_cut(name, f"what looks like a brain has {millilitres:.0f} ml")
    z, y = np.nonzero(brain.any(axis=2))
    points = np.column_stack([origin[1] + STEP * y, origin[2] + STEP * z])
    reach = _reach(points)
    if reach > LONGEST_REACH:
        raise _not_cut(name, f"what looks like a brain runs into the face ({reach:.2f})")
    planes = tuple(_planes(points))
    if not planes:
        raise _not_cut(name, "what looks like a brain has no base")
    return Shear(planes, float(points[:, 1].min()) - BELOW)


def shows_skull(volume: Volume) -> bool:
    """Return whether a CT shows a skull, by what its bone encloses in axial slices."""
    values, _ = _upright(volume)
    return bool(_cavity(values).sum() * STEP**3 / 1000 >= SKULL_ML)


def deface(path: Path, dataset: Dataset, shear: Shear) -> None:
    """Set what lies below any of some planes to the lowest value that the instance stores.

    Recognizable Visual Features (0028,0302) becomes NO.

    Args:
        path: the instance's file, for messages.
        dataset: the instance with its pixels, which is changed; in the frame of reference of the
            volume that the planes were found in.
        shear: the planes.

    Raises:
        CaseFault: the pixels cannot be decoded, or do not say where they lie.
    """
    headers = frame_headers(dataset)
    count = int(dataset.get("NumberOfFrames") or 1)
    if len(headers) != count or "MOSAIC" in (dataset.get("ImageType") or []):
        raise _not_cut(str(path), "its frames do not say where they lie")
    removed = [_removed(path, header, shear) for header in headers]

    def overwrite(index: int, frame: Frame, lowest: Frame) -> None:
        frame[removed[index]] = lowest

    change_pixels(path, dataset, overwrite)
    dataset.RecognizableVisualFeatures = "NO"


def reaches_face(path: Path, dataset: Dataset, shear: Shear) -> bool:
    """Return whether contours or segments reach into what is cut away, and may outline a face.

    Args:
        path: the object's file, for messages.
        dataset: a structure set or a segmentation with its pixels; any other object does not reach.
        shear: the planes, in the object's frame of reference.

    Raises:
        CaseFault: the pixels of a segmentation cannot be decoded, or do not say where they lie.
    """
    for roi in dataset.get("ROIContourSequence") or []:
        for contour in roi.get("ContourSequence") or []:
            points = np.asarray(contour.get("ContourData") or [], np.float64).reshape(-1, 3)
            if shear.removes(points[:, 1], points[:, 2]).any():
                return True
    if "SegmentSequence" not in dataset:
        return False
    held = Dataset()
    held.update(dataset)
    held.file_meta = dataset.file_meta
    frames = decode(path, held)
    removed = (_removed(path, header, shear) for header in frame_headers(dataset))
    return any((frame[gone] != 0).any() for frame, gone in zip(frames, removed, strict=True))


def _removed(path: Path, header: Dataset, shear: Shear) -> Mask:
    """Return which pixels of a plane are removed (PS3.3 C.7.6.2.1.1)."""
    try:
        origin = np.asarray(header.ImagePositionPatient, np.float64)
        across, down = np.asarray(header.ImageOrientationPatient, np.float64).reshape(2, 3)
        step_down, step_across = (float(value) for value in header.PixelSpacing)
        rows, columns = int(header.Rows), int(header.Columns)
    except (AttributeError, TypeError, ValueError) as error:
        raise _not_cut(str(path), "it does not say where its pixels lie") from error
    i, j = np.arange(rows)[:, None] * step_down, np.arange(columns)[None, :] * step_across
    y, z = (origin[axis] + i * down[axis] + j * across[axis] for axis in (1, 2))
    return shear.removes(y, z)


def _not_cut(name: str, why: str) -> CaseFault:
    return CaseFault(
        Reason.FACE_NOT_CUT, f"{name}: its face cannot be cut away for sure: {why}; leave it out."
    )


def _upright(volume: Volume) -> tuple[NDArray[np.float32], Numbers]:
    """Return a volume on a cubic grid along the patient's axes, and the grid's first corner."""
    import SimpleITK as sitk

    grid = volume.grid
    ends = np.array(
        [[i * (n - 1) for i, n in zip(c, grid.shape, strict=True)] for c in np.ndindex(2, 2, 2)]
    )
    corners = np.column_stack([ends, np.ones(8)]) @ grid.affine[:3].T
    origin, last = corners.min(axis=0), corners.max(axis=0)
    size = [int(n) + 1 for n in np.ceil((last - origin) / STEP)]
    image = sitk.Cast(volume.image(), sitk.sitkFloat32)
    resampled = sitk.Resample(
        image,
        size,
        sitk.Transform(),
        sitk.sitkLinear,
        [float(v) for v in origin],
        [STEP] * 3,
        [float(v) for v in np.eye(3).ravel()],
        float(volume.array.min()),
    )
    return sitk.GetArrayFromImage(resampled), origin


def _cavity(hu: NDArray[np.float32]) -> Mask:
    """Return what bone encloses in axial slices of CT: brain and the fluid around it.

    The skull of a patient has gaps: sutures, sinuses, thin bone, and holes that surgeons leave. So
    enclosed is a voxel from which bone is met in `MEETING` of `DIRECTIONS` within its slice.
    """
    from scipy import ndimage

    bone = hu > BONE_HU
    enclosed = _enclosed(bone) & ~bone
    inside = np.zeros_like(bone)
    for k, section in enumerate(enclosed):
        regions, _ = ndimage.label(section)
        large = np.flatnonzero(np.bincount(regions.ravel()) * STEP**2 / 100 >= CAVITY_CM2)
        inside[k] = np.isin(regions, large[large > 0])
    inside &= (hu > SOFT_HU[0]) & (hu < SOFT_HU[1])
    return _largest(ndimage.binary_opening(inside, iterations=2))


def _enclosed(bone: Mask) -> Mask:
    """Return from where bone is met in most directions of an axial slice, on a grid of 4 mm."""
    from scipy import ndimage

    depth, *plane = bone.shape
    size = -(-max(plane) // 2) * 2
    square = np.zeros((depth, size, size), np.uint8)
    square[:, : plane[0], : plane[1]] = bone
    coarse = square.reshape(depth, size // 2, 2, size // 2, 2).max(axis=(2, 4))
    met = np.zeros(coarse.shape, np.uint8)
    for angle in np.arange(DIRECTIONS // 2) * 360 / DIRECTIONS:
        turned = ndimage.rotate(coarse, angle, axes=(1, 2), order=0)
        for way in (1, -1):
            seen = np.maximum.accumulate(turned[..., ::way], axis=2)[..., ::way]
            back = ndimage.rotate(seen, -angle, axes=(1, 2), reshape=False, order=0)
            begin = (back.shape[1] - size // 2) // 2
            met += back[:, begin : begin + size // 2, begin : begin + size // 2]
    fine = np.repeat(np.repeat(met >= MEETING, 2, axis=1), 2, axis=2)
    return np.asarray(fine[:, : plane[0], : plane[1]], bool)


def _brain(values: NDArray[np.float32]) -> Mask:
    """Return the brain of MR: what is left of a head's tissue, eroded until it falls apart."""
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    head = _largest(ndimage.gaussian_filter(values, 1) > threshold_otsu(values) / 2)
    reach = int(10 / STEP)
    head = ndimage.binary_closing(np.pad(head, reach), iterations=reach)
    head = head[reach:-reach, reach:-reach, reach:-reach]
    head = np.stack([ndimage.binary_fill_holes(section) for section in head])
    sections = head.sum(axis=(1, 2))
    if sections[-1] > LARGEST_TOP * sections.max():
        return np.zeros_like(head)
    depth = _depth(np.pad(head, ((0, 0), (1, 1), (1, 1))))[:, 1:-1, 1:-1]
    # Half of the way in there is brain alone, whatever the weighting makes of fat.
    usual = np.median(values[depth > depth.max() / 2])
    tissue = (values > 0.5 * usual) & (values < 1.9 * usual) & (depth > 6)
    top = int(np.flatnonzero(head.any(axis=(1, 2))).max(initial=0))
    tissue[: max(0, top - round(BRAIN_HEIGHT / STEP))] = False
    core = _largest(_depth(np.pad(tissue, 1))[1:-1, 1:-1, 1:-1] > ERODED)
    if not core.any():
        return core
    grown = tissue & (_depth(~core) <= ERODED)
    return np.asarray(ndimage.binary_fill_holes(grown), bool)


def _depth(mask: Mask) -> Numbers:
    """Return the distance in mm of each voxel to the nearest one outside a mask."""
    from scipy import ndimage

    distance: Numbers = ndimage.distance_transform_edt(mask, sampling=STEP)
    return distance


def _largest(mask: Mask) -> Mask:
    """Return the largest connected part of a mask; nothing where it is empty."""
    from scipy import ndimage

    parts, count = ndimage.label(mask)
    if not count:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())


def _reach(points: Numbers) -> float:
    """Return how far an area reaches to the front and below, against to the back and above."""
    forth = (points - points.mean(axis=0)) @ np.array([-1.0, -1.0])
    return float(forth.max() / -forth.min())


def _planes(points: Numbers) -> Iterator[tuple[float, float]]:
    """Yield slope and offset of the planes along the lower edges of an area's convex hull.

    Args:
        points: rows of (y, z), LPS, of an area.
    """
    from scipy.spatial import ConvexHull

    hull = points[ConvexHull(points).vertices]
    # The vertices run against the clock, so that edges of the lower half go to larger y.
    for (y, z), (next_y, next_z) in zip(hull, np.roll(hull, -1, axis=0), strict=True):
        fall = math.degrees(math.atan2(z - next_z, next_y - y))
        if next_y > y and FLATTEST <= fall <= STEEPEST:
            slope = float((next_z - z) / (next_y - y))
            yield slope, float(z - slope * y) - MARGIN * math.hypot(1, slope)
