"""dciodvfy validates the phantom's DICOM objects."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom

from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid

DCIODVFY = Path(sys.executable).parent / "dciodvfy"


def errors(path):
    """Error lines of dciodvfy, whose exit code says nothing of the kind."""
    done = subprocess.run([DCIODVFY, path], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert lines, f"dciodvfy says nothing about {path}"
    return [f"{path.name}: {line}" for line in lines if line.startswith("Error")]


def test_the_validator_can_fail(tmp_path):
    grid = PhantomGrid.centred((2, 8, 8), (5.0, 4.0, 4.0))
    sound, broken = dicom.ct_series(np.zeros(grid.shape, np.int16), grid)
    del broken.ImagePositionPatient
    sound_path, broken_path = dicom.write_series([sound, broken], tmp_path)
    assert errors(sound_path) == []
    assert any("ImagePositionPatient" in line for line in errors(broken_path))


def test_objects_pass(phantom_site):
    """The ends and the middle of every series, of all vendors and defects, and all contours."""
    truth = json.loads((phantom_site / "truth" / "truth.json").read_text())
    broken = {name for d in truth["defects"] if d["level"] != "filtered" for name in d["files"]}
    series = defaultdict(list)
    for path in sorted((phantom_site / "dicom").rglob("*")):
        if path.is_file() and path.relative_to(phantom_site / "dicom").as_posix() not in broken:
            header = pydicom.dcmread(path, specific_tags=["SeriesInstanceUID", "InstanceNumber"])
            series[header.SeriesInstanceUID].append((int(header.InstanceNumber), path))
    chosen = []
    for instances in series.values():
        instances.sort()
        chosen += {0: instances[0], 1: instances[len(instances) // 2], 2: instances[-1]}.values()
    assert len(series) == 10 * 3 + 1
    with ThreadPoolExecutor(2) as pool:
        found = [line for lines in pool.map(errors, {path for _, path in chosen}) for line in lines]
    assert found == []
