"""Every feature of IBSI that is computed has IBSI's reference value, in every configuration."""

from __future__ import annotations

import csv
import math
from itertools import product

import numpy as np
import pytest
import SimpleITK as sitk

from jipflow.config import radiomics_settings
from jipflow.images.volume import Volume
from jipflow.radiomics.extract import Part, extract
from jipflow.radiomics.ibsi import columns_by_tag, tagged_features

AGGREGATED_BY_SLICE = "_2D"
CONSTANT = {"ngl_dc_perc"}
"""Is 1 by definition where every voxel counts."""


def reference(shared_data, name):
    with open(shared_data / "ibsi" / "reference" / name) as stream:
        return {
            row["tag"]: (float(row["reference value"]), float(row["tolerance"] or 0))
            for row in csv.DictReader(stream, delimiter=";")
            if row["reference value"]
        }


def phantom(shared_data, name):
    folder = shared_data / "ibsi" / name / "nifti"
    image, mask = (
        Volume.from_image(sitk.ReadImage(str(next((folder / part).glob("*.nii*")))))
        for part in ("image", "mask")
    )
    return Volume(np.rint(image.array.astype(float)), image.grid), mask.array > 0.5


def passes(value, expected, tolerance):
    """Whether a value is within the tolerance, to the three digits that reference values have."""
    digits = 0.5 * 10.0 ** (math.floor(math.log10(abs(expected))) - 2) if expected else 0.0
    rounded = float(f"{value:.3g}")
    return (
        abs(value - expected) <= max(tolerance, digits) * (1 + 1e-9)
        or abs(rounded - expected) <= tolerance + 1e-12
    )


def measure(image, mask, parameters, flat):
    """Values by tag, for both ways to treat directions."""
    found = {}
    for force_2d, norm in product(flat, (None, "no_weighting")):
        setting = {**parameters["setting"], "force2D": force_2d, "weightingNorm": norm}
        content = {**parameters, "featureClass": tagged_features(), "setting": setting}
        (extraction,) = extract(image, [Part(mask)], content)
        assert extraction.failures == []
        found |= {tag: extraction.values[col] for tag, col in columns_by_tag(setting).items()}
    return found


def check(found, expected, computed):
    wrong = {
        tag: (found[tag], *expected[tag])
        for tag in expected
        if tag in found and not passes(found[tag], *expected[tag])
    }
    assert wrong == {}
    assert len(found.keys() & expected.keys()) == computed


def test_the_digital_phantom(shared_data):
    image, mask = phantom(shared_data, "ibsi_1_digital_phantom")
    parameters = radiomics_settings("ibsi_config_c", "test")
    parameters = {**parameters, "processing": {}}
    parameters["setting"] = {**parameters["setting"], "binWidth": 1}
    expected = reference(shared_data, "ibsi_1_dig_phantom.csv")
    found = measure(image, mask, parameters, (True, False))
    check(found, expected, 344)
    missing = {tag for tag in expected if tag not in found and AGGREGATED_BY_SLICE not in tag}
    assert {tag.rsplit("_3D")[0].rsplit("_2_5D")[0] for tag in missing} == CONSTANT


@pytest.mark.parametrize("configuration", ["a", "b", "c", "d", "e"])
def test_the_ct_phantom(shared_data, configuration):
    image, mask = phantom(shared_data, "ibsi_1_ct_radiomics_phantom")
    parameters = radiomics_settings(f"ibsi_config_{configuration}", "test")
    expected = reference(shared_data, f"ibsi_1_chest_config_{configuration}.csv")
    found = measure(image, mask, parameters, (parameters["setting"]["force2D"],))
    check(found, expected, 209)
