"""What a newcomer calls: the pipeline seen at work on synthetic patients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jipflow.cli.command import Audience, UsageError

AUDIENCE = Audience("To see it work")


@AUDIENCE.command("demo")
def demo(
    *,
    out: Annotated[Path, "folder for everything"] = Path("results/demo"),
    patients: Annotated[int, "patients a site"] = 12,
    cores: Annotated[int | None, "cores to use; all by default"] = None,
) -> None:
    """Run three synthetic sites and the hub."""
    from jipflow.cli.demo import run_demo

    if patients < 1 or (cores is not None and cores < 1):
        raise UsageError("--patients and --cores are at least 1")
    run_demo(out=out, patients=patients, cores=cores)


@AUDIENCE.command("rehearse")
def rehearse(
    file: Annotated[Path, "rehearsal.yaml: a protocol, and folders in the place of sites"],
    /,
    *,
    out: Annotated[Path, "folder for everything"],
    cores: Annotated[int | None, "cores to use; all by default"] = None,
) -> None:
    """Run a protocol from end to end on one machine, hub included."""
    from jipflow.cli import rehearsal

    if cores is not None and cores < 1:
        raise UsageError("--cores is at least 1")
    rehearsal.rehearse(file=file, out=out, cores=cores)


@AUDIENCE.command("phantom")
def phantom(
    *,
    out: Annotated[Path, "folder for dicom/ and truth/"],
    site: Annotated[str, "the site's id"],
    patients: Annotated[int, "sound patients; defective ones come on top"] = 8,
    seed: Annotated[int, "another number makes other patients"] = 1,
    no_defects: Annotated[bool, "without defective series"] = False,
    no_pet: Annotated[bool, "CT only"] = False,
    organs: Annotated[bool, "contours of the organs on the CT"] = False,
) -> None:
    """Write a synthetic site's DICOM, and the truth about it."""
    from jipflow.phantom.cohort import write_site

    try:
        write_site(out, site, patients, seed, defects=not no_defects, pet=not no_pet, organs=organs)
    except ValueError as error:
        raise UsageError(str(error)) from None
