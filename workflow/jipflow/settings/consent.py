"""Consent: what a protocol asks for, and where a site has its list."""

from __future__ import annotations

from typing import Literal

from jipflow.settings.part import LocalPath, Part, Text


class ConsentRule(Part):
    """Only patients who consent, on the day on which the cohort is frozen."""

    scope: Text
    """What they must have consented to, as the sites' lists name it."""
    studies: Literal["any", "during"] = "any"
    """Which of their studies may be used: any, or only those whose study date lies within the days
    of the consent."""


class ConsentList(Part):
    """The list of consents of a site."""

    file: LocalPath
    """CSV file in UTF-8 with the columns PatientID, scope, from and until, a row a consent; dates
    as 2026-01-31, until is empty where none is set."""
