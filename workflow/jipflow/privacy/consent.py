"""The list of consents of a site: who has consented to what, and when.

No message and no log names a patient: they name the file and its rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from jipflow.files import canonical_digest
from jipflow.privacy.pseudonyms import one_form
from jipflow.reasons import StageError
from jipflow.rows import read_rows
from jipflow.settings.consent import ConsentRule

COLUMNS = ("PatientID", "scope", "from", "until")


@dataclass(frozen=True, order=True)
class Days:
    """The days of a consent.

    Attributes:
        first: its first day.
        last: its last day; None where none is set.
    """

    first: date
    last: date | None = None

    def __contains__(self, day: date) -> bool:
        """Whether a day is one of them."""
        return self.first <= day and (self.last is None or day <= self.last)


Consents = Mapping[str, Sequence[Days]]
"""By PatientID, the days of each consent to one scope."""


def read_consents(path: Path, scope: str) -> dict[str, list[Days]]:
    """Read the consents to a scope.

    Every row is checked, those of other scopes too.

    Args:
        path: the list, as `jipflow.settings.consent.ConsentList` has it.
        scope: what was consented to.

    Returns:
        By PatientID, without blanks around it, the days of each consent to the scope, sorted.

    Raises:
        StageError: the file is no such list, has no row, or rows of a patient contradict each
            other; names the file and the rows.
        OSError: it cannot be read.
    """
    found: dict[tuple[str, str], dict[Days, int]] = defaultdict(dict)
    number = 1
    needed = dict.fromkeys(COLUMNS, "consent.file")
    for number, (row, more) in enumerate(read_rows(path, needed), start=2):
        if more:
            raise StageError(f"{path}: row {number} has another number of cells; fix it.")
        patient, named, first, last = (one_form(row[name]) for name in COLUMNS)
        if not patient or not named:
            empty = "PatientID" if not patient else "scope"
            raise StageError(f"{path}: row {number} has no {empty}; fix it.")
        days = Days(_date(path, number, "from", first), _last(path, number, last))
        if days.last is not None and days.last < days.first:
            raise StageError(f"{path}: row {number} ends before it begins; fix it.")
        for other, row_of in found[patient, named].items():
            if other != days and _overlap(other, days):
                raise StageError(
                    f"{path}: rows {row_of} and {number} are of one patient and scope, and their "
                    "days overlap, so that it is not known which holds. Keep one: a withdrawal is "
                    "the last day (until) of the row that it ends."
                )
        found[patient, named].setdefault(days, number)
    if not found:
        raise StageError(
            f"{path} has no row, as if nobody had ever consented to anything; export it again."
        )
    return {
        patient: sorted(days, key=lambda d: d.first)
        for (patient, s), days in found.items()
        if s == scope
    }


def allows(
    consents: Consents, patient: str, study: date | None, rule: ConsentRule, today: date
) -> bool:
    """Return whether a study of a patient may be used.

    Args:
        consents: to the rule's scope.
        patient: PatientID; nothing is known of one who has none.
        study: date of the study; None where it has none that can be read.
        rule: the protocol's.
        today: the day on which the cohort is frozen.
    """
    held = [days for days in consents.get(one_form(patient), ()) if today in days]
    if rule.studies == "any":
        return bool(held)
    return study is not None and any(study in days for days in held)


def consent_state(path: Path, rule: ConsentRule, today: date) -> str:
    """Return a hash that is another one when others consent, or on other days.

    It is empty where the list cannot be used, so that the job which reads it runs and says why.
    """
    try:
        consents = read_consents(path, rule.scope)
    except (StageError, OSError):
        return ""
    held = sorted(
        [patient, each.first.isoformat(), each.last.isoformat() if each.last else ""]
        for patient, days in consents.items()
        for each in days
        if today in each
    )
    return canonical_digest(held)


def _overlap(one: Days, other: Days) -> bool:
    return one.first in other or other.first in one


def _last(path: Path, number: int, text: str) -> date | None:
    return _date(path, number, "until", text) if text else None


def _date(path: Path, number: int, column: str, text: str) -> date:
    """Return a date as ISO 8601 writes it in full; no other form says which is day and month."""
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.isoformat() != text:
        raise StageError(
            f"{path}: row {number}: {column} is no date such as 2026-01-31; fix it. Nobody was "
            "left out."
        )
    return found
