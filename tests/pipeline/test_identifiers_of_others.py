"""What a PACS answers and an algorithm in a container prints names nobody in a file of a run."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
import yaml

from container_images import layer_of, write_archive, write_registry
from harness import ONE_CORE, Site, contours_only, make_site
from identifiers import PEOPLE, tokens
from orthanc import Orthanc, private_network
from test_identifiers import check

pytestmark = pytest.mark.long

SAYS = "; ".join(f"{key} of this patient is {text}" for one in PEOPLE for key, text in one.items())
"""What no program of others should say, and may."""

LUA = """
local says = [[%s]]
function IncomingHttpRequestFilter(method, uri, ip, username, headers)
  local of_series = '/series/%s'
  local whole, one = of_series .. '$', of_series .. '/instances/[%%d.]+$'
  if method == 'GET' and (string.match(uri, whole) or string.match(uri, one)) then
    error(says)
  end
  return true
end
function ReceivedInstanceFilter(dicom, origin)
  if dicom.Modality == 'SEG' then
    error('refused: ' .. dicom.PatientName .. ' ' .. dicom.PatientID .. ', ' .. says)
  end
  return true
end
"""
"""Of an Orthanc whose errors, which it answers with and logs, name patients."""

PROGRAM = """
#include <stdio.h>
int main() {
    const char *says = "%s";
    printf("%%s\\n", says);
    fprintf(stderr, "error: %%s\\n", says);
    return 3;
}
"""


@contextmanager
def processes(folder: Path) -> Iterator[set[str]]:
    """Gather what any account can see of the processes of a run, and what its own can: command
    lines and environments."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    words = (process / "cmdline").read_bytes()
                    if str(folder).encode() in words and b"pytest" not in words.split(b"\0")[:4]:
                        both = words + b"\0" + (process / "environ").read_bytes()
                        seen.add(both.replace(b"\0", b" ").decode(errors="replace"))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()


def image(folder: Path) -> Path:
    """An image of one program, which has no other file."""
    source = folder / "says.c"
    source.write_text(PROGRAM % SAYS.replace('"', '\\"'), encoding="utf-8")
    subprocess.run(["gcc", "-static", "-o", folder / "says", source], check=True)
    layer = layer_of({"says": (folder / "says").read_bytes()})
    path = folder / "model" / "says" / "image.tar"
    path.parent.mkdir(parents=True)
    return write_archive(path, [layer], ["/says"], ["PATH=/"])


def protocol(registry: Path) -> dict:
    """The contours' protocol with an algorithm of which nothing comes."""
    made = contours_only()
    made["segmentations"].append(
        {
            "id": "says",
            "engine": "container",
            "model": "says",
            "role": "PT",
            "segments": [{"name": "lesion", "label": "lesion", "term": "liver"}],
        }
    )
    made["tolerance"] = {"max_failed_fraction": 1.0}
    return made


@pytest.fixture(scope="module")
def run(two_patients: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A run of two patients of a PACS, one of whom it does not give, with such an algorithm."""
    folder = tmp_path_factory.mktemp("others")
    registry = write_registry(folder / "model", "says", image(folder), {"lesion": 1})
    registry.write_text(registry.read_text().replace("- CT", "- PT"))
    (folder / "contours.yaml").write_text(yaml.safe_dump(protocol(registry)))
    files = sorted(path for path in two_patients.rglob("*.dcm"))
    image_file = next(path for path in reversed(files) if path.name.startswith("PT "))
    kept = str(pydicom.dcmread(image_file, stop_before_pixels=True).SeriesInstanceUID)
    (folder / "says.lua").write_text(LUA % (SAYS, kept.replace(".", "%.")), encoding="utf-8")
    with private_network():
        pacs = Orthanc(folder / "pacs", options={"LuaScripts": [str(folder / "says.lua")]})
        with pacs:
            pacs.upload(files)
            site = make_site(
                folder,
                "site",
                "contours",
                [{"name": "pacs", "kind": "dicomweb", "url": pacs.url}],
                publish={"to": "pacs"},
                models={"registry": str(registry)},
                containers={"runtime": "charliecloud", "minutes": 1, "memory_gb": None},
                processing={"shard_size": 2, "device": "cpu"},
            )
            site = replace(site, protocol_file=folder / "contours.yaml")
            with processes(folder) as seen:
                done = site.run(*ONE_CORE)
            (folder / "printed.txt").write_text("\n".join([done.stdout, *seen]))
            yield site


def test_what_others_say_of_patients_is_in_no_file_and_no_process(run, two_patients, tmp_path):
    log = (run.folder / "pacs" / "orthanc.log").read_text(errors="replace")
    assert "PatientName of this patient is" in log
    for stage in ("retrieve", "segment", "publish"):
        assert list(run.out.glob(f"logs/{stage}/*.log")), stage
    assert "jipflow retrieve" in (run.folder / "printed.txt").read_text()
    check(run, tokens(two_patients), tmp_path)
