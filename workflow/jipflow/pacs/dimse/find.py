"""C-FIND in the Study Root model (PS3.4 section C.4.1)."""

from __future__ import annotations

from collections.abc import Mapping

from pydicom.dataset import Dataset

from jipflow.pacs.archive import MOST_RESULTS, Rejected, too_many
from jipflow.pacs.dimse.associations import Associations, Purpose
from jipflow.pacs.dimse.messages import FIND, answered_text, category, fault_of, identifier
from jipflow.settings.site import Dimse


class Finder:
    """The query service of a PACS.

    Args:
        source: an entry of ``sources`` of kind ``dimse``, with its defaults.
        associations: those of the source.
    """

    def __init__(self, source: Dimse, associations: Associations) -> None:
        self._source = source
        self._associations = associations

    def rows(self, level: str, keys: Mapping[str, str]) -> list[dict[str, str]]:
        """Return the answers to a query as text.

        Args:
            level: ``STUDY``, ``SERIES`` or ``IMAGE``.
            keys: by DICOM keyword; what is empty is asked for.

        Returns:
            For each answer those of the keys that it has.
        """
        return [
            {key: answered_text(answer, key) for key in keys if key in answer}
            for answer in self.data_sets(level, keys)
        ]

    def data_sets(self, level: str, keys: Mapping[str, str]) -> list[Dataset]:
        """Return the answers to a query; see `rows`.

        Raises:
            ArchiveDown: the PACS does not answer to the end.
            Rejected: it refuses, or an answer cannot be decoded.
        """
        answers: list[Dataset | None] = []
        status = Dataset()
        with self._associations.lend(Purpose(FIND)) as association:
            for status, answer in association.send_c_find(identifier(level, keys), FIND):
                if category(status) == "Pending":
                    answers.append(answer)
                if len(answers) > MOST_RESULTS:
                    raise too_many(self._source.name)
        fault = fault_of(status, f"C-FIND at level {level}", self._source)
        if fault is not None:
            raise fault
        if None in answers:
            raise Rejected(f"source {self._source.name!r}: an answer to C-FIND cannot be decoded.")
        return [answer for answer in answers if answer is not None]
