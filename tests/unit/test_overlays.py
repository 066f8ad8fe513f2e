"""The overlays: what stands where in the picture, and what happens to a bad case."""

from __future__ import annotations

import dataclasses
import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fake_results as fake
from jipflow.files import sha256_file, write_json
from jipflow.images.masks import Region, Segmentation, pack, write_segmentation
from jipflow.images.volume import Grid, Volume, write_volume
from jipflow.outcomes import Status
from jipflow.palette import SEGMENT_COLOURS, rgb, segment_colour
from jipflow.reasons import CaseFault, Reason
from jipflow.report import overlays

COLOURS = {name: segment_colour(i) for i, name in enumerate(fake.ORGANS)}


def open_picture(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def pane(picture: np.ndarray, column: int) -> np.ndarray:
    left = overlays.GAP + column * (overlays.PANE + overlays.GAP)
    return picture[overlays.GAP : overlays.GAP + overlays.PANE, left : left + overlays.PANE]


def coloured(picture: np.ndarray, colour: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of pixels in (nearly) a segment's full colour: its outline."""
    near = np.abs(picture - np.asarray(rgb(colour))).max(axis=2) <= 3
    return np.nonzero(near)


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Grid:
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing, 1.0
    return Grid(shape, affine)


def with_block(
    block: tuple[slice, slice, slice], shape=(40, 60, 60), spacing=(5.0, 2.0, 2.0)
) -> tuple[Volume, Segmentation]:
    place = grid(shape, spacing)
    mask = np.zeros(shape, bool)
    mask[block] = True
    image = np.zeros(shape, np.float32)
    return Volume(image, place), pack([Region("liver", "liver", mask, "MANUAL", "test")], place)


def test_same_input_gives_the_same_bytes_without_metadata() -> None:
    volume, segmentation = fake.phantom()
    first = overlays.render_overlay(volume, segmentation, "CT", COLOURS)
    second = overlays.render_overlay(volume, segmentation, "CT", COLOURS)
    assert first == second
    assert Image.open(io.BytesIO(first)).info == {}
    chunks = {first[at + 4 : at + 8] for at in _chunk_starts(first)}
    assert chunks == {b"IHDR", b"IDAT", b"IEND"}


def _chunk_starts(png: bytes) -> list[int]:
    starts, at = [], 8
    while at < len(png):
        starts.append(at)
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    return starts


@pytest.mark.parametrize(
    ("name", "columns", "block"),
    [
        # In LPS, low x is the patient's right, low y the front, high z the head.
        ("right is left in the axial pane", 0, (slice(15, 25), slice(20, 40), slice(5, 15))),
        ("right is left in the coronal pane", 1, (slice(15, 25), slice(20, 40), slice(5, 15))),
        ("front is left in the sagittal pane", 2, (slice(15, 25), slice(5, 15), slice(20, 40))),
    ],
)
def test_sides_of_the_panes(name: str, columns: int, block: tuple[slice, slice, slice]) -> None:
    volume, segmentation = with_block(block)
    picture = open_picture(overlays.render_overlay(volume, segmentation, "CT", COLOURS))
    _, x = coloured(pane(picture, columns), COLOURS["liver"])
    assert len(x) > 20, name
    assert x.max() < overlays.PANE / 2, name


def test_head_is_at_the_top_and_front_at_the_top_of_the_axial_pane() -> None:
    volume, segmentation = with_block((slice(30, 38), slice(3, 12), slice(20, 40)))
    picture = open_picture(overlays.render_overlay(volume, segmentation, "CT", COLOURS))
    for column in range(3):
        rows, _ = coloured(pane(picture, column), COLOURS["liver"])
        assert len(rows) > 20
        assert rows.max() < overlays.PANE / 2


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("flips", [(), (0,), (0, 1, 2)])
def test_the_stored_orientation_does_not_show(
    axes: tuple[int, int, int], flips: tuple[int, ...]
) -> None:
    volume, segmentation = fake.phantom()
    expected = overlays.render_overlay(volume, segmentation, "CT", COLOURS)
    affine = volume.grid.affine[:, [*axes, 3]].copy()
    shape = tuple(volume.grid.shape[a] for a in axes)
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
        affine[:3, axis] *= -1

    def stored(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.flip(array.transpose(axes), flips))

    turned = Grid(shape, affine)  # type: ignore[arg-type]
    layers = tuple(stored(layer) for layer in segmentation.layers)
    again = overlays.render_overlay(
        Volume(stored(volume.array), turned),
        dataclasses.replace(segmentation, layers=layers, grid=turned),
        "CT",
        COLOURS,
    )
    assert again == expected


def test_proportions_are_physical() -> None:
    # 8 × 5 mm high, 20 × 2 mm wide: a square of 40 mm in the coronal pane.
    volume, segmentation = with_block((slice(16, 24), slice(20, 40), slice(20, 40)))
    picture = open_picture(overlays.render_overlay(volume, segmentation, "CT", COLOURS))
    rows, columns = coloured(pane(picture, 1), COLOURS["liver"])
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=3)
    per_mm = (overlays.PANE - 2 * overlays.MARGIN) / 200
    assert np.ptp(rows) == pytest.approx(40 * per_mm, abs=4)


def test_a_small_segment_weighs_as_much_as_a_large_one() -> None:
    shape = (40, 50, 60)
    large, small = np.zeros(shape, bool), np.zeros(shape, bool)
    large[5:35, 10:40, 10:30] = True
    small[30, 12, 25] = True
    segmentation = pack(
        [
            Region(n, "liver", m, "MANUAL", "t")
            for n, m in (("liver", large & ~small), ("lesion", small))
        ],
        grid(shape, (3.0, 1.0, 1.0)),
    )
    assert overlays.best_slices(segmentation.layers, segmentation.segments) == (30, 12, 25)


def test_ct_is_shown_without_the_air_around() -> None:
    image = np.full((30, 60, 60), -1000.0)
    image[:, 20:40, 15:45] = 40
    mask = np.zeros(image.shape, np.uint8)
    field = overlays.field_of_view(image, [mask], (3.0, 2.0, 2.0), "CT")
    z, y, x = (part.indices(size)[:2] for part, size in zip(field, image.shape, strict=True))
    assert z == (0, 30)
    assert y[0] == pytest.approx(15, abs=3)
    assert y[1] == pytest.approx(45, abs=3)
    assert x[0] == pytest.approx(10, abs=3)
    assert x[1] == pytest.approx(50, abs=3)
    mask[0, 59, 59] = 1
    wider = overlays.field_of_view(image, [mask], (3.0, 2.0, 2.0), "CT")
    assert [part.indices(60)[1] for part in wider[1:]] == [60, 60]
    assert overlays.field_of_view(image, [mask], (3.0, 2.0, 2.0), "PT") == (slice(None),) * 3
    air = np.full((3, 3, 3), -1000.0)
    assert overlays.field_of_view(air, [], (1.0, 1.0, 1.0), "CT") == (slice(None),) * 3


def test_an_empty_mask_shows_the_middle() -> None:
    volume, segmentation = with_block((slice(0, 0), slice(0, 0), slice(0, 0)))
    assert overlays.best_slices(segmentation.layers, segmentation.segments) == (20, 30, 30)
    overlays.render_overlay(volume, segmentation, "CT", COLOURS)


def test_one_voxel_is_visible_on_a_large_image() -> None:
    volume, segmentation = with_block(
        (slice(10, 11), slice(300, 301), slice(200, 201)), (20, 700, 700), (5.0, 0.7, 0.7)
    )
    picture = open_picture(overlays.render_overlay(volume, segmentation, "CT", COLOURS))
    for column in range(3):
        assert len(coloured(pane(picture, column), COLOURS["liver"])[0]) >= 1


def test_windows() -> None:
    rng = np.random.default_rng(0)
    assert overlays.display_window(np.zeros((2, 2, 2)), "CT") == (-160, 240, False)
    assert overlays.display_window(rng.random((9, 9, 9)), "PT") == (0, 10, True)
    assert overlays.display_window(rng.random((9, 9, 9)) * 60, "PT")[1] > 50
    low, high, inverted = overlays.display_window(rng.normal(500, 50, (20, 20, 20)), "MR")
    assert 300 < low < 450
    assert 550 < high < 700
    assert not inverted
    with_gaps = np.full((9, 9, 9), np.nan)
    assert overlays.display_window(with_gaps, "PT") == (0, 10, True)


def test_high_uptake_is_dark_and_missing_values_are_black() -> None:
    window = (0.0, 10.0, True)
    grey = overlays._window(np.array([[0.0, 5.0, 20.0, np.nan]]), window)
    assert grey.tolist() == [[255, 128, 0, 0]]


def test_masks_of_another_grid_are_refused() -> None:
    volume, segmentation = fake.phantom()
    moved = dataclasses.replace(segmentation, grid=grid(volume.grid.shape, (5.0, 3.2, 3.2)))
    with pytest.raises(CaseFault) as fault:
        overlays.render_overlay(volume, moved, "CT", COLOURS)
    assert fault.value.reason is Reason.GRID_MISMATCH


# Machado, Oliveira and Fernandes (2009), "A physiologically-based model for simulation of color
# vision deficiency", IEEE TVCG 15(6), severity 1: matrices on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart(vision: str) -> None:
    from skimage.color import rgb2lab

    stored = np.array([rgb(colour) for colour in SEGMENT_COLOURS]) / 255
    linear = np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ VISION[vision].T, 0, 1)
    shown = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb2lab(shown)
    for i, first in enumerate(lab):
        for second in lab[:i]:
            assert np.linalg.norm(first - second) > 15
    assert segment_colour(len(SEGMENT_COLOURS)) == segment_colour(0)


