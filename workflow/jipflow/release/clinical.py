"""The clinical variables of a cohort, as analyses read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jipflow.analyses.cells import CLINICAL, Scanners
from jipflow.files import read_frame
from jipflow.release.contents import ReleaseError
from jipflow.settings.clinical import ROLE
from jipflow.settings.protocol import Protocol
from jipflow.tables import CLINICAL_KEYS, FEATURE_KEYS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Clinical:
    """The clinical variables of a cohort's cases.

    Attributes:
        rows: rows as of ``features.parquet`` at the place `CLINICAL`, with a column a variable; a
            category's number is the position of its value in the protocol's `values`, from 0.
        texts: by case and the role ``clinical``, the values of its categories by
            ``clinical.<name>``.
    """

    rows: pd.DataFrame
    texts: Scanners


def read_clinical(path: Path, protocol: Protocol, patient_of: Mapping[str, str]) -> Clinical:
    """Read what the stage ``clinical`` wrote, and check that it is of the cohort.

    Args:
        path: ``clinical.parquet``.
        protocol: that the variables are of.
        patient_of: the patient of each case of the cohort.

    Raises:
        ReleaseError: it is of other cases, patients or variables; names the file and the case.
    """
    table = read_frame(path)
    names = [variable.name for variable in protocol.clinical_variables]
    if list(table.columns) != [*CLINICAL_KEYS, *names]:
        raise ReleaseError(f"{path}: it has other variables than the protocol; run clinical again.")
    if dict(zip(table["case_id"], table["patient"], strict=True)) != dict(patient_of):
        raise ReleaseError(
            f"{path}: it has other cases or patients than the cohort; run clinical again."
        )
    table = table.sort_values("case_id", ignore_index=True)
    categories = [v for v in protocol.clinical_variables if v.values is not None]
    texts: dict[tuple[str, str], dict[str, str]] = {}
    for record in table.to_dict("records"):
        texts[record["case_id"], ROLE] = {
            f"{ROLE}.{variable.name}": record[variable.name]
            for variable in categories
            if isinstance(record[variable.name], str)
        }
    for variable in categories:
        positions = {value: float(i) for i, value in enumerate(variable.values or [])}
        table[variable.name] = table[variable.name].map(positions).astype("float64")
    place = dict(zip(("role", "segmentation", "segment"), CLINICAL, strict=True))
    return Clinical(table.assign(**place)[[*FEATURE_KEYS, *names]], texts)
