"""Every command that README and the guides give does what it is given for.

A page is followed from top to bottom in a folder of its own, where a clone, images and a built
release are. Each command runs for real, or dry where it takes long (`snakemake -n`, `make -n`), or
is listed with the reason why it cannot run here. A command that is none of these fails the test.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import fake_results as fake
import snakemake_copies
from jipflow.exchange.keys import new_key
from jipflow.privacy.pseudonyms import site_secret

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ["README.md", "CONTRIBUTING.md", "config/README.md"]
GUIDES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
COMMENTED = ["Snakefile", "workflow/Snakefile", "config/config.yaml", "config/models.yaml"]
COMMENTED += sorted(
    str(path.relative_to(ROOT))
    for pattern in ("config/protocols/*.yaml", "profiles/*/config.yaml")
    for path in ROOT.glob(pattern)
)

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SHELL = {"", "sh", "console"}
OTHER = {"text", "yaml", "json", "python", "mermaid", "snakemake", "sql"}
PROGRAMS = r"(?:\S*/)?(?:jipflow|snakemake|make|python|pip|git|docker|squeue|snakedeploy|ln|cp)"

OPTIONS = (
    "--profile profiles/local --configfile my-site.yaml "
    "--config protocol=sarcoma-pet results=/data/jipflow/results"
)
"""What `...` of a command stands for: the options of the run."""

MENTIONED = {"jipflow <stage>", "jipflow phantom --organs"}
"""Inline code that names a command with a part of what it needs."""

PLACEHOLDERS = {
    r"(?<= )(\.\.\.|…)(?= |$)": OPTIONS,
    r"<protocol>": "sarcoma-pet",
    r"\bFILE\b": "~/keys/known.key",
    r"(?<=--protocol )ID\b": "demo",
}


FOLLOWED: set[str] = set()
"""What was run dry on another page, where it does the same."""


class Way(NamedTuple):
    """How a command is followed.

    Attributes:
        pattern: what it looks like.
        change: pattern and replacement that make it dry; None where it is not run at all.
        reason: why it is not run.
    """

    pattern: str
    change: tuple[str, str] | None = None
    reason: str = ""


REAL = (r"$^", "")
SHORT = (r"$", " --patients 1 --no-defects")
DRY = (r"\bsnakemake ", "snakemake --dry-run ")
WAYS = (
    Way(r"apptainer ", None, "needs apptainer; test_environments.py holds its recipe"),
    Way(
        r"jipflow rounds (roster|end) ",
        None,
        "needs rounds that are open; test_rounds_commands.py has some",
    ),
    Way(r"snakemake send ", None, "needs a server; pipeline/test_exchange_hub.py has some"),
    Way(
        r"snakemake .*--forcerun clinical",
        None,
        "needs a protocol with clinical variables; pipeline/test_clinical_run.py has one",
    ),
    Way(r"snakemake .*--report ", None, "needs a finished run; test_module.py makes its report"),
    Way(r"snakemake --sdm conda$", None, "needs conda and an hour"),
    Way(r"for .*snakemake", None, "compares two commits by two runs of minutes"),
    Way(r".*\bsnakemake ", DRY),
    Way(r"jipflow audit ", None, "needs a site's trail; test_audit_release.py has some"),
    Way(r"jipflow release revoke ", None, "needs an approval; test_revocation.py has some"),
    Way(r"jipflow export ", None, "needs a run that has ended; pipeline/test_export.py has one"),
    Way(r"jipflow whois ", None, "needs a run's pseudonyms; test_redaction.py makes some"),
    Way(r"jipflow erase ", None, "needs a site's results; test_erase.py has some"),
    Way(r"jipflow retry ", None, "needs a run; pipeline/test_repair.py has one"),
    Way(r"jipflow manifest ", None, "needs a manifest; test_manifest.py has some"),
    Way(r"jipflow omop export ", None, "needs a warehouse's maps; test_omop.py has some"),
    Way(r"jipflow models add ", None, "needs a model; test_models.py adds one"),
    Way(r"jipflow models (bundle|fetch .*--from) ", None, "likewise; test_models.py carries one"),
    Way(r"jipflow algorithm check ", None, "needs a container; test_algorithm_check.py has them"),
    Way(r"jipflow rehearse ", None, "runs three sites; pipeline/test_demo.py runs as many"),
    Way(r"jipflow archive ", None, "needs the network; test_offline.py makes one"),
    Way(
        r"(unshare --net )?python3 -I (/opt/jipflow/current/envs/)?install\.py ",
        None,
        "needs an archive; test_offline.py installs some",
    ),
    Way(r"sha256sum install\.py$", None, "of what was carried to the site"),
    Way(r"export PATH=/opt/", None, "the shell of a user"),
    Way(r"cp /opt/", None, "of what an archive has carried; test_offline.py carries a file"),
    Way(r"jipflow phantom ", SHORT),
    Way(r"jipflow watch ", (r"$", " --once")),
    Way(r"\S*jipflow ", REAL),
    Way(r"(\w+=\S+ )*make ", (r"\bmake ", "make --dry-run ")),
    Way(r"python -m pytest ", (r"pytest ", "pytest --collect-only --quiet ")),
    Way(r"python -m jipflow\.cli\.reference$", None, "writes docs; test_reference.py compares"),
    Way(r"python docs/images/report\.py$", None, "needs a demonstration; test_picture.py looks"),
    Way(
        r"python benchmarks/survival_",
        None,
        "of real images; peers/test_survival_sites.py makes some",
    ),
    Way(r"python benchmarks/report\.py$", None, "writes docs from measurements"),
    Way(r"python -c ", REAL),
    Way(r"(cp -r|mkdir -p|ln -s) ", REAL),
    Way(r"source \.venv/bin/activate$", None, "the shell of a user; make setup makes the file"),
    Way(r"git (worktree|pull)\b", None, "changes the clone"),
    Way(r"diff /tmp/", None, "of the two runs above it"),
    Way(r"docker build ", None, "needs an image's recipe and a daemon"),
    Way(r"squeue ", None, "needs a cluster"),
    Way(r"snakedeploy ", None, "needs the address of a release"),
    Way(r".*\bpip (install|download|wheel) ", None, "needs the network"),
    Way(r"TOTALSEG_HOME_DIR=\S+ totalseg_download_weights ", None, "needs the network"),
)


def lines_of(block: str) -> Iterator[str]:
    """The commands of a block of a shell: lines that go on, and loops, are one."""
    loop: list[str] = []
    for line in re.sub(r"\\\n\s*", "", block).splitlines():
        command = re.sub(r"(^|\s+)#.*$", "", line).strip().removeprefix("$ ")
        if loop or command.startswith("for "):
            loop.append(command)
            if command == "done":
                yield "\n".join(loop)
                loop = []
        elif command:
            yield command


def commands(name: str) -> list[str]:
    """The commands of a page in their order, in blocks and in the text."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if not name.endswith(".md"):
        comment = re.match(r"(?:#.*\n)*", text)
        assert comment
        lines = [line.removeprefix("#") for line in comment[0].splitlines()]
        return [line.strip() for line in lines if re.match(rf"   {PROGRAMS} ", line)]
    found = []
    for match in re.finditer(rf"{FENCE.pattern}|`([^`\n]+(?:\n[^`\n]+)?)`", text, FENCE.flags):
        language, block, inline = match.groups()
        if inline is None:
            assert language in SHELL | OTHER, f"{name}: a block of {language!r}"
            found += lines_of(block) if language in SHELL else ()
        elif re.match(rf"{PROGRAMS} \S", words := " ".join(inline.split())):
            found += [words] if not mentions(words) else ()
    return found


