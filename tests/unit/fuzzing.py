"""What a site and a hub accept from outside, each as a function of bytes that ends well whatever
the bytes are: with a result, or with the refusal that its readers turn into a reason.

`mutated` damages a sound file; `benchmarks/fuzz.py` has atheris choose bytes by what they reach.
"""

from __future__ import annotations

import gzip
import io
import random
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
import yaml

import typed
from config_files import demo_protocol, site_of
from jipflow.cases import Series
from jipflow.catalog.headers import read_header
from jipflow.clinical.table import read_table
from jipflow.exchange.envelope import opened
from jipflow.exchange.keys import load_or_create_key, public_text
from jipflow.exchange.refusals import Refused
from jipflow.hub.settings import load_hub_settings
from jipflow.images.series import read_series_volume
from jipflow.models.checkpoints import read_checkpoint
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.privacy.consent import read_consents
from jipflow.reasons import CaseFault, StageError
from jipflow.segment.containers.contract import Parcel, read_result
from jipflow.segment.engines.imported.engine import import_regions, target_of
from jipflow.settings.clinical import CsvMap
from jipflow.settings.resources import ConfigError, read_mapping
from jipflow.settings.run import load_settings
from seg_archive import NODE, TUMOUR, Archive, stacked
from series_factory import ct_datasets, write

GRID = PhantomGrid((4, 10, 12), (3.0, 2.0, 2.0), (-10.0, -12.0, 5.0))
EDGES = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
"""Numbers that readers of lengths and counts go wrong at."""
WORDS = (
    b"nan",
    b"-inf",
    b"1e999",
    b"-1",
    b"\\",
    b"\0",
    b"\xff\xfe",
    b"../",
    b"'",
    b'"',
    b"{",
    b"*a",
)

Target = Callable[[bytes], None]

CONSENT = b"PatientID,scope,from,until\n1,research,2020-01-31,\n2,research,2021-02-01,2023-04-05\n"


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return a file with one to four changes, as disks, senders and attackers make them."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data) + 1)
        length = chance.choice((1, 2, 4, 8, 64, 1024))
        kind = chance.randrange(7)
        if kind == 0:
            data[place : place + length] = chance.randbytes(length)
        elif kind == 1:
            del data[place : place + length]
        elif kind == 2:
            begin = chance.randrange(len(data) + 1)
            data[place:place] = data[begin : begin + length]
        elif kind == 3:
            form = chance.choice(("<H", "<I", ">I"))
            number = chance.choice(EDGES) & (0xFFFF if form == "<H" else 0xFFFFFFFF)
            data[place : place + struct.calcsize(form)] = struct.pack(form, number)
        elif kind == 4:
            word = chance.choice(WORDS)
            data[place : place + len(word)] = word
        elif kind == 5 and place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 6 and chance.random() < 0.2:
            del data[place:]
    return bytes(data)


