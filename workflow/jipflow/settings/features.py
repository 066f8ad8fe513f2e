"""The names of the features that radiomics settings give, before any image is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import product

from jipflow.settings.clinical import ROLE
from jipflow.settings.names import among, meant
from jipflow.settings.protocol import AnalysisSettings, Protocol
from jipflow.settings.radiomics import Images, Radiomics
from jipflow.settings.resources import resource

ORIGINAL_ONLY = ("shape", "localintensity", "spatial", "uptake", "ivh")
"""Classes of the original image alone."""

WITHDRAWN = {
    "shape": {"Compactness1", "Compactness2", "SphericalDisproportion"},
    "firstorder": {"StandardDeviation"},
}
"""Features that pyradiomics computes only where they are named."""

COUNTED = ("voxels", "volume_ml", "measured_voxels")
"""Numbers of a region that stand beside its features and are variables as well."""

USUAL = {
    "suvmax": "original_firstorder_Maximum",
    "suvmean": "original_firstorder_Mean",
    "suvpeak": "original_localintensity_GlobalPeak",
    "volume": "original_shape_MeshVolume",
}
"""What people call a feature whose name is not like it."""


def feature_names(settings: Radiomics) -> list[str]:
    """Return the names of all features that settings give, as columns of ``features.parquet``."""
    table = resource("ibsi_codes.yaml")["features"]
    names = []
    for image in image_names(settings.image_type, slices=settings.setting.force_2d):
        for group, named in settings.feature_class.items():
            if image == "original" or group not in ORIGINAL_ONLY:
                kept = [name for name in table[group] if name not in WITHDRAWN.get(group, ())]
                names += [f"{image}_{group}_{name}" for name in named or kept]
    return names


def image_names(images: Images, *, slices: bool) -> list[str]:
    """Return the names of the images that are measured.

    Args:
        images: of radiomics settings.
        slices: whether wavelets are of slices alone.
    """
    names = [] if images.original is None else ["original"]
    if images.log:
        names += [log_name(sigma) for sigma in images.log.sigma]
    if images.ibsi_log:
        names += [ibsi_log_name(sigma) for sigma in images.ibsi_log.sigma]
    if images.ibsi_mean:
        names.append(ibsi_mean_name(images.ibsi_mean.support))
    if images.wavelet:
        axes = 2 if slices else 3
        bands = ["".join(letters) for letters in product("LH", repeat=axes)]
        for level in range(1, images.wavelet.level + 1):
            # The approximation is that of the last level alone.
            kept = bands if level == images.wavelet.level else bands[1:]
            names += [wavelet_name(level, band) for band in kept]
    plain = ("square", "square_root", "logarithm", "exponential", "gradient")
    return names + [name.replace("_", "") for name in plain if getattr(images, name) is not None]


def log_name(sigma: float) -> str:
    """Return the name of the image of pyradiomics' Laplacian of Gaussian of so many mm."""
    return f"log-sigma-{str(float(sigma)).replace('.', '-')}-mm-3D"


def ibsi_log_name(sigma: float) -> str:
    """Return the name of the image of IBSI's Laplacian of Gaussian of so many mm."""
    return f"ibsi-log-sigma-{str(float(sigma)).replace('.', '-')}-mm"


def ibsi_mean_name(support: int) -> str:
    """Return the name of the image of IBSI's mean filter of so many voxels."""
    return f"ibsi-mean-{support}"


def wavelet_name(level: int, band: str) -> str:
    """Return the name of a subband of a wavelet transform.

    Args:
        level: from 1, the first that is kept.
        band: a letter an axis, L or H.
    """
    return f"wavelet-{band}" if level == 1 else f"wavelet{level}-{band}"


def variable_problems(
    analysis: AnalysisSettings, protocol: Protocol, parameters: Mapping[str, Radiomics]
) -> Iterator[str]:
    """Yield which variables and segments of an analysis nothing measures, one sentence each.

    Clinical variables are not measured.

    Args:
        analysis: of the protocol.
        protocol: whose own radiomics settings are filled in.
        parameters: the shipped radiomics settings that it names.
    """
    measured: dict[str, list[str]] = {}
    segments: dict[str, list[str]] = {}
    for entry in protocol.radiomics:
        settings = entry.settings
        content = parameters[settings] if isinstance(settings, str) else settings
        measured.setdefault(entry.role, []).extend([*COUNTED, *feature_names(content)])
        spec = protocol.segmentation(entry.segmentation)
        segments.setdefault(entry.role, []).extend(each.name for each in spec.segments)
    for variable in (*analysis.variables, *(each.variable for each in analysis.further())):
        role, _, feature = variable.partition(".")
        if role == ROLE:
            continue
        if role not in measured:
            rest = among(role, measured, "radiomics measures")
            yield f"variable {variable!r}: nothing is measured in role {role!r}{rest}"
        elif not any(fnmatchcase(name, feature) for name in measured[role]):
            yield f"variable {variable!r}: {_no_feature(role, feature, measured[role])}"
    there = [name for role in segments for name in segments[role]]
    for segment in analysis.segments or ():
        if segment not in there:
            yield f"segments: no segment {segment!r} is measured{among(segment, there)}"


def _no_feature(role: str, feature: str, names: list[str]) -> str:
    """Say that the radiomics settings of a role give no such feature, and which one is meant."""
    stem, star, rest_of = feature.partition("*")
    usual = USUAL.get(feature.lower().replace("_", ""), "")
    # Before a * stand whole words as a rule; they are compared with as many of each name.
    parts = stem.count("_") + (not stem.endswith("_"))
    stems = dict.fromkeys("_".join([*name.split("_"), ""][:parts]) for name in names)
    near = [usual] if usual in names else meant(stem.strip("_"), stems if star else names)
    near = [near[0] + "_" * stem.endswith("_") + star + rest_of] if near and star else near
    rest = f"did you mean {f'{role}.{near[0]}'!r}? " if near else ""
    return (
        f"no feature of the radiomics settings of role {role!r} has that name; {rest}"
        "docs/radiomics-reference.md lists all."
    )
