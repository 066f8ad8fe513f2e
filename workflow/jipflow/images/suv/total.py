"""No image holds more activity than was injected: the check that units and factors cannot pass."""

from __future__ import annotations

import numpy as np

from jipflow.images.suv.bodies import SuvType, body
from jipflow.images.suv.fields import Fields, Notes
from jipflow.images.volume import Volume
from jipflow.reasons import CaseFault

MOST = 2.0
"""Greatest ratio of the activity in an image to what was injected: it is 1 at most, and room is
left for noise that adds up and for errors of calibration."""
MM3_PER_ML = 1000.0


def check_total(volume: Volume, kind: SuvType, fields: Fields) -> None:
    """Refuse a volume that holds more activity than was injected.

    SUV summed over all millilitres is at most the measure of the body that it is normalised to.

    Args:
        volume: SUV of the type.
        kind: of SUV.
        fields: of the series; without a body to compare with nothing is checked.

    Raises:
        CaseFault: it does, so a unit, a factor or the rescale is wrong.
    """
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
