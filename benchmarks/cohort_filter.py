"""Cohort filters over a million series: seconds and memory of each, and of a wide cohort."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import duckdb
import idc_index_data

from report import measure, write_result

LIMIT_SECONDS, LIMIT_MB = 2.0, 2048

FILTERS: tuple[tuple[str, str, str], ...] = (
    ("equality", "Modality = 'CT'", ""),
    ("all series", "true", ""),
    ("none", "Modality = 'XX'", ""),
    ("list", "Modality IN ('CT', 'PT') AND BodyPartExamined IN ('CHEST', 'LUNG', 'THORAX')", ""),
    ("LIKE", "SeriesDescription LIKE '%thin%' OR SeriesDescription ILIKE '%lung%'", ""),
    (
        "regular expression",
        r"regexp_matches(SeriesDescription, '(?i)\b(t1|mprage|bravo)\b.*(post|gad|\+c)')",
        "",
    ),
    ("dates", "try_strptime(StudyDate, '%Y%m%d') BETWEEN DATE '2005-01-01' AND '2010-12-31'", ""),
    ("numbers", "SliceThickness <= 3 AND PixelSpacingRow < 1 AND NumberOfInstances >= 40", ""),
    (
        "arithmetic",
        "SliceThickness * NumberOfInstances > 200 AND"
        " abs(PixelSpacingRow - PixelSpacingColumn) < 1e-6",
        "",
    ),
    (
        "many alternatives",
        " OR ".join(
            f"(Modality = '{m}' AND lower(Manufacturer) LIKE '%{v}%' AND SliceThickness < {t})"
            for m in ("CT", "MR", "PT", "SEG")
            for v in ("siemens", "ge", "philips", "toshiba", "canon")
            for t in (2, 5)
        ),
        "",
    ),
    (
        "text taken apart",
        "list_contains(string_split(ImageType, '\\'), 'PRIMARY') AND"
        " TRY_CAST(regexp_extract(PatientAge, '(\\d+)Y', 1) AS INTEGER) BETWEEN 40 AND 70",
        "",
    ),
    (
        "patients with two modalities",
        "PatientID IN (SELECT PatientID FROM catalog WHERE Modality IN ('CT', 'PT')"
        " GROUP BY PatientID HAVING count(DISTINCT Modality) = 2)",
        "",
    ),
    ("preferred: thin and many", "Modality = 'CT'", "SliceThickness, NumberOfInstances DESC"),
    (
        "preferred by window",
        "Modality IN ('CT', 'MR')",
        "row_number() OVER (PARTITION BY StudyInstanceUID ORDER BY NumberOfInstances DESC)",
    ),
)
"""Name, condition and order; those that the guide shows, and worse."""

SELECT = """
import json, sys, time
from pathlib import Path
from jipflow.catalog.query import open_catalogs
from jipflow.expressions import select_series
start = time.perf_counter()
order = sys.argv[4] or "SeriesInstanceUID"
with open_catalogs([Path(sys.argv[1])], Path(sys.argv[2])) as connection:
    found = select_series(connection, sys.argv[3], order)
