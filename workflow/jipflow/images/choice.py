"""One volume of a series that holds several: a phase, a b-value, an echo, a type of image.

What the protocol asks for is taken where the header states it, and refused where it does not; of
what fits more than once nothing is taken. Each choice is noted with what it was chosen from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jipflow.cases import Wanted
from jipflow.images.acquisitions import SPLITTING, attribute_text, same_image
from jipflow.images.diffusion import b_value, direction, image_words, is_isotropic, is_map
from jipflow.images.parametric import unit_of_map
from jipflow.images.phases import TimePoint, TimePoints, time_points
from jipflow.images.pixels import Plane
from jipflow.images.private import number_of
from jipflow.images.stack import POSITION_TOLERANCE, square_directions
from jipflow.reasons import CaseFault, Decision, Reason

ECHO_TIME_TOLERANCE = 0.01
"""In ms: echo times are written to two decimals."""
B_VALUE_TOLERANCE = 0.5
"""In s/mm²: b-values are read in whole ones."""
MOST_SHOWN = 12
"""Most values that a message lists."""

TELLING = (*SPLITTING, "ImageIndex", "TemporalPositionTimeOffset")
"""Attributes of which slices that repeat each other have the same values."""

ONE_KIND = (
    *("StackID", "EchoNumbers", "EffectiveEchoTime", "EchoTime", "DiffusionBValue"),
    *("InversionTime", "FlipAngle", "ConvolutionKernel", "KVP"),
)
"""Attributes of which all time points of one kind of image have one value."""


@dataclass
class _Chosen:
    """What is left of a series.

    Attributes:
        name: the series, for messages.
        planes: that are left.
        slots: number of the position of each plane of the series, by its identity.
        notes: what was taken, of what.
        decisions: the code of each decision.
        silent: the planes that were left out as they do not state what is asked for.
    """

    name: str
    planes: list[Plane]
    slots: dict[int, int]
    notes: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    silent: list[Plane] = field(default_factory=list)

    def take(self, planes: list[Plane], text: str) -> None:
        """Go on with some of the planes."""
        self.planes = planes
        self.notes.append(text)

    def absent(self, text: str) -> CaseFault:
        """Return the fault of a volume that the series does not have, or does not state."""
        return CaseFault(Reason.VOLUME_NOT_FOUND, f"{self.name}: {text}")

    def several(self, text: str) -> CaseFault:
        """Return the fault of several volumes that fit."""
        return CaseFault(Reason.MIXED_ACQUISITIONS, f"{self.name}: {text}")

    def positions(self, planes: Iterable[Plane]) -> NDArray[np.intp]:
        """Return the number of the position of each plane."""
        return np.array([self.slots[id(plane)] for plane in planes], dtype=np.intp)

    def repeats(self) -> bool:
        """Whether a position has several planes."""
        return len(set(self.positions(self.planes).tolist())) < len(self.planes)


def chosen(
    planes: Sequence[Plane],
    wanted: Wanted | None,
    name: str,
    notes: list[str],
    decisions: list[Decision],
) -> list[Plane]:
    """Return the planes of the volume that is wanted of a series.

    Args:
        planes: of the series, in any order, all of one orientation.
        wanted: which volume; None for all planes.
        name: the series, for messages.
        notes: gets a sentence that says what was chosen, and of what.
        decisions: gets the code of the choice, where something was left out.

    Returns:
        The planes of the volume, in any order.

    Raises:
        CaseFault: the series has no such volume, or several, or does not state what is asked for;
            or the volume lacks slices that others have.
    """
    if wanted is None or not planes:
        return list(planes)
    slots = dict(zip(map(id, planes), _slots(planes).tolist(), strict=True))
    series = _Chosen(name, _without_copies(planes, slots, notes), slots)
    whole = list(series.planes)
    _take_type(series, wanted)
    _take_unit(series, wanted)
    _take_echo(series, wanted)
    _take_echo_time(series, wanted)
    _take_b_value(series, wanted)
    _take_time_point(series, wanted)
    _check_complete(series, whole)
    taken = "; ".join(series.notes)
    if len(series.planes) < len(whole):
        notes.append(f"Of {len(whole)} slices {len(series.planes)} were taken: {taken}.")
        decisions += [Decision.VOLUME_CHOSEN, *series.decisions]
    else:
        notes.append(f"The series is the one volume that is wanted: {taken}.")
    return series.planes


def _slots(planes: Sequence[Plane]) -> NDArray[np.intp]:
    """Return the number of the position of each plane along the normal of most planes."""
    cosines = np.array([plane.header.ImageOrientationPatient for plane in planes], dtype=float)
    distinct, counts = np.unique(cosines, axis=0, return_counts=True)
    rows, columns = square_directions(distinct[int(np.argmax(counts))][None])
    positions = np.array([plane.header.ImagePositionPatient for plane in planes], dtype=float)
    depth = positions @ np.cross(rows[0], columns[0])
    order = np.argsort(depth, kind="stable")
    slots = np.empty(len(planes), dtype=np.intp)
    steps = np.diff(depth[order], prepend=depth[order[0]])
    slots[order] = np.cumsum(steps >= POSITION_TOLERANCE)
    return slots


def _without_copies(
    planes: Sequence[Plane], slots: dict[int, int], notes: list[str]
) -> list[Plane]:
    """Leave out planes that repeat another one at their position, pixels and all."""
    kept: dict[tuple[object, ...], list[Plane]] = {}
    ordered = sorted(planes, key=lambda plane: (str(plane.instance.SOPInstanceUID), plane.frame))
    for plane in ordered:
        texts = (attribute_text(plane.header, name) for name in TELLING)
        key = (slots[id(plane)], direction(plane.header), *texts)
        alike = kept.setdefault(key, [])
        if not any(same_image(plane, other) for other in alike):
            alike.append(plane)
    distinct = [plane for alike in kept.values() for plane in alike]
    if len(distinct) < len(planes):
        left_out = len(planes) - len(distinct)
        notes.append(f"Repeated slices, of the same place and pixels, left out: {left_out}.")
    return distinct


def _take_type(series: _Chosen, wanted: Wanted) -> None:
    """Take the planes whose type has one of the words."""
    words = {word.strip().upper() for word in wanted.image_types}
    if not words:
        return
    found = [plane for plane in series.planes if words & set(image_words(plane.header))]
    types = {"\\".join(image_words(plane.header)) for plane in series.planes}
    asked = " or ".join(wanted.image_types)
    if not found:
        raise series.absent(
            f"no image has the type {asked}; the types are {_listed(types)}. Change `image_type` "
            "of the role's `volume`."
        )
    series.take(found, f"those of type {asked} of {_listed(types)}")


def _take_echo(series: _Chosen, wanted: Wanted) -> None:
    """Take the planes of an echo."""
    if wanted.echo is None:
        return
    stated = {id(p): number_of(p.header, "EchoNumbers") for p in series.planes}
    times = sorted({t for p in series.planes if (t := _echo_time(p)) is not None})
    if not any(value is not None for value in stated.values()):
        stated = {
            id(p): None if (t := _echo_time(p)) is None else times.index(t) + 1.0
            for p in series.planes
        }
    there = sorted({value for value in stated.values() if value is not None})
    found = [plane for plane in series.planes if stated[id(plane)] == wanted.echo]
    if not found:
        raise series.absent(
            f"it has no echo {wanted.echo}; {_there('echoes', there)}, and "
            f"{_there('echo times in ms', times)}. Change `echo` of the role's `volume`, or give "
            "`echo_time`."
        )
    series.silent += [plane for plane in series.planes if stated[id(plane)] is None]
    series.take(found, f"echo {wanted.echo} of {_listed(there)}")


def _take_echo_time(series: _Chosen, wanted: Wanted) -> None:
    """Take the planes of an echo time."""
    if wanted.echo_time is None:
        return
    times = {id(plane): _echo_time(plane) for plane in series.planes}
    there = sorted({time for time in times.values() if time is not None})
    within = ECHO_TIME_TOLERANCE if wanted.within is None else wanted.within
    fitting = _near(there, wanted.echo_time, within)
    if not fitting:
        raise series.absent(
            f"no image has an echo time of {wanted.echo_time:g} ms; "
            f"{_there('echo times', there)}. Change `echo_time` of the role's `volume`, or give "
            "`within`."
        )
    if len(fitting) > 1:
        raise series.several(
            f"the echo times {_listed(fitting)} all lie within {within:g} ms of "
            f"{wanted.echo_time:g}; make `within` of the role's `volume` smaller."
        )
    found = [plane for plane in series.planes if times[id(plane)] == fitting[0]]
    series.silent += [plane for plane in series.planes if times[id(plane)] is None]
    series.take(found, f"echo time {fitting[0]:g} ms of {_listed(there)}")


def _take_unit(series: _Chosen, wanted: Wanted) -> None:
    """Take the planes of a map in a unit."""
    if wanted.unit is None:
        return
    units = {id(plane): unit_of_map(plane.header) for plane in series.planes}
    found = [plane for plane in series.planes if units[id(plane)] == wanted.unit]
    if not found:
        there = sorted({unit for unit in units.values() if unit})
        raise series.absent(
            f"no image is a map in {wanted.unit}; "
            + (f"they are in {', '.join(there)}" if there else "none states a unit")
            + ". Have the map made in that unit, or change `unit` of the role's `volume`."
        )
    series.take(found, f"a map in {wanted.unit}")


def _take_b_value(series: _Chosen, wanted: Wanted) -> None:
    """Take the planes of a b-value; of several directions their average."""
    if wanted.b_value is None:
        return
    values = {id(plane): b_value(plane.header) for plane in series.planes}
    there = sorted({value for value in values.values() if value is not None})
    unstated = [plane for plane in series.planes if values[id(plane)] is None]
    silent = [plane for plane in unstated if not is_map(plane.header)]
    maps = len(unstated) - len(silent)
    rest = f"; {len(silent)} slices state no b-value" if silent else ""
    within = B_VALUE_TOLERANCE if wanted.within is None else wanted.within
    if not there:
        raise series.absent(
            "no image states a b-value, neither in DiffusionBValue (0018,9087) nor in the private "
            f"elements of its maker, and so none is known to be of {wanted.b_value:g} s/mm²; "
            "export the series with its private elements."
        )
    fitting = _near(there, wanted.b_value, within)
    if not fitting:
        raise series.absent(
            f"no image states a b-value of {wanted.b_value:g} s/mm²; {_there('b-values', there)}"
            f"{rest}. Change `b_value` of the role's `volume`, or give `within`."
        )
    if len(fitting) > 1:
        raise series.several(
            f"the b-values {_listed(fitting)} all lie within {within:g} of {wanted.b_value:g}; "
            "make `within` of the role's `volume` smaller."
        )
    found = [plane for plane in series.planes if values[id(plane)] == fitting[0]]
    left_out = f", without {maps} slices of maps" if maps else ""
    series.silent += silent
    series.take(found, f"b-value {fitting[0]:g} of {_listed(there)}{left_out}{rest}")
    _take_isotropic(series, fitting[0], timed=wanted.time_point is not None)


def _take_isotropic(series: _Chosen, value: float, *, timed: bool) -> None:
    """Take the average of several directions, where one is stated; refuse the directions alone."""
    directions = {direction(plane.header) for plane in series.planes} - {()}
    if not series.repeats():
        return
    isotropic = [plane for plane in series.planes if is_isotropic(plane.header)]
    if isotropic and len(isotropic) < len(series.planes):
        series.take(isotropic, "the isotropic image, of all directions")
        series.decisions.append(Decision.ISOTROPIC_TAKEN)
    elif not isotropic and len(directions) > 1 and not timed:
        raise series.several(
            f"b-value {value:g} has images of {len(directions)} directions and none that is stated "
            "to be their average; have the scanner write the trace image, or take a series that "
            "has it."
        )


def _take_time_point(series: _Chosen, wanted: Wanted) -> None:
    """Take the planes of a time point."""
    if wanted.time_point is None and wanted.seconds is None:
        return
    if series.repeats():
        _check_one_kind(series)
    found = time_points(series.planes, _dense(series.positions(series.planes)))
    if found is None:
        raise series.several(
            "several slices lie at one position, and nothing in the header tells for sure which "
            "make one time point: neither temporal positions nor trigger, frame or acquisition "
            "times; export each time point as a series of its own."
        )
    point = _by_seconds(series, found, wanted) if wanted.seconds is not None else None
    point = point or _by_number(series, found, wanted.time_point)
    start = "" if point.seconds is None or point is found.points[0] else f" at {point.seconds:g} s"
    by = f" by {found.attribute}" if found.attribute else ""
    most = max(len(each.planes) for each in found.points)
    short = [each.number for each in found.points if len(each.planes) < most]
    lacking = f"; time points that lack slices: {_listed(short)}" if short else ""
    lost = f"; by the header {found.lost} more are not there" if found.lost > 0 else ""
    text = f"time point {point.number}{start} of {len(found.points)}{by}{lacking}{lost}"
    series.take(point.planes, text)


def _by_number(series: _Chosen, found: TimePoints, wanted: int | str | None) -> TimePoint:
    """Return the time point of a number, or the first or last."""
    numbered = {point.number: point for point in found.points}
    last = found.points[-1].number
    number = {"first": 1, "last": max(last, found.expected)}.get(str(wanted), wanted)
    if found.lost > 0 and not found.counted:
        raise CaseFault(
            Reason.MISSING_SLICES,
            f"{series.name}: has {len(found.points)} of {found.expected} time points by its "
            "header, and it is not known which are missing; retrieve the series again.",
        )
    point = numbered.get(number) if isinstance(number, int) else None
    if point is None:
        raise series.absent(
            f"it has no time point {number}; {_there('time points', sorted(numbered))}. Change "
            "`time_point` of the role's `volume`, or retrieve what is missing."
        )
    return point


def _by_seconds(series: _Chosen, found: TimePoints, wanted: Wanted) -> TimePoint:
    """Return the time point that began so long after the first one."""
    assert wanted.seconds is not None
    assert wanted.within is not None
    starts = [point.seconds for point in found.points if point.seconds is not None]
    if len(starts) < 2:
        raise series.absent(
            "it has no two time points whose start the header states, so none is known to be "
            f"{wanted.seconds:g} s after the first; give `time_point` in the role's `volume`."
        )
    if found.points[0].number != 1 or (found.lost > 0 and not found.counted):
        raise series.absent(
            "its first time point may not be there, so it is not known what began "
            f"{wanted.seconds:g} s after it; retrieve the series again."
        )
    fitting = _near(starts, wanted.seconds, wanted.within)
    if len(fitting) != 1:
        many = f"{len(fitting)} began" if fitting else "none began"
        text = (
            f"of its time points, at {_listed(starts)} s after the first, {many} within "
            f"{wanted.within:g} s of {wanted.seconds:g} s; change `seconds` or `within` of the "
            "role's `volume`."
        )
        raise series.several(text) if fitting else series.absent(text)
    return next(point for point in found.points if point.seconds == fitting[0])


def _check_one_kind(series: _Chosen) -> None:
    """Refuse time points that are to be chosen from images of several kinds."""
    for name in ONE_KIND:
        values = {_text(plane, name) for plane in series.planes}
        if len(values) > 1:
            raise series.several(
                f"its time points are of several kinds of image: they differ in {name} "
                f"({_listed(values)}); give what is wanted in the role's `volume` beside the time "
                "point, or export each as a series of its own."
            )
    types = {"\\".join(image_words(plane.header)) for plane in series.planes}
    if len(types) > 1:
        raise series.several(
            f"its time points are of several types of image ({_listed(types)}); give `image_type` "
            "in the role's `volume`, too."
        )
    directions = {direction(plane.header) for plane in series.planes}
    if len(directions) > 1:
        raise series.several(
            f"its images are of {len(directions)} directions of the diffusion gradient, which are "
            "no time points; have the scanner write the trace image."
        )


def _check_complete(series: _Chosen, whole: Sequence[Plane]) -> None:
    """Refuse a volume that lacks slices at positions where the series has others."""
    taken = set(series.positions(series.planes).tolist())
    kept = set(map(id, series.planes))
    others = set(series.positions(p for p in whole if id(p) not in kept).tolist())
    # Volumes that lie between one another share no position, and say nothing of each other.
    silent = set(series.positions(series.silent).tolist())
    lacking = len((others if others & taken else silent) - taken)
    if lacking:
        raise CaseFault(
            Reason.MISSING_SLICES,
            f"{series.name}: the volume that is wanted ({'; '.join(series.notes)}) has "
            f"{len(taken)} slices, and lacks {lacking} where others of the series lie; retrieve "
            "the series again.",
        )


def _dense(slots: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return numbers without gaps for the positions of some planes of a series."""
    return np.unique(slots, return_inverse=True)[1].astype(np.intp)


def _echo_time(plane: Plane) -> float | None:
    """Return the echo time of a plane in ms, to two decimals."""
    time = number_of(plane.header, "EffectiveEchoTime")
    time = number_of(plane.header, "EchoTime") if time is None else time
    return None if time is None else round(time, 2)


def _text(plane: Plane, name: str) -> str:
    """Return an attribute as text, numbers as numbers are written."""
    text = attribute_text(plane.header, name)
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def _near(values: Iterable[float], wanted: float, within: float) -> list[float]:
    # A difference of decimals is off by rounding.
    return [value for value in values if abs(value - wanted) <= within + 1e-9]


def _there(what: str, values: Sequence[float]) -> str:
    return f"its {what} are {_listed(values)}" if values else f"it states no {what}"


def _listed(values: Iterable[object]) -> str:
    texts = [f"{v:g}" if isinstance(v, int | float) else str(v) or "nothing" for v in values]
    if not all(isinstance(v, int | float) for v in values):
        texts.sort()
    more = f" and {len(texts) - MOST_SHOWN} more" if len(texts) > MOST_SHOWN else ""
    return ", ".join(texts[:MOST_SHOWN]) + more
