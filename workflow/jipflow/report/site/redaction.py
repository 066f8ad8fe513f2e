"""Takes what may identify a patient out of messages before a page shows them."""

from __future__ import annotations

import re
from collections.abc import Iterable

# At least 14 characters tell a UID from a version; those made of a UUID have three parts only.
_UID = re.compile(r"(?<![\w.])(?=[\d.]{14})[0-2](?:\.\d+){2,}(?!\w)")
# An absolute path, which may hold spaces: up to the last separator of the sentence's part and, if
# there is one, the suffix after it. Then relative ones, and bare names of image files.
_ABSOLUTE = re.compile(
    r"""(?<![^\s'"(=:])(?:[A-Za-z]:|~|\.{1,2})?[/\\](?=\S)(?:[^\n'"]*[/\\])?"""
    r"""(?:[^\n'",:;/\\]*?\.\w{1,5}\b|[^\s'",:;]*)"""
)
_RELATIVE = re.compile(r"""[^\s'"]+[/\\](?:[^\s'"]*[/\\][^\s'"]*|[^\s'"]*\.\w{1,5}\b)""")
_IMAGE_FILE = re.compile(r"""[^\s'"]+\.(?:dcm|ima|dicom)\b""", re.IGNORECASE)
_WORD = re.compile(r"""[^\s'":;,()]+""")


class Redactor:
    """Takes out of a message what may identify a patient: paths, UIDs and PatientIDs.

    Messages are written for the log and the outcomes' table, which name files by their path in
    the archive; names of folders and files there often hold a patient's name.

    Args:
        patient_ids: the identifiers in the site's catalog; those shorter than four characters are
            left alone, since they cannot be distinguished from counts.
    """

    def __init__(self, patient_ids: Iterable[str]) -> None:
        self._ids = {identifier for identifier in patient_ids if len(identifier) >= 4}

    def __call__(self, text: str) -> str:
        """Return the text with ``‹path›``, ``‹UID›`` and ``‹patient›`` in place of these."""
        for pattern in (_ABSOLUTE, _RELATIVE, _IMAGE_FILE):
            text = pattern.sub("‹path›", text)
        text = _UID.sub("‹UID›", text)
        return _WORD.sub(
            lambda word: "‹patient›" if word[0].rstrip(".") in self._ids else word[0], text
        )
