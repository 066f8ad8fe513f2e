"""Radiomics settings: what is wrong is named."""

from __future__ import annotations

import pytest

import typed
from jipflow.settings.reading import shipped_names, shipped_radiomics
from jipflow.settings.resources import ConfigError


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        ({"featureClass": {"glcm": ["Contrasts"]}}, ["featureClass.glcm", "'Contrast'"]),
        ({"featureClass": {"glcms": []}}, ["unknown key 'glcms'", "'glcm'"]),
        ({"featureClass": {}}, ["featureClass"]),
        ({"imageType": {"Wavelet": {"wavelet": "cuif1"}}}, ["no discrete wavelet 'cuif1'"]),
        ({"imageType": {"LoG": {}}}, ["'sigma' is missing"]),
        ({"setting": {"resampledPixelSpacing": [1, 1, 1]}}, ["unknown key"]),
        ({"setting": {"binWidth": 0}}, ["setting.binWidth"]),
        ({"processing": {"resample": {"spacing": [1, 1]}}}, ["processing.resample.spacing"]),
        ({"processing": {"ivh": {"width": 1, "count": 9}}}, ["processing.ivh"]),
    ],
)
def test_wrong_radiomics_settings_are_named(content, messages):
    with pytest.raises(ConfigError) as caught:
        typed.radiomics(**{"featureClass": {"glcm": []}} | content)
    for text in messages:
        assert text in str(caught.value)


def test_shipped_radiomics_settings_are_valid():
    assert {"ibsi_ct", "ibsi_mr", "ibsi_pet"} <= set(shipped_names())
    for name in shipped_names():
        shipped_radiomics(name)