def test_a_full_ct_takes_a_third_of_a_second() -> None:
    volume, segmentation = fake.phantom("CT", 0, (150, 256, 256))
    overlays.render_overlay(volume, segmentation, "CT", COLOURS)
    times = []
    for _ in range(3):
        start = time.process_time()
        overlays.render_overlay(volume, segmentation, "CT", COLOURS)
        times.append(time.process_time() - start)
    assert min(times) < 0.3


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A shard with case a complete, case b without masks, and case c with masks that do not fit."""
    for number, name in enumerate(("a", "b", "c")):
        for role, segmentation in (("CT", "organs"), ("PT", "gtv")):
            volume, masks = fake.phantom(role, number)
            write_volume(tmp_path / "volumes" / name / f"{role}.nrrd", volume)
            if name == "c" and role == "PT":
                masks = fake.phantom("PT", 0, (20, 96, 128))[1]
            if name != "b":
                write_segmentation(tmp_path / "masks" / name / segmentation, masks)
    return tmp_path


def test_a_shard(shard: Path) -> None:
    results = shard / "results"
    cases = [fake.case(name) for name in ("a", "b", "c")]
    # Of an earlier run: of a segmentation that the protocol dropped, and of cases that now fail.
    for name in ("a/dropped", "b/organs", "c/gtv"):
        write_json(results / "overlays" / f"{name}.png", {})
    outcomes = overlays.run(
        cases=cases,
        settings=fake.settings(),
        volumes=shard / "volumes",
        masks=shard / "masks",
        overlays=results / "overlays",
        threads=2,
    )
    found = {(o.case_id, o.item): (o.status, o.reason) for o in outcomes}
    assert found == {
        ("a", "organs"): (Status.OK, ""),
        ("a", "gtv"): (Status.OK, ""),
        ("c", "organs"): (Status.OK, ""),
        ("c", "gtv"): (Status.FAILED, "grid_mismatch"),
    }
    for outcome in outcomes:
        assert outcome.stage == "overlay"
        for path, digest in zip(outcome.outputs, outcome.sha256, strict=True):
            assert sha256_file(results / path) == digest
    assert sorted(p.relative_to(results).as_posix() for p in results.rglob("*.png")) == [
        "overlays/a/gtv.png",
        "overlays/a/organs.png",
        "overlays/c/organs.png",
    ]
