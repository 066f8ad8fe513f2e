"""A site's first command: it looks around, asks what it cannot see, writes, and says why."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from jipflow.begin import machine, schedulers
from jipflow.begin.files import write_files
from jipflow.begin.profile import NAME, Profile, user_profiles
from jipflow.begin.site import (
    Answers,
    is_dicomweb,
    settings_there,
    site_text,
    why_no_id,
    why_no_pacs,
)
from jipflow.cli.command import UsageError
from jipflow.cli.rights import masked
from jipflow.files import local_path
from jipflow.privacy.pseudonyms import check_secret
from jipflow.settings.resources import ROOT
from jipflow.settings.site import Site

ECHO_SECONDS = 10
"""How long a PACS may take to answer before the command says that it does not."""

SHARE_OF_MEMORY = 0.9
"""Of the memory, for jobs; the rest is Snakemake's and the system's."""

LESS = (
    "name another by --partition, or have the rules ask for less by set-resources of the profile "
    "(docs/slurm.md)"
)
"""What to do where a partition is too small."""

CLUSTER_PLUGIN = "snakemake_executor_plugin_cluster_generic"


@dataclass(frozen=True)
class Given:
    """What was typed after ``site init``; None for what is asked or found out."""

    id_: str | None
    name: str | None
    folder: Path | None
    images: Path | None
    pacs: str | None
    called_aet: str | None
    calling_aet: str
    protocol: str | None
    scheduler: schedulers.Name | None
    partition: str | None
    gpu_partition: str | None
    account: str | None
    profiles: Path | None
    yes: bool
    replace: bool


def begin(given: Given) -> None:
    """Write a site's settings, keys and profile.

    Raises:
        UsageError: an answer is missing that nobody can be asked for, or is wrong.
        ConfigError: the answers do not go together.
        StageError: a file is there already, or cannot be written.
    """
    ask = Asker(not given.yes and sys.stdin.isatty())
    answers = _answers(given, ask)
    asked_for = answers.checked()
    there = settings_there(answers)
    site, results = there or (asked_for, answers.results)
    check_secret(Path(site.identity.secret_file), results)
    found = _Found.looked_for(given.scheduler)
    print("found", *found.lines(), *_echoes(site), sep="\n  ")
    base, why = found.base()
    queue, gpu_queue = _queues(given, found.scheduler, ask)
    one_machine = base in {"local", "gpu"}
    cuda = base == "gpu" or given.gpu_partition is not None
    cuda = cuda or _has_gpus(found.scheduler, queue, gpu_queue)
    memory = int(found.memory.number * SHARE_OF_MEMORY)
    profile = Profile(
        answers.site,
        base,
        answers.file,
        answers.folder,
        cores=found.cores.number if one_machine else None,
        memory_mb=memory if one_machine else None,
        queue=queue,
        gpu_queue=gpu_queue,
        account=given.account,
    )
    print("decided", f"profile: of profiles/{base}, {why}", sep="\n  ")
    if one_machine:
        print(f"  cores: {found.cores.number}, all that there are")
        print(f"  memory: {memory} MB for jobs at a time, nine tenths of what there is")
    else:
        print(f"  partition or queue: {queue or 'the default of the scheduler'}")
        for why in _too_little(found.scheduler, queue):
            print(f"  partition {queue}: {why}: such a job never starts; {LESS}")
    if gpu_queue:
        print(f"  partition of jobs that ask for a GPU: {gpu_queue}")
    print(f"  neural networks: {'on a GPU' if cuda else 'on what PyTorch finds (device: auto)'}")
    target = (given.profiles or user_profiles()).absolute() / answers.site / NAME
    files = [target] if there else [answers.file, target]
    if not ask.agrees(f"Write {' and '.join(map(str, files))}?"):
        raise UsageError("nothing was written")
    texts = {target: profile.text()}
    settings = site_text(answers, cuda=cuda)
    if there is None:
        texts = {answers.file: settings, **texts}
    with masked(0o077):
        written = write_files(texts, replace=given.replace)
        if there is not None:
            written.insert(0, _as_it_was(answers.file, settings))
        print("written", *written, *_keys(site, results), sep="\n  ")
    print("next", *_next(answers, given.profiles, base, site), sep="\n  ")


class Asker:
    """Asks a person, where there is one.

    Args:
        there: whether somebody answers.
    """

    def __init__(self, there: bool) -> None:
        self._there = there

    def ask(
        self, question: str, option: str, why_not: Callable[[str], str], *, empty: bool = False
    ) -> str:
        """Return an answer, asked for until it is one.

        Args:
            question: in a line.
            option: that would have answered it.
            why_not: returns why a text is no answer; nothing for one that is.
            empty: whether no answer is one, too.

        Raises:
            UsageError: nobody answers.
        """
        if not self._there:
            if empty:
                return ""
            raise UsageError(f"{option} is missing: {question[0].lower()}{question[1:]}")
        while True:
            text = self._read(f"{question}: ", option)
            if not text and empty:
                return ""
            why = why_not(text) if text else "an answer is needed"
            if not why:
                return text
            print(f"  {why}.")

    def agrees(self, question: str) -> bool:
        """Return whether a person agrees; where there is none, or a person typed --yes, yes."""
        return not self._there or self._read(f"{question} [y/N] ", "--yes").lower() in {"y", "yes"}

    @staticmethod
    def _read(prompt: str, option: str) -> str:
        try:
            return input(prompt).strip()
        except EOFError:
            raise UsageError(f"nobody answers; give {option}") from None


def _answers(given: Given, ask: Asker) -> Answers:
    """Return the answers that were typed after the command, and ask for the others."""

    def answer(value: str | None, question: str, option: str, why_not: Callable[[str], str]) -> str:
        if value is None:
            return ask.ask(question, option, why_not)
        if why := why_not(value):
            raise UsageError(f"{option}: {why}")
        return value

    site = answer(given.id_, "Short name of the site, such as heidelberg", "--id", why_no_id)
    name = answer(given.name, "Name of the hospital", "--name", _why_no_text)
    asked_folder = None if given.folder is None else str(given.folder)
    question = "Folder for settings, secrets, results and messages"
    folder = answer(asked_folder, question, "--folder", _why_no_path)
    images = None if given.images is None else str(given.images)
    pacs = given.pacs
    if images is None and pacs is None:
        question = "Folder with DICOM files (none: Enter)"
        images = ask.ask(question, "--images", _why_no_folder, empty=True) or None
        question = "PACS, as host:port or https://host/path of DICOMweb"
        with_images = images is not None
        option = "--images or --pacs"
        pacs = ask.ask(question, option, why_no_pacs, empty=with_images) or None
    if images is not None and (why := _why_no_folder(images)):
        raise UsageError(f"--images: {why}")
    if pacs is not None and (why := why_no_pacs(pacs)):
        raise UsageError(f"--pacs: {why}")
    called = given.called_aet
    if pacs is not None and not is_dicomweb(pacs):
        called = answer(
            called, "Application entity title of the PACS", "--called-aet", _why_no_text
        )
    return Answers(
        site,
        name,
        _absolute(folder),
        None if images is None else _absolute(images),
        pacs,
        called,
        given.calling_aet,
        _protocol(given.protocol),
    )


def _protocol(named: str | None) -> str | None:
    """Return a protocol that runs from any folder find: an id, or the path from the root.

    Raises:
        ConfigError: there is none of that name.
    """
    if named is None:
        return None
    from jipflow.settings.reading import protocol_ids, protocol_path

    path = protocol_path(named)
    return named if named in protocol_ids() else str(path.absolute())


def _absolute(text: str) -> Path:
    return Path(os.path.abspath(local_path(text)))


def _why_no_text(text: str) -> str:
    return "" if text.strip() and text.isprintable() else "write a name in a line"


def _why_no_path(text: str) -> str:
    try:
        local_path(text)
    except ValueError as error:
        return f"{text!r} {error}"
    return ""


def _why_no_folder(text: str) -> str:
    why = _why_no_path(text)
    return why or ("" if _absolute(text).is_dir() else f"{text} is no folder; mount or correct it")


@dataclass(frozen=True)
class _Found:
    """What the machine has."""

    cores: machine.Amount
    memory: machine.Amount
    gpus: list[str]
    no_gpu: str
    usable: bool
    scheduler: schedulers.Found

    @classmethod
    def looked_for(cls, scheduler: schedulers.Name | None) -> _Found:
        """Look around.

        Args:
            scheduler: that a person has named; None to look for it.
        """
        gpus, no_gpu = machine.gpus()
        found = schedulers.named(scheduler) if scheduler else schedulers.find()
        usable = bool(gpus) and _torch_finds_gpu()
        return cls(machine.cores(), machine.memory_mb(), gpus, no_gpu, usable, found)

    def lines(self) -> Iterator[str]:
        """Yield a line about each thing, with what it follows from."""
        yield f"cores: {self.cores.number}; {self.cores.why}"
        yield f"memory: {self.memory.number} MB; {self.memory.why}"
        yield f"GPUs: {', '.join(self.gpus) or f'none; {self.no_gpu}'}"
        if self.gpus and not self.usable:
            yield (
                "PyTorch: none that finds a GPU; install the build that fits the driver, and say "
                "the same again"
            )
        yield f"scheduler: {self.scheduler.name}; {self.scheduler.why}"

    def base(self) -> tuple[str, str]:
        """Return which profile of the repository fits, and why."""
        if self.scheduler.name != "none":
            return self.scheduler.name, "since jobs go through a scheduler here"
        if self.usable:
            return "gpu", "since PyTorch finds a GPU; one job at a time has it"
        if self.gpus:
            return "local", "since there is no scheduler, and PyTorch finds no GPU"
        return "local", "since there is neither a scheduler nor a GPU"


def _torch_finds_gpu() -> bool:
    """Return whether the PyTorch of this environment finds a GPU; it is loaded elsewhere."""
    if find_spec("torch") is None:
        return False
    code = "import torch; print(torch.cuda.is_available())"
    return machine.asked(sys.executable, "-c", code) == "True"


def _queues(given: Given, found: schedulers.Found, ask: Asker) -> tuple[str | None, str | None]:
    """Return the partition or queue of jobs, and that of jobs with a GPU where it is another.

    Raises:
        UsageError: there is no such partition, or nobody says which of several; or an account
            is named that is none, or that the scheduler does not ask for.
    """
    if given.account is not None and not schedulers.ACCOUNT.fullmatch(given.account):
        raise UsageError(f"--account: {given.account!r} is no name of an account")
    if given.account is not None and found.name != "slurm":
        raise UsageError("--account: it is of SLURM, which is not the scheduler here")
    options = {"--partition": given.partition, "--gpu-partition": given.gpu_partition}
    for option, value in options.items():
        if value is not None and (why := _why_no_queue(value)):
            raise UsageError(f"{option}: {why}")
        if value is not None and found.queues and value not in found.queues:
            raise UsageError(f"{option}: {value!r} is none of {', '.join(found.queues)}")
        if value is not None and found.name == "none":
            raise UsageError(f"{option}: there is no scheduler here; name one by --scheduler")
    queue = given.partition or schedulers.default(found)
    usable = [each.name for each in found.partitions if each.up]
    if queue is None and usable:
        queue = _chosen(usable, "Partition of SLURM for jobs", "--partition", ask)
    gpu_queue = given.gpu_partition
    with_gpus = [each.name for each in found.partitions if each.gpus and each.up]
    if gpu_queue is None and with_gpus and queue not in with_gpus:
        gpu_queue = _chosen(with_gpus, "Partition for jobs with a GPU", "--gpu-partition", ask)
    if gpu_queue is not None and queue is None:
        question = "Partition or queue of jobs without a GPU"
        queue = ask.ask(question, "--partition", _why_no_queue)
    return queue, gpu_queue if gpu_queue != queue else None


def _why_no_queue(text: str) -> str:
    return (
        "" if schedulers.QUEUE.fullmatch(text) else f"{text!r} is no name of a partition or queue"
    )


def _chosen(names: list[str], question: str, option: str, ask: Asker) -> str:
    """Return the one name there is, or which of several a person wants."""
    if len(names) == 1:
        return names[0]

    def why_not(text: str) -> str:
        return "" if text in names else f"{text!r} is none of them"

    return ask.ask(f"{question}, one of {', '.join(names)}", option, why_not)


def _too_little(found: schedulers.Found, queue: str | None) -> list[str]:
    """Return what the partition does not give the largest job of a shard."""
    return [why for each in found.partitions if each.name == queue for why in each.too_little()]


def _has_gpus(found: schedulers.Found, queue: str | None, gpu_queue: str | None) -> bool:
    return gpu_queue is not None or any(p.gpus for p in found.partitions if p.name == queue)


def _echoes(site: Site) -> Iterator[str]:
    """Yield whether each PACS answers."""
    from jipflow.pacs.archive import ArchiveDown, Rejected
    from jipflow.pacs.echo import echo
    from jipflow.settings.resources import ConfigError

    for source in site.archives:
        impatient = source.model_copy(update={"timeout": ECHO_SECONDS})
        what = "a query" if source.kind == "dicomweb" else "C-ECHO"
        try:
            echo(impatient)
        except (ArchiveDown, Rejected, ConfigError) as error:
            yield f"PACS: no answer to {what}: {error}"
        else:
            yield f"PACS: answers {what}"


def _as_it_was(file: Path, text: str) -> str:
    """Return a sentence about settings that are kept, whatever the answers."""
    if file.read_text(encoding="utf-8") == text:
        return f"{file}: as it was"
    return f"{file}: as it was; what it says differs from the answers, and is changed in it alone"


def _keys(site: Site, results: Path) -> Iterator[str]:
    """Make the site's secret and key where they are not there, and yield a line about each."""
    from jipflow.exchange.keys import load_or_create_key, public_text
    from jipflow.privacy.pseudonyms import site_secret

    secret, key = Path(site.identity.secret_file), Path(site.identity.signing_key_file)
    there = {path for path in (secret, key) if path.exists()}
    site_secret(secret, results)
    public = public_text(load_or_create_key(key))
    for path in (secret, key):
        yield f"{path}: {'as it was' if path in there else 'new, mode 0600'}"
    yield f"public key of the site: {public}"


def _next(answers: Answers, profiles: Path | None, base: str, site: Site) -> Iterator[str]:
    """Yield what a person does now."""
    folder = None if profiles is None else profiles.absolute() / answers.site
    words = [
        str(Path(sys.executable).with_name("snakemake")),
        "--profile",
        str(folder or answers.site),
    ]
    if answers.protocol is None:
        words += ["--config", "protocol=ID-OR-PATH"]
    yield f"run the site, from any folder: {shlex.join(words)}"
    yield f"keep a copy of {site.identity.secret_file} where the data steward alone can read it"
    yield f"give the hub the public key, and enter what it says of itself in {answers.file}"
    if base in {"lsf", "sge", "pbs"}:
        yield f"read the head of {ROOT / 'profiles' / base / 'config.yaml'}: it is untested"
        if find_spec(CLUSTER_PLUGIN) is None:
            pins = ROOT / "envs" / "constraints.txt"
            words = ["-m", "pip", "install", "-c", str(pins), "-e", f"{ROOT}[cluster]"]
            yield f"install what submits: {shlex.join([sys.executable, *words])}"
