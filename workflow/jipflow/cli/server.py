"""The process that a run's jobs are copies of; `jipflow.forked.start` starts it."""

from __future__ import annotations

import ast
import inspect
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

from threadpoolctl import threadpool_limits

from jipflow.cli import hub, joined, main, training
from jipflow.cli.command import Handler
from jipflow.files import read_json
from jipflow.forked import SERVER, serve
from jipflow.settings.plugins import ENGINES
from jipflow.workers import begin_forkserver, silence_libraries

GPUS = ("nvidia[0-9]*", "kfd", "dxg")
"""What is in /dev where there is a GPU that PyTorch may use."""


TYPES = "jipflow.settings.complete:complete_types"
SITE = (
    "jipflow.settings.run:Settings.model_rebuild",
    "jipflow.settings.site:Site.model_rebuild",
    "jipflow.settings.radiomics:Radiomics.model_rebuild",
)
HUB = "jipflow.hub.settings:HubSettings.model_rebuild"
"""The types of settings, which each job would make in half a second."""

LIBRARIES = "jipflow.provenance:prepare"
"""The versions that each job's record names."""

STANDARD = "highdicom._standard_utils:get_module_attribute_map"
"""What highdicom looks into for each object, which each process would read in a quarter of a
second."""

LATER: Mapping[str, tuple[str, ...]] = {
    "jipflow.objects.encode": (STANDARD,),
    "jipflow.objects.document": (STANDARD,),
    "jipflow.report.site.page": ("jipflow.report.site.page:prepare", "PIL.WebPImagePlugin"),
    "jipflow.release.candidate": (
        "jipflow.release.contents:prepare",
        "scipy.cluster.hierarchy",
        "scipy.sparse.csgraph",
    ),
    "jipflow.report.disclosure": (
        "jipflow.report.disclosure:prepare",
        "jipflow.radiomics.ibsi:feature_table",
    ),
    "jipflow.report.release": ("jipflow.report.release:prepare",),
    "jipflow.crates.site": ("rocrate.rocrate",),
    "jipflow.crates.hub": ("rocrate.rocrate",),
}
"""By module: what its functions load and make when they are called, in a tenth of a second or
more for each job."""

ANY_SITE = {"protocol": {"segmentations": []}, "site": {"processing": {"device": "cpu"}}}
"""Of the settings of a site whose protocol is not known yet, what decides on what jobs load."""


def loaded(
    settings: dict[str, Any], rules: Collection[str] = (), devices: Path = Path("/dev")
) -> list[str]:
    """Return what the jobs of a run load, in the order in which they first do.

    That is modules by name, and as ``module:function`` what makes things that each job would make.
    Modules of networks are among them only where these compute on no GPU, for what a process has
    begun with a GPU is of no use to its copies.

    Args:
        settings: the effective settings of a site or a hub, as the run writes them.
        rules: of the jobs that are to run; any where none is named.
        devices: the folder of the machine's devices.
    """
    if "site" not in settings:
        return [TYPES, HUB, *_loaded_by([each.handler for each in hub.AUDIENCE.commands])]
    protocol, device = settings["protocol"], settings["site"]["processing"]["device"]
    # What becomes of a cohort is known when it is chosen.
    every = not rules or "cohort" in rules
    handlers = [
        each.handler
        for each in joined.AUDIENCE.commands
        if every or each.name in rules or each.handler.__module__ == joined.__name__
    ]
    has_gpu = any(file for name in GPUS for file in devices.glob(name))
    engines: set[str] = set()
    if device == "cpu" or (device == "auto" and not has_gpu):
        if protocol.get("training") and (every or any(each.startswith("train_") for each in rules)):
            handlers += [each.handler for each in training.AUDIENCE.commands]
        if every or "segment" in rules:
            engines = {each["engine"] for each in protocol["segmentations"]} - {"annotated"}
    networks = [f"{ENGINES}.{each}.engine" for each in sorted(engines)]
    return [TYPES, *SITE, LIBRARIES, *_loaded_by(handlers), *networks]


def _loaded_by(handlers: list[Handler]) -> list[str]:
    names = dict.fromkeys(name for handler in handlers for name in _imports(handler))
    later = dict.fromkeys(each for name in names for each in LATER.get(name, ()))
    return [*names, *later]


def _imports(handler: Handler) -> Iterator[str]:
    """Yield the modules that a command's function imports when it is called."""
    for node in ast.walk(ast.parse(dedent(inspect.getsource(handler)))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def run_copy(words: Sequence[str]) -> int:
    """Run a job's command in a copy of the server; its workers are copies, too.

    Snakemake gives a job's threads in its environment, which libraries read when they load. Another
    number adds in another order, and changes last digits.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal():
        threadpool_limits(int(threads))
    if "--threads" not in words:
        return main(words)
    return main(words, partial(begin_forkserver, Path(os.environ[SERVER])))


def asked_for(words: Sequence[str]) -> list[str]:
    """Return what the jobs of a run load that has named its settings and rules.

    Args:
        words: the file of the settings, empty as long as they are not read, and the rules.
    """
    file, *rules = words
    return loaded(read_json(Path(file)) if file else ANY_SITE, rules)


if __name__ == "__main__":
    silence_libraries()
    listener, folder, cores = sys.argv[1:]
    serve(int(listener), Path(folder), (), run_copy, more=asked_for, cores=int(cores))