class World:
    """A patient's files, and the targets that read damaged ones in their place.

    Args:
        folder: gets the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "fuzzed"
        images = dicom.ct_series(np.zeros(GRID.shape, np.int16), GRID)
        self.paths = write(images, folder / "ct")
        self.series = Series(str(images[0].SeriesInstanceUID), "CT", tuple(self.paths))
        mask = np.zeros(GRID.shape, bool)
        mask[1:3, 3:7, 4:9] = True
        structure = dicom.to_bytes(dicom.rtstruct({"GTV": mask}, GRID, images))
        self.target = target_of("case1", self.series, read_series_volume(self.series).grid)
        labels = gzip.compress(self._label_map(mask), mtime=0)
        protocol = yaml.safe_dump(demo_protocol()).encode()
        self.seeds: dict[str, tuple[bytes, Target]] = {
            "header": (dicom.to_bytes(ct_datasets()[0]), self.header),
            "image": (self.paths[1].read_bytes(), self.image),
            "rtstruct": (structure, self.rtstruct),
            "nifti": (gzip.decompress(labels), self.nifti),
            "gzip": (labels, self.zipped_nifti),
            "table": (b"id;born;sex\n1;1950-02-28;f\n2;1961-11-03;m\n", self.table),
            "protocol": (protocol, self.protocol),
            "site": (yaml.safe_dump(site_of(folder)).encode(), self.site),
            "hub": (yaml.safe_dump(self._hub()).encode(), self.hub),
            "consent": (CONSENT, self.consent),
            "seg": (self._segmentation(), self.seg),
            "checkpoint": (self._checkpoint(), self.checkpoint),
        }

    def _label_map(self, mask: np.ndarray) -> bytes:
        grid = self.target.grid
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine[:, [2, 1, 0, 3]]
        image = nibabel.Nifti1Image(mask.T.astype(np.uint8), affine)
        return bytes(image.to_bytes())

    def _hub(self) -> dict[str, object]:
        keys = (public_text(load_or_create_key(self.folder / f"{n}.key")) for n in range(3))
        roster = [
            {"site": f"site{n}", "key": key, "approvers": [{"name": "Ada Roe", "key": key}]}
            for n, key in enumerate(keys)
        ]
        names = {name: str(self.folder / name) for name in ("inbox", "outbox", "results")}
        return {"hub": {"id": "hub", "name": "Hub"}, "protocol": "demo", "roster": roster} | names

    def _segmentation(self) -> bytes:
        self.drawn = Archive(self.folder / "drawn")
        seg = self.drawn.seg(stacked(TUMOUR, NODE))
        return self.drawn.write(seg).read_bytes()

    @staticmethod
    def _checkpoint() -> bytes:
        content = {
            "network_weights": {"layer.weight": torch.zeros(4, 3)},
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "3d_fullres", "fold": 0},
            "logging": {"mean_fg_dice": [np.float64(0.5)]},
        }
        stream = io.BytesIO()
        torch.save(content, stream)
        return stream.getvalue()

    def header(self, content: bytes) -> None:
        """A file below a source of the catalog: a row, whatever it is."""
        self.file.write_bytes(content)
        row = read_header(str(self.file))
        assert row.get("kind") in {None, "", "not_dicom", "unreadable"}, row

    def image(self, content: bytes) -> None:
        """A slice of a series."""
        self.paths[1].write_bytes(content)
        with refused(CaseFault):
            volume = read_series_volume(self.series)
            assert np.isfinite(volume.array).all()

    def rtstruct(self, content: bytes) -> None:
        """Contours of the archive."""
        self.file.write_bytes(content)
        segments = [{"name": "gtv", "match": "GTV.*", "term": "lesion", "required": True}]
        spec = {"id": "gtv", "engine": "imported", "from": "RTSTRUCT", "role": "CT"}
        with refused(CaseFault):
            wanted = typed.segmentation(spec | {"segments": segments})
            list(import_regions([self.file], wanted, self.target, []))

    def seg(self, content: bytes) -> None:
        """Masks of the archive."""
        self.file.write_bytes(content)
        with refused(CaseFault):
            self.drawn.regions(self.file)

    def checkpoint(self, content: bytes) -> None:
        """Weights of a model."""
        self.file.write_bytes(content)
        with refused(StageError):
            read_checkpoint(self.file)

    def nifti(self, content: bytes) -> None:
        """What an algorithm in a container leaves."""
        self.zipped_nifti(gzip.compress(content, 1, mtime=0))

    def zipped_nifti(self, content: bytes) -> None:
        self.file.write_bytes(content)
        grid = self.target.grid
        parcel = Parcel("case", grid, {"segmentation": self.file.name, "error": "error.txt"})
        with refused(CaseFault):
            read_result(self.folder, parcel, {1}, "case1")

    def table(self, content: bytes) -> None:
        """Clinical data in a CSV file."""
        self.file.write_bytes(content)
        variables = {"sex": {"value": "sex"}, "born": {"date": "born"}}
        mapped = CsvMap.model_validate({"patient": "id", "separator": ";", "variables": variables})
        with refused(StageError):
            read_table(self.file, mapped, ["sex", "born"], lambda patient: True)

    def protocol(self, content: bytes) -> None:
        """A protocol of a hub."""
        path = self.folder / "fuzzed.yaml"
        path.write_bytes(content)
        with refused(ConfigError):
            load_settings({**site_of(self.folder), "protocol": str(path)})

    def site(self, content: bytes) -> None:
        """What a person writes of a site."""
        self._configuration(content, load_settings)

    def hub(self, content: bytes) -> None:
        """What a person writes of a hub."""
        self._configuration(content, load_hub_settings)

    def _configuration(self, content: bytes, load: Callable[[Any], object]) -> None:
        path = self.folder / "configuration.yaml"
        path.write_bytes(content)
        with refused(ConfigError):
            load(read_mapping(path))

    def consent(self, content: bytes) -> None:
        """A site's list of consents."""
        self.file.write_bytes(content)
        with refused(StageError):
            read_consents(self.file, "research")

    def message(self, content: bytes) -> None:
        """A message, unsealed."""
        with refused(Refused):
            opened(content, None, ["release"])


@contextmanager
def refused(*refusals: type[Exception]) -> Iterator[None]:
    """Let the refusals of a reader end the block; warnings of parsers say nothing here."""
    with warnings.catch_warnings(), suppress(*refusals):
        warnings.simplefilter("ignore")
        yield
