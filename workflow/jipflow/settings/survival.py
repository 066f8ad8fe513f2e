"""Times and events: what analyses of survival need of the clinical variables that they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from jipflow.settings.clinical import ROLE, ClinicalVariable
from jipflow.settings.names import among


def time_problems(variables: Sequence[str], known: Mapping[str, ClinicalVariable]) -> Iterator[str]:
    """Yield what is wrong with times from the beginning of observation to its end.

    Args:
        variables: ``clinical.<name>``, where * stands for any text.
        known: the protocol's clinical variables by name.
    """
    for variable in variables:
        role, _, name = variable.partition(".")
        if role != ROLE:
            yield f"variable {variable!r} is no time to an event; name a clinical variable."
        for each in known.values() if role == ROLE else ():
            if not fnmatchcase(each.name, name):
                continue
            if each.type not in ("days", "number"):
                yield f"variable {variable!r}: {each.name!r} is of the type {each.type}, no time."
            elif each.range is None or each.range[0] < 0:
                yield (
                    f"variable {variable!r}: a time before the beginning is none; give "
                    f"{each.name!r} a `range` from 0 or more in `clinical`."
                )


def event_problems(variable: str, known: Mapping[str, ClinicalVariable]) -> Iterator[str]:
    """Yield what is wrong with the event that ends the observation.

    Args:
        variable: ``clinical.<name>``.
        known: the protocol's clinical variables by name.
    """
    events = [each.name for each in known.values() if each.type == "event"]
    name = variable.partition(".")[2]
    if name not in events:
        yield f"event: {variable!r} is of no variable of the type event{among(name, events)}"
