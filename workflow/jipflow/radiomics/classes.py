"""The feature classes by the names that radiomics settings have for them."""

from __future__ import annotations

from jipflow.radiomics.family import Family
from jipflow.radiomics.intensities import (
    FirstOrder,
    Histogram,
    Ivh,
    LocalIntensity,
    Spatial,
    Uptake,
)
from jipflow.radiomics.morphology import Shape
from jipflow.radiomics.textures import Glcm, Gldm, Gldzm, Glrlm, Glszm, Ngtdm

CLASSES: dict[str, type[Family]] = {
    "shape": Shape,
    "firstorder": FirstOrder,
    "localintensity": LocalIntensity,
    "spatial": Spatial,
    "uptake": Uptake,
    "ivh": Ivh,
    "histogram": Histogram,
    "glcm": Glcm,
    "glrlm": Glrlm,
    "glszm": Glszm,
    "gldzm": Gldzm,
    "gldm": Gldm,
    "ngtdm": Ngtdm,
}
