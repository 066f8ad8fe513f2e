"""Radiomics settings: how regions are measured."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from jipflow.settings.part import Maybe, NotNegative, Number, Part, Positive, Text
from jipflow.settings.resources import resource

Three = Field(min_length=3, max_length=3)
Two = Field(min_length=2, max_length=2)
FeatureName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]
FeatureClass = Literal[
    "shape",
    "firstorder",
    "localintensity",
    "spatial",
    "uptake",
    "ivh",
    "histogram",
    "glcm",
    "glrlm",
    "glszm",
    "gldzm",
    "gldm",
    "ngtdm",
]


class Normalize(Part):
    """The image's intensities are scaled."""

    scale: Positive = 1
    """The image's mean becomes 0 and its standard deviation this, over all its voxels."""
    outliers: Maybe[Positive] = None
    """Values farther from the mean than so many standard deviations are set to that distance."""


class Resample(Part):
    """The image and its masks are interpolated."""

    spacing: Annotated[list[Positive | None], Three]
    """Voxel size in mm along x, y and z on a grid with the image's centre (IBSI 2.4); null keeps
    the image's."""
    interpolation: Literal["linear", "cubic"] = "linear"
    """Of the image; masks are interpolated linearly and kept where they reach one half."""
    round: bool = False
    """Round to whole numbers after interpolation, for CT in HU."""


class Resegment(Part):
    """Voxels leave the region by their intensity."""

    range: Maybe[Annotated[list[Number | None], Two]] = None
    """Lowest and highest intensity that stay in the region, null for none (IBSI 2.5); bins of a
    fixed width start at the lowest."""
    outliers: Maybe[Positive] = None
    """Voxels farther from the region's mean than so many standard deviations leave it."""


class Ivh(Part):
    """How the intensity-volume histogram is binned."""

    width: Maybe[Positive] = None
    """Width of the bins of the intensity-volume histogram; without it every distinct intensity
    counts."""
    count: Maybe[Annotated[int, Field(ge=2)]] = None
    """Number of its bins, in place of a width."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.width is not None and self.count is not None:
            raise PydanticCustomError("one_of_both", "give a width or a count, not both")
        return self


class Preparation(Part):
    """What is done to image and mask before."""

    normalize: Maybe[Normalize] = None
    resample: Maybe[Resample] = None
    resegment: Maybe[Resegment] = None
    ivh: Maybe[Ivh] = None


BinCount = Annotated[int, Field(ge=1, description="Number of grey levels, in place of a width.")]
Sigma = Annotated[list[Positive], Field(min_length=1)]


class Image(Part):
    """A kind of image that is measured."""

    bin_width: Maybe[Positive] = Field(default=None, alias="binWidth")
    """Width of the grey levels of this image."""
    bin_count: Maybe[BinCount] = Field(default=None, alias="binCount")


class LoG(Image):
    """The image filtered by pyradiomics' Laplacian of Gaussian."""

    sigma: Sigma
    """Standard deviations of the Gaussian in mm."""


def _known_wavelet(name: str) -> str:
    import pywt

    if name not in pywt.wavelist(kind="discrete"):
        raise PydanticCustomError(
            "wavelet",
            "PyWavelets has no discrete wavelet {name}; coif1 is pyradiomics' own choice.",
            {"name": repr(name)},
        )
    return name


class Wavelet(Image):
    """The subbands of a wavelet decomposition."""

    wavelet: Annotated[Text, AfterValidator(_known_wavelet)] = "coif1"
    """Name of a wavelet of PyWavelets."""
    level: Annotated[int, Field(ge=1)] = 1
    """Levels of decomposition."""
    start_level: Annotated[int, Field(ge=0)] = 0
    """First level."""


class IbsiLoG(Image):
    """The image filtered by IBSI's Laplacian of Gaussian."""

    sigma: Sigma
    """Standard deviations in mm of IBSI's Laplacian of Gaussian, by sampled kernels."""
    truncate: Positive = 4
    """Standard deviations at which the kernel is cut off."""


class IbsiMean(Image):
    """The image filtered by IBSI's mean filter."""

    support: Literal[3, 5, 7, 9, 11, 13, 15]
    """Edge in voxels, an odd number, of the cube that IBSI's mean filter averages."""


class Images(Part):
    """The images that are measured."""

    least_keys = 1

    original: Maybe[Image] = Field(default=None, alias="Original")
    log: Maybe[LoG] = Field(default=None, alias="LoG")
    wavelet: Maybe[Wavelet] = Field(default=None, alias="Wavelet")
    ibsi_log: Maybe[IbsiLoG] = Field(default=None, alias="IBSILoG")
    ibsi_mean: Maybe[IbsiMean] = Field(default=None, alias="IBSIMean")
    square: Maybe[Image] = Field(default=None, alias="Square")
    square_root: Maybe[Image] = Field(default=None, alias="SquareRoot")
    logarithm: Maybe[Image] = Field(default=None, alias="Logarithm")
    exponential: Maybe[Image] = Field(default=None, alias="Exponential")
    gradient: Maybe[Image] = Field(default=None, alias="Gradient")


def _original() -> Images:
    return Images.model_validate({"Original": {}})


class Setting(Part):
    """How features are computed."""

    bin_width: Positive = Field(default=25, alias="binWidth")
    """Width of the grey levels."""
    bin_count: Maybe[BinCount] = Field(default=None, alias="binCount")
    force_2d: bool = Field(default=False, alias="force2D")
    """Textures within slices, merged over them (IBSI's 2.5D)."""
    weighting_norm: Literal["no_weighting", "infinity", "euclidean", "manhattan"] | None = Field(
        default=None, alias="weightingNorm"
    )
    """null averages the features of the directions; no_weighting merges their matrices."""
    symmetrical_glcm: bool = Field(default=True, alias="symmetricalGLCM")
    """Count each pair in both directions."""
    distances: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = Field(
        default=[1]
    )
    """Distances of neighbours in voxels (Chebyshev norm)."""
    gldm_a: NotNegative = 0
    """Largest difference of grey levels that depend on each other."""
    voxel_array_shift: Number = Field(default=0, alias="voxelArrayShift")
    """Added to intensities for Energy and RootMeanSquared."""


class Radiomics(Part):
    """How regions are measured. imageType, featureClass and setting are those of a pyradiomics
    parameter file; processing is what is done to image and mask before, as the IBSI reference
    manual has it.
    """

    processing: Preparation = Field(default_factory=Preparation)
    image_type: Images = Field(default_factory=_original, alias="imageType")
    """The images that are measured; shape, peaks and the intensity-volume histogram are those of
    the original image alone."""
    feature_class: Annotated[dict[FeatureClass, list[FeatureName]], Field(min_length=1)] = Field(
        alias="featureClass"
    )
    """The features of each class; an empty list stands for all that are not withdrawn."""
    setting: Setting = Field(default_factory=Setting)

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        named = {group: names for group, names in self.feature_class.items() if names}
        # Reading the table takes longer than the rest, and few settings name single features.
        known = resource("ibsi_codes.yaml")["features"] if named else {}
        for group, features in named.items():
            for feature in features:
                if feature not in known[group]:
                    near = difflib.get_close_matches(feature, known[group], n=1)
                    raise PydanticCustomError(
                        "feature",
                        "featureClass.{group}: there is no feature {feature}{end}",
                        {
                            "group": group,
                            "feature": repr(feature),
                            "end": f"; did you mean {near[0]!r}?" if near else ".",
                        },
                    )
        return self
