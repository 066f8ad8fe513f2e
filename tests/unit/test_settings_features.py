"""What an analysis is of is known before any image is measured, and a wrong name is proposed."""

from __future__ import annotations

import pytest

from config_files import demo_protocol, message, site_of
from jipflow.radiomics.classes import CLASSES
from jipflow.settings.features import USUAL, WITHDRAWN, feature_names
from jipflow.settings.names import among, meant
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.reading import shipped_names, shipped_radiomics
from jipflow.settings.resources import resource
from regions import ball, measured, settings, textured

FILTERS = {
    "Original": {},
    "LoG": {"sigma": [1, 2.5]},
    "IBSILoG": {"sigma": [1.5]},
    "IBSIMean": {"support": 3},
    "Wavelet": {"level": 2, "start_level": 1},
    "Square": {},
    "SquareRoot": {},
    "Logarithm": {},
    "Exponential": {},
    "Gradient": {},
}


@pytest.mark.parametrize("slices", [False, True])
@pytest.mark.parametrize("filters", [FILTERS, {"Wavelet": {}, "Square": {}}])
def test_the_names_are_those_of_what_is_measured(slices, filters):
    image = textured()
    wanted = settings(
        ("shape", "firstorder", "uptake"), imageType=filters, setting={"force2D": slices}
    )
    found = measured(image, ball(image, (8, 20, 22), 6), wanted)
    assert sorted(feature_names(Radiomics.model_validate(wanted))) == sorted(found.values)


def test_all_features_of_every_class_are_known():
    table = resource("ibsi_codes.yaml")["features"]
    for group, family in CLASSES.items():
        assert set(table[group]) - WITHDRAWN.get(group, set()) == set(family.names())
    named = Radiomics.model_validate({"featureClass": {"shape": ["Compactness1"], "ivh": []}})
    assert feature_names(named)[0] == "original_shape_Compactness1"
    usual = [name.split("_") for name in USUAL.values()]
    assert all(name in table[group] for _, group, name in usual)


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_settings_have_features(name):
    assert len(set(feature_names(shipped_radiomics(name)))) > 10


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"variables": ["PT.original_firstorder_maximum"]},
            ["analysis 'describe'", "did you mean 'PT.original_firstorder_Maximum'?"],
        ),
        ({"variables": ["CT.original_shape_MeshVolum"]}, ["mean 'CT.original_shape_MeshVolume'?"]),
        ({"variables": ["CT.original_shpe_*"]}, ["no feature", "mean 'CT.original_shape_*'?"]),
        ({"variables": ["PT.SUVmax"]}, ["did you mean 'PT.original_firstorder_Maximum'?"]),
        ({"variables": ["CT.MeshVolume"]}, ["did you mean 'CT.original_shape_MeshVolume'?"]),
        ({"variables": ["CT.wavelet-LLL_glcm_Contrast"]}, ["no feature of the radiomics settings"]),
        ({"variables": ["PET.original_shape_MeshVolume"]}, ["start with a role", "'PT'"]),
        ({"segments": ["livr"]}, ["no segment 'livr' is measured", "did you mean 'liver'?"]),
    ],
)
def test_what_nothing_measures_is_named_before_the_run(tmp_path, change, parts):
    protocol = demo_protocol()
    protocol["analyses"][0] |= change
    text = message(site_of(tmp_path), protocol, tmp_path)
    assert all(part in text for part in parts), text


def test_a_role_that_nothing_measures_is_named(tmp_path):
    protocol = demo_protocol()
    protocol["radiomics"] = protocol["radiomics"][:1]
    text = message(site_of(tmp_path), protocol, tmp_path)
    assert "nothing is measured in role 'PT'; radiomics measures: CT." in text


@pytest.mark.parametrize(
    ("name", "known", "parts"),
    [
        ("lver", ["liver", "spleen"], ["; did you mean 'liver'? There are: liver, spleen."]),
        ("Liver", ["liver"], ["did you mean 'liver'?"]),
        ("tumor", ["tumor-primary", "liver"], ["did you mean 'tumor-primary'?"]),
        ("xyz", ["liver"], ["; there are: liver."]),
        ("xyz", [], ["; there are: none."]),
        ("n05", [f"n{n}" for n in range(100)], ["did you mean 'n"]),
        ("xyz", [f"n{n}" for n in range(100)], ["n29 and 70 more."]),
    ],
)
def test_a_wrong_name_proposes_the_one_that_is_meant(name, known, parts):
    text = among(name, known)
    assert all(part in text for part in parts), text
    assert len(text) < 400
    assert len(meant(name, known, 3)) <= 3


@pytest.mark.parametrize(
    ("term", "proposed"),
    [("lver", "'liver'"), ("tumor", "tumor"), ("left-kidney", "'kidney-left'"), ("zzz", None)],
)
def test_a_wrong_term_proposes_terms_and_lists_no_hundreds(tmp_path, term, proposed):
    protocol = demo_protocol()
    protocol["segmentations"][0]["segments"][0]["term"] = term
    text = message(site_of(tmp_path), protocol, tmp_path)
    assert f"there is no term {term!r}" in text
    assert "workflow/resources/terms.yaml" in text
    assert (proposed in text) if proposed else ("did you mean" not in text)
    assert len(text) < 600


@pytest.mark.parametrize(
    "where", ['Modality = "PT"', "Modality IN ('CT', \"PT\")", "Modality = PT"]
)
def test_a_text_in_double_quotes_is_explained(tmp_path, where):
    protocol = demo_protocol()
    protocol["cohort"]["where"] = where
    assert "A text stands in single quotes: 'PT'." in message(site_of(tmp_path), protocol, tmp_path)