def mentions(words: str) -> bool:
    """Whether inline code merely names a command, without what it needs to be run."""
    names = (
        r"jipflow( [a-z]+){1,2}|snakemake \w+|cp -\w+|python -m jipflow|docker build|pip install"
    )
    return words in MENTIONED or bool(re.fullmatch(names, words))


def way_of(command: str) -> Way:
    known = [way for way in WAYS if re.match(way.pattern, command, re.DOTALL)]
    assert known, f"is none of WAYS, so nobody has tried it: {command}"
    return known[0]


def written(root: Path, page: str, language: str, begins: str) -> str:
    """A block of a page as a file of the scratch folder has it."""
    text = (ROOT / page).read_text(encoding="utf-8")
    block = next(m[2] for m in FENCE.finditer(text) if m[1] == language and begins in m[2])
    return moved(block, root)


def moved(text: str, root: Path) -> str:
    """Text whose absolute paths lie in the scratch folder."""
    return re.sub(r"(?<![\w./])/(data|opt|tmp)/", rf"{root}/\1/", text)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a release that waits for approval."""
    results = fake.build(tmp_path_factory.mktemp("built") / "demo", pictures=False)
    fake.add_release(results, fake.settings())
    fake.write_disclosure(results, fake.settings(), results / "release" / "r01" / "disclosure.html")
    return results / "release" / "r01"


@pytest.fixture
def clone(tmp_path: Path, release: Path) -> Path:
    """A clone with what the guides take to be there: images, a release, the files they write."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in {".git", ".venv", "results", ".snakemake", "models"}:
            (folder / entry.name).symlink_to(entry)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / "jipflow").symlink_to(folder)
    (folder / "current").symlink_to(folder)
    for name in ("data/dicom", "data/inbox", "data/lung", "home/keys", "tmp"):
        (tmp_path / name).mkdir(parents=True)
    for results in (
        folder / "results",
        tmp_path / "data/results",
        tmp_path / "data/jipflow/results",
    ):
        shutil.copytree(release, results / "sarcoma-pet" / "release" / "r01")
    keys = {who: new_key(tmp_path / f"home/keys/{who}.key") for who in ("known", "machine")}
    hub = written(tmp_path, "docs/hub-guide.md", "yaml", "roster:")
    for public in (keys["machine"], keys["known"]):
        hub = hub.replace('"ed25519:…"', f'"{public}"', 1)
    files = {
        "my-site.yaml": written(tmp_path, "docs/site-guide.md", "yaml", "site:"),
        "hub.yaml": hub,
        "lesions.yaml": written(tmp_path, "docs/protocol-guide.md", "yaml", "protocol:"),
    }
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    shutil.copyfile(folder / "my-site.yaml", tmp_path / "tmp" / "site.yaml")
    site_secret(tmp_path / "data/jipflow/secrets/identity.key", tmp_path / "data/jipflow/results")
    return folder


