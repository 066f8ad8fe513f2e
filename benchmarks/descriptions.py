"""How much of real series descriptions is left when they are cleaned for an export."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from jipflow.privacy.profile import vocabulary
from jipflow.privacy.text import Identifiers, TextCleaner
from report import Cell, write_result

MOST_FREQUENT = 15_000
SAMPLE = Path(__file__).parents[1] / "tests" / "unit" / "descriptions.tsv"
"""The first of them, of which a test counts what is kept."""
IN_SAMPLE = 500
MODALITIES = ("CT", "MR", "PT", "RTSTRUCT")
DAYS = 1000
"""By which dates go back; it does not matter to what is counted."""
WORD = re.compile(r"[^\W_]+")


def descriptions() -> list[tuple[str, str, int]]:
    """Return modality, description and number of series, the most frequent ones first."""
    import duckdb
    import idc_index_data

    index = str(idc_index_data.IDC_INDEX_PARQUET_FILEPATH)
    return duckdb.execute(
        "WITH most AS ("
        "  SELECT SeriesDescription, count(*) AS series FROM read_parquet($index)"
        "  WHERE Modality IN $modalities AND trim(SeriesDescription) <> ''"
        "  GROUP BY ALL ORDER BY series DESC, SeriesDescription LIMIT $most"
        ") SELECT Modality, SeriesDescription, count(*) FROM read_parquet($index)"
        " JOIN most USING (SeriesDescription) WHERE Modality IN $modalities"
        " GROUP BY ALL ORDER BY 3 DESC, 2, 1",
        {"index": index, "modalities": list(MODALITIES), "most": MOST_FREQUENT},
    ).fetchall()


def sample() -> list[tuple[str, str, int]]:
    """Return what `SAMPLE` holds."""
    with open(SAMPLE, encoding="utf-8", newline="") as stream:
        return [(m, text, int(n)) for m, text, n in csv.reader(stream, delimiter="\t")]


def row(name: str, counts: list[int]) -> list[Cell]:
    """Return the row of the table of what `kept` counted."""
    series, whole, words, stay = counts
    return [name, series, f"{100 * stay / words:.1f}", f"{100 * whole / series:.1f}"]


def kept(
    rows: list[tuple[str, str, int]],
) -> tuple[dict[str, list[int]], Counter[str]]:
    """Return what is kept of descriptions, by modality, and which words are not.

    Args:
        rows: as `descriptions` gives them.

    Returns:
        Series, those of a description that stays whole, words, and words that stay; and how many
        series have each word that goes.
    """
    cleaner = TextCleaner(Identifiers(), DAYS, vocabulary())
    counts: dict[str, list[int]] = {modality: [0] * 4 for modality in (*MODALITIES, "all")}
    lost: Counter[str] = Counter()
    for modality, text, series in rows:
        left = cleaner.description(text)
        before, after = Counter(WORD.findall(text)), Counter(WORD.findall(left))
        whole = left.split() == text.split()
        for name in (modality, "all"):
            numbers = (1, whole, before.total(), (before & after).total())
            counts[name] = [n + series * k for n, k in zip(counts[name], numbers, strict=True)]
        for word, number in (before - after).items():
            lost[word.lower()] += series * number
    return counts, lost


def main() -> None:
    """Count, write the table and print the words that are lost most often."""
    found = descriptions()
    with open(SAMPLE, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter="\t", lineterminator="\n").writerows(found[:IN_SAMPLE])
    counts, lost = kept(found)
    rows = [row(name, numbers) for name, numbers in counts.items()]
    rows.append(row(f"the {IN_SAMPLE} most frequent", kept(sample())[0]["all"]))
    print(*(f"{number:8} {word}" for word, number in lost.most_common(120)), sep="\n")
    write_result(
        "descriptions",
        "Words of series descriptions that an export keeps",
        ["modality", "series", "words kept (%)", "descriptions kept whole (%)"],
        rows,
        packages=["idc-index-data"],
        notes=[
            f"The {MOST_FREQUENT:,} most frequent series descriptions of CT, MR, PET and RTSTRUCT "
            "in the Imaging Data Commons, counted by series; a word is a run of letters and "
            "digits, and a date that moves is three words that go. No identifier is known, so "
            "that the vocabulary and the rules for dates and ages alone are measured.",
        ],
    )


if __name__ == "__main__":
    main()
