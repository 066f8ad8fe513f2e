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

READING_KEYS = ("case_id", "segmentation", "reader", "file")
"""What a row of ``readings.parquet`` is about: a file that a person sent back; the file's path is
below the reader's folder."""

READING_COLUMNS = (
    *READING_KEYS,
    *("sha256", "kind", "manufacturer", "model", "software", "creator", "made", "received"),
    *("used", "unchanged", "reason", "message"),
)
"""The columns of ``readings.parquet``: by whom, when and with what the file was made, whether it is
used, whether its segments are the proposal's to the voxel, and why it cannot be used."""

AGREEMENT_KEYS = ("case_id", "segmentation", "segment", "reader", "other")
"""What a row of ``agreement.parquet`` is about: two readings, or one and the ``proposal``."""

AGREEMENT_VALUES = ("dice", "mean_surface_distance_mm", "hausdorff95_mm")
"""The measures of agreement, null where `reason` says why."""

AGREEMENT_COLUMNS = (*AGREEMENT_KEYS, *AGREEMENT_VALUES, "reason")
"""The columns of ``agreement.parquet``."""

QUALITY_COLUMNS = (
    *("case_id", "segmentation", "segment", "volume_ml", "components", "touches_border"),
    *("mean", "disagreement", "flags"),
)
"""The columns of ``quality.parquet``; ``flags`` holds codes of `jipflow.reasons.Flag`."""

CLINICAL_KEYS = ("case_id", "patient")
"""What a row of ``clinical.parquet`` is about; then a column for each clinical variable of the
protocol: float64, or text of a category."""

MISSING_COLUMNS = ("case_id", "variable", "reason", "message")
"""The columns of ``missing.parquet``: why a clinical variable of a case has no value; ``reason`` is
a code of `jipflow.reasons.Gap`."""
