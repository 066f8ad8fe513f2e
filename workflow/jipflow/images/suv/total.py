"""No image holds more activity than was injected, or next to none: what units and factors make."""

from __future__ import annotations

import numpy as np

from jipflow.images.suv.bodies import SuvType, body
from jipflow.images.suv.fields import Fields
from jipflow.images.volume import Volume
from jipflow.notes import Notes
from jipflow.reasons import CaseFault

MOST = 2.0
"""Greatest ratio of the activity in an image to what was injected: it is 1 at most, and room is
left for noise that adds up and for errors of calibration."""
LEAST = 0.1
"""Greatest SUVbw of an image below which its values are in another unit: blood and muscle of any
patient have more (about 1 is the mean of a body), and kBq/ml taken as Bq/ml make 0.01 of 10."""
USUAL_CM2_PER_G = 0.26
"""Body surface per weight (1.8 m² of 70 kg), by which SUVbsa in cm²/ml is held against `LEAST`."""
MM3_PER_ML = 1000.0


def check_total(volume: Volume, kind: SuvType, fields: Fields) -> None:
    """Refuse a volume that holds more activity than was injected, or no uptake at all.

    SUV summed over all millilitres is at most the measure of the body that it is normalised to,
    and its greatest value is not far below 1.

    Args:
        volume: SUV of the type.
        kind: of SUV.
        fields: of the series; without a body to compare with its sum is not checked.

    Raises:
        CaseFault: it does, so a unit, a factor or the rescale is wrong.
    """
    least = LEAST * USUAL_CM2_PER_G if kind is SuvType.BSA else LEAST
    greatest = float(volume.array.max())
    if greatest < least:
        fields.implausible(
            f"the greatest {kind.written} of the image is {greatest:.3g}; Units (kBq/ml?), Rescale "
            "Slope, dose or weight is wrong. Fix it."
        )
    try:
        measure = body(kind, fields, Notes())
    except (CaseFault, ValueError):
        return
    total = float(volume.array.sum(dtype=np.float64)) * volume.grid.voxel_volume / MM3_PER_ML
    if total > MOST * measure:
        fields.implausible(
            f"the image holds {total / measure:.3g} times the activity that was injected; Units, "
            "Rescale Slope, dose or weight is wrong. Fix it."
        )
