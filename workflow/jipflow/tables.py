"""The columns of the tables that stages hand to each other."""

from __future__ import annotations

FEATURE_KEYS = ("case_id", "patient", "role", "segmentation", "segment")
"""What a row of ``features.parquet`` is about."""

FEATURE_COLUMNS = (
    *FEATURE_KEYS,
    *("voxels", "volume_ml", "measured_voxels", "measured_box", "settings_sha256", "versions"),
)
"""The columns of ``features.parquet`` before one float64 column per feature.

``voxels`` are the segment's on the image's grid, ``measured_voxels`` those that were measured after
resampling and re-segmentation, ``measured_box`` the region's first and last voxel on that grid.
"""

FAILURE_COLUMNS = ("case_id", "role", "segmentation", "segment", "feature", "reason", "message")
"""The columns of ``failures.parquet``; segment and feature are ``*`` for all of them."""

PERTURBED_KEYS = (*FEATURE_KEYS, "perturbation")
"""The columns of ``perturbed.parquet`` before one float64 column per feature: a region's key, and
the change of its outline."""

STABILITY_COLUMNS = ("role", "segmentation", "segment", "feature")
"""What a row of ``stability.parquet`` is about; then cases, measurements, icc, lower and upper."""

QUALITY_COLUMNS = (
    *("case_id", "segmentation", "segment", "volume_ml", "components", "touches_border"),
    *("mean", "disagreement", "flags"),
)
"""The columns of ``quality.parquet``; ``flags`` holds codes of `jipflow.cases.Flag`."""