print(json.dumps([len(found), time.perf_counter() - start]))
"""

COHORT = """
import json, sys
from pathlib import Path
from jipflow.catalog.cohort import run
from jipflow.settings.protocol import Cohort
from jipflow.settings.run import load_settings
from jipflow.settings.schema import load
out, size = Path(sys.argv[2]), int(sys.argv[4])
settings = load_settings({
    "site": {"id": "bench", "name": "Bench"},
    "sources": [{"name": "a", "kind": "folder", "path": sys.argv[1]}],
    "identity": {"secret_file": str(out / "secret" / "identity.key")},
    "protocol": "sarcoma-ct",
})
role = {"where": "true", "prefer": "NumberOfInstances DESC", "required": True}
cohort = {"where": [sys.argv[3]], "case": {"by": "study", "roles": {"image": role}}}
chosen = load(Cohort, cohort, "cohort")
protocol = settings.protocol.model_copy(update={"cohort": chosen})
settings = settings.model_copy(update={"protocol": protocol})
cohort = out / f"cohort-{size}"
run(settings=settings, catalog_dirs=[Path(sys.argv[1])], out_dir=cohort, results=out)
"""


def build(folder: Path) -> tuple[int, int]:
    """Write a catalog of the series of NCI Imaging Data Commons, as its index has them.

    Columns that the index lacks (spacing, thickness, matrix and such) are filled by a hash of the
    UID, so that filters on them have values to work on.

    Returns:
        The number of series, and of listed instances.
    """
    index = idc_index_data.IDC_INDEX_PARQUET_FILEPATH
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(":memory:", config={"memory_limit": "4GB"}) as connection:
        connection.execute(
            f"""CREATE TABLE series AS SELECT
            SeriesInstanceUID, StudyInstanceUID, PatientID, Modality, SOPClassUID,
            '1.2.3.' || h % 1000000 AS FrameOfReferenceUID,
            TRY_CAST(SeriesNumber AS BIGINT) AS SeriesNumber,
            coalesce(SeriesDescription, '') AS SeriesDescription,
            coalesce(StudyDescription, '') AS StudyDescription,
            'protocol ' || h % 500 AS ProtocolName,
            coalesce(BodyPartExamined, '') AS BodyPartExamined,
            CASE h % 3 WHEN 0 THEN 'DERIVED\\SECONDARY' ELSE 'ORIGINAL\\PRIMARY\\AXIAL' END
                AS ImageType,
            coalesce(strftime(TRY_CAST(StudyDate AS DATE), '%Y%m%d'), '') AS StudyDate,
            coalesce(strftime(TRY_CAST(SeriesDate AS DATE), '%Y%m%d'), '') AS SeriesDate,
            printf('%06d', h % 86400) AS SeriesTime,
            coalesce(PatientSex, '') AS PatientSex, coalesce(PatientAge, '') AS PatientAge,
            coalesce(Manufacturer, '') AS Manufacturer,
            coalesce(ManufacturerModelName, '') AS ManufacturerModelName,
            'v' || h % 40 AS SoftwareVersions, 'Hospital ' || h % 60 AS InstitutionName,
            'station' || h % 300 AS StationName,
            CASE WHEN Modality = 'MR' THEN [1.5, 3.0][1 + h % 2] END AS MagneticFieldStrength,
            CASE WHEN Modality = 'CT' THEN [80.0, 100.0, 120.0][1 + h % 3] END AS KVP,
            'B' || h % 70 AS ConvolutionKernel, '' AS ContrastBolusAgent,
            '' AS ScanningSequence, (h % 5000)::DOUBLE AS RepetitionTime,
            (h % 120)::DOUBLE AS EchoTime, '' AS Units, '' AS CorrectedImage,
            'NO' AS BurnedInAnnotation, (1 + h % 12) / 2.0 AS SliceThickness,
            (1 + h % 12) / 2.0 AS SpacingBetweenSlices,
            (400 + h % 800) / 1000.0 AS PixelSpacingRow,
            (400 + h % 800) / 1000.0 AS PixelSpacingColumn,
            512 AS Rows, 512 AS Columns, 16 AS BitsStored, TransferSyntaxUID,
            instanceCount AS NumberOfInstances, 'archive' AS Source
            FROM (SELECT *, (hash(SeriesInstanceUID) // 1024)::BIGINT AS h FROM '{index}')
            ORDER BY SeriesInstanceUID"""
        )
        connection.execute(
            f"COPY series TO '{folder}/series.parquet' (FORMAT parquet, COMPRESSION zstd)"
        )
        connection.execute(
            f"""COPY (SELECT SeriesInstanceUID || '.' || i AS SOPInstanceUID, SeriesInstanceUID,
            '/archive/' || SeriesInstanceUID || '/' || i || '.dcm' AS path, 500000 AS bytes,
            1700000000000000000 + i AS modified_ns, 'archive' AS Source
            FROM series, range(least(NumberOfInstances, 3)) AS r(i))
            TO '{folder}/instances.parquet' (FORMAT parquet, COMPRESSION zstd)"""
        )
        counts = connection.execute(
            f"SELECT (SELECT count(*) FROM series), count(*) FROM '{folder}/instances.parquet'"
        ).fetchone()
    assert counts is not None
    return counts[0], counts[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    rows: list[list[str | int | float | None]] = []
    wide: list[list[str | int | float | None]] = []
    with tempfile.TemporaryDirectory() as name:
        catalog, spill = Path(name) / "catalog", Path(name) / "spill"
        series, instances = build(catalog)
        for label, where, order in FILTERS:
            cost = measure([sys.executable, "-c", SELECT, str(catalog), str(spill), where, order])
            found, seconds = json.loads(cost.output)
            kept = cost.seconds < LIMIT_SECONDS and cost.peak_mb < LIMIT_MB
            rows.append(
                [
                    label,
                    found,
                    seconds,
                    cost.seconds,
                    cost.processor_seconds,
                    cost.peak_mb,
                    "yes" if kept else "no",
                ]
            )
            print(label, rows[-1], flush=True)
        for label, where in (
            ("CT of the chest", "Modality = 'CT' AND BodyPartExamined ILIKE '%chest%'"),
            ("every CT and MR", "Modality IN ('CT', 'MR')"),
        ):
            for again in ("first", "again"):
                cost = measure(
                    [sys.executable, "-c", COHORT, str(catalog), name, where, str(len(where))]
                )
                folder = Path(name) / f"cohort-{len(where)}"
                cases = (folder / "cases.tsv").read_bytes().count(b"\n") - 1
                shards = sum(1 for _ in (folder / "shards").iterdir())
                wide.append(
                    [
                        label,
                        again,
                        cases,
                        shards,
                        cost.seconds,
                        cost.processor_seconds,
                        cost.peak_mb,
                    ]
                )
                print(wide[-1], flush=True)
    note = (
        f"The index of NCI Imaging Data Commons (idc-index-data): {series:,} real series. Columns "
        "that it lacks, such as spacing and thickness, are filled by a hash of the UID."
    )
    write_result(
        "cohort_filter",
        "Cohort filters over a million series",
        [
            "filter",
            "series found",
            "filter s",
            "process s",
            "CPU s",
            "peak MiB",
            "below 2 s and 2 GiB",
        ],
        rows,
        packages=["duckdb", "pyarrow", "idc-index-data"],
        notes=[
            note,
            "Each filter in a process of its own: `open_catalogs`, then `select_series`; the "
            "process's time includes the start of Python.",
        ],
    )
    write_result(
        "cohort_wide",
        "The stage `cohort` on wide cohorts",
        ["cohort", "run", "cases", "shards", "process s", "CPU s", "peak MiB"],
        wide,
        packages=["duckdb", "pyarrow", "idc-index-data"],
        notes=[note, f"{instances:,} instances are listed, at most three a series."],
    )


if __name__ == "__main__":
    main()