def follow(command: str, clone: Path) -> None:
    """Do what a page says, as far as this machine can."""
    for placeholder, value in PLACEHOLDERS.items():
        command = re.sub(placeholder, value, command)
    way = way_of(command)
    subprocess.run(["bash", "-n", "-c", command], check=True)
    if way.change is None:
        assert way.reason
        return
    line = re.sub(*way.change, command.replace("snakemake -n ", "snakemake "), count=1)
    if way.change not in {REAL, SHORT}:
        same = re.sub(r"^\.venv/bin/| results=\S+", "", line)
        if same in FOLLOWED:
            return
        FOLLOWED.add(same)
    line = moved(line, clone.parent)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SNAKEMAKE", "MAKE"))}
    copies = f"{snakemake_copies.program().parent}:" if way.change == DRY else ""
    environment |= snakemake_copies.commands() | {
        "PATH": f"{copies}{Path(sys.executable).parent}:{environment['PATH']}",
        "PYTHONPATH": str(ROOT / "workflow"),
        "HOME": str(clone.parent / "home"),
    }
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}"


@pytest.mark.parametrize("name", [name for name in GUIDES + COMMENTED if commands(name)])
def test_a_page_can_be_followed_to_the_letter(name: str, clone: Path) -> None:
    if name.startswith("config/"):
        shutil.copyfile(clone / "config" / "config.yaml", clone / "my-site.yaml")
    for command in dict.fromkeys(commands(name)):
        follow(command, clone)


def test_every_way_is_of_a_command_that_a_page_gives() -> None:
    given = [command for name in GUIDES + COMMENTED for command in commands(name)]
    assert len(given) > 60
    used = {way_of(re.sub(r" (\.\.\.|…)(?= |$)", f" {OPTIONS}", command)) for command in given}
    assert set(WAYS) - used == set()


@pytest.mark.parametrize("name", GUIDES)
def test_no_command_hides_in_a_block_of_text(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if match[1] == "text":
            hidden = [line for line in match[2].splitlines() if re.match(rf"{PROGRAMS} ", line)]
            assert hidden == []


def test_an_unknown_command_fails(clone: Path) -> None:
    with pytest.raises(AssertionError, match="nobody has tried it"):
        follow("rm -rf /", clone)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("snakemake --profile profiles/local --configfile hub.yaml hub", "hub"),
        ("jipflow release approve /data/nowhere/release/r01 --name A --key your.key", "nowhere"),
        ("jipflow keys show ~/keys/nobody.key", "nobody.key"),
        ("make nonsense", "nonsense"),
    ],
)
def test_a_command_that_does_not_run_is_found(clone: Path, command: str, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        follow(command, clone)
    assert shlex.split(command)
