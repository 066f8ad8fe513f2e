"""A cohort, its catalog and a protocol with clinical variables, for tests of their stage."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from federation_world import HERE, protocol
from jipflow.clinical.stage import run
from jipflow.columns import COLUMNS
from jipflow.settings.run import settings_of

TYPES = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "DOUBLE": pa.float64()}

VARIABLES = [
    {
        "name": "weight",
        "type": "number",
        "unit": "kg",
        "range": [20, 300],
        "window": {"before": 30, "after": 7},
        "choose": "nearest",
    },
    {"name": "sex", "type": "category", "values": ["F", "M"]},
    {"name": "dead", "type": "event"},
    {"name": "followed", "type": "days", "range": [0, 20000], "choose": "last"},
]


class Hospital:
    """A site with a case for each PatientID, whose studies are of 2020-06-15.

    Args:
        root: folder of all its files.
        patients: PatientIDs, or pairs of these and a study date as DICOM writes it.
        variables: of the protocol.
    """

    def __init__(self, root: Path, patients, variables=VARIABLES) -> None:
        self.root = root
        self.root.mkdir(parents=True, exist_ok=True)
        self.variables = list(variables)
        self.patients = [p if isinstance(p, tuple) else (p, "20200615") for p in patients]
        self.cases = root / "cases.tsv"
        self.out = root / "clinical"
        self.catalog = root / "catalog"
        self._write_cohort()

    def another_study(self, patient, date):
        """Give a patient's case a series of another study, as where a case is a patient."""
        number = [name for name, _ in self.patients].index(patient)
        path = self.catalog / "series.parquet"
        table = pq.read_table(path)
        row = table.slice(number, 1).to_pylist()[0]
        row |= {"SeriesInstanceUID": "1.9", "StudyInstanceUID": "1.8", "StudyDate": date}
        pq.write_table(pa.concat_tables([table, pa.Table.from_pylist([row], table.schema)]), path)
        with open(self.cases, "a", encoding="utf-8") as stream:
            stream.write(f"case{number:03d}\tpseudo{number:03d}\ts00001\tPT\t1.9\n")

    def _write_cohort(self):
        lines = ["case_id\tpatient\tshard\trole\tseries_uid"]
        rows = []
        for number, (patient, date) in enumerate(self.patients):
            lines.append(f"case{number:03d}\tpseudo{number:03d}\ts00001\tCT\t1.2.{number}")
            known = {
                "SeriesInstanceUID": f"1.2.{number}",
                "StudyInstanceUID": f"1.3.{number}",
                "PatientID": patient,
                "StudyDate": date,
            }
            rows.append({name: known.get(name) for name in COLUMNS})
        self.cases.write_text("\n".join(lines) + "\n")
        self.catalog.mkdir(exist_ok=True)
        schema = pa.schema([(name, TYPES[kind]) for name, kind in COLUMNS.items()])
        pq.write_table(pa.Table.from_pylist(rows, schema), self.catalog / "series.parquet")
        instances = pa.table({"SeriesInstanceUID": pa.array([], pa.string())})
        pq.write_table(instances, self.catalog / "instances.parquet")

    def settings(self, **source):
        site = HERE | {"clinical": source}
        return settings_of(site, protocol(clinical=self.variables))

    def csv(self, text, mapped, link=None, raw=None):
        """Run the stage on the text of a CSV file, or on its bytes."""
        file = self.root / "data.csv"
        file.write_bytes(raw if raw is not None else text.encode())
        source = {"kind": "csv", "file": str(file), "map": self.map(mapped)}
        if link is not None:
            (self.root / "link.csv").write_text(link)
            source["patients"] = str(self.root / "link.csv")
        return self.made(source)

    def map(self, content):
        path = self.root / "clinical.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    def made(self, source):
        """Run the stage; return values and reasons by PatientID and variable."""
        settings = self.settings(**source)
        self.counts = run(
            settings=settings,
            cases=self.cases,
            catalog_dirs=[self.catalog],
            out_dir=self.out,
        )
        of = {f"case{n:03d}": patient for n, (patient, _) in enumerate(self.patients)}
        table = pq.read_table(self.out / "clinical.parquet").to_pylist()
        missing = pq.read_table(self.out / "missing.parquet").to_pylist()
        self.messages = {(of[m["case_id"]], m["variable"]): m["message"] for m in missing}
        names = [variable["name"] for variable in self.variables]
        found = {(of[row["case_id"]], name): row[name] for row in table for name in names}
        gaps = {(of[m["case_id"]], m["variable"]): m["reason"] for m in missing}
        assert {key for key, value in found.items() if value is None} == gaps.keys()
        return found | gaps
