"""A template of an algorithm: marks bone and the rest of the body in a CT by thresholds.

Replace `segment`; the rest meets the contract.
"""

import json
import os
from pathlib import Path

import nibabel
import numpy as np

INPUT, OUTPUT = Path("/input"), Path("/output")


def segment(images, labels):
    """Return a label map on the grid of the CT.

    Args:
        images: NIfTI images by role.
        labels: number of each label that is asked for.
    """
    hu = np.asarray(images["CT"].dataobj)
    found = np.zeros(hu.shape, np.uint8)
    for label, threshold in (("body", -300), ("bone", 300)):
        if label in labels:
            found[hu > threshold] = labels[label]
    return found


def work(job, case):
    """Segment a case; a partial file never has the final name."""
    files = {role: image["file"] for role, image in case["images"].items()}
    images = {role: nibabel.load(INPUT / file) for role, file in files.items()}
    found = segment(images, job["labels"])
    target = OUTPUT / case["segmentation"]
    partial = target.with_name("partial.nii.gz")
    nibabel.save(nibabel.Nifti1Image(found, images[job["grid"]].affine), partial)
    os.replace(partial, target)


def main():
    """Segment all cases; one that fails says so, and the others go on."""
    job = json.loads((INPUT / "job.json").read_text())
    if job["contract"] != 1:
        raise SystemExit(f"contract {job['contract']} is unknown here")
    for case in job["cases"]:
        try:
            work(job, case)
        except Exception as error:
            (OUTPUT / case["error"]).write_text(f"{type(error).__name__}: {error}")


main()
