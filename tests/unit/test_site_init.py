"""A site's first command: what it sees, what it asks, what it writes, and what it never loses."""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from snakemake.common import get_appdirs
from snakemake.profiles import ProfileConfigFileParser
from snakemake.resources import Resource

from jipflow.begin import machine, schedulers
from jipflow.begin import profile as profile_module
from jipflow.begin.profile import NAME, user_profiles
from jipflow.cli import beginning, main
from jipflow.settings.resources import ROOT
from jipflow.settings.run import load_settings
from other_account import as_another_account

SINFO = "main*|up|infinite|64000|(null)\nlong|up|7-00:00:00|256000+|(null)\n"
GPU = "gpu-a100|up|1-00:00:00|128000|gpu:a100:4(S:0-1)\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A machine without scheduler or GPU, with images; what is there is added to its path."""
    (tmp_path / "images").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "somewhere").mkdir()
    monkeypatch.chdir(tmp_path / "somewhere")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return tmp_path


def program(place: Path, name: str, prints: str, code: int = 0) -> None:
    (place / "answer").mkdir(exist_ok=True)
    (place / "answer" / name).write_text(prints)
    file = place / "bin" / name
    file.write_text(f"#!/bin/sh\n/bin/cat '{place}/answer/{name}'\nexit {code}\n")
    file.chmod(0o755)


def slurm(place: Path, partitions: str) -> None:
    program(place, "sinfo", partitions)
    for name in ("sbatch", "squeue"):
        program(place, name, "")


def words(place: Path, *more: str, **changed: str) -> list[str]:
    given = {
        "--id": "north",
        "--name": "Klinikum Nord, Gießen",
        "--folder": str(place / "the site"),
        "--images": str(place / "images"),
    } | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    options = [word for name, value in given.items() if value for word in (name, value)]
    return ["site", "init", *options, *more]


def profile(place: Path, site: str = "north") -> Path:
    return place / "config" / "snakemake" / site / NAME


def read_profile(path: Path) -> dict:
    """The options of a profile, as Snakemake reads them."""
    with open(path, encoding="utf-8") as stream:
        return dict(ProfileConfigFileParser().parse(stream))


def test_settings_keys_and_profile_are_written_with_the_grounds(place, capsys):
    assert main(words(place, "--yes")) == 0
    printed = capsys.readouterr().out
    for line in (
        "GPUs: none; nvidia-smi is not installed",
        "scheduler: none; sinfo is not installed; bqueues is not installed; qconf is not installed",
        "profile: of profiles/local, since there is neither a scheduler nor a GPU",
        "new, mode 0600",
        "public key of the site: ed25519:",
        "snakemake --profile north --config protocol=ID-OR-PATH",
    ):
        assert line in printed
    folder = place / "the site"
    content = yaml.safe_load((folder / "site.yaml").read_text(encoding="utf-8"))
    settings = load_settings(content | {"protocol": "demo"}, "site.yaml")
    assert settings.site.site.name == "Klinikum Nord, Gießen"
    assert content["results"] == str(folder / "results")
    for name in ("identity.key", "site.key"):
        assert stat.S_IMODE((folder / "secrets" / name).stat().st_mode) == 0o600
    options = read_profile(profile(place))
    assert options["snakefile"] == str(ROOT / "Snakefile")
    assert options["configfile"] == str(folder / "site.yaml")
    assert options["directory"] == str(folder)
    assert options["cores"] == str(machine.cores().number)
    assert options["resources"] == ["pacs=1", f"mem_mb={int(machine.memory_mb().number * 0.9)}"]
    default = yaml.safe_load((ROOT / "profiles" / "default" / "config.yaml").read_text())
    assert {key for key in default if not key.startswith("__")} <= options.keys()


def test_a_version_that_was_installed_is_named_by_the_link_to_what_is_in_use(tmp_path, monkeypatch):
    version = tmp_path / "versions" / "1.0.0-0123456789ab"
    version.mkdir(parents=True)
    monkeypatch.setattr(profile_module, "ROOT", version)
    assert profile_module.lasting_root() == version
    (tmp_path / "current").symlink_to(Path("versions", version.name))
    assert profile_module.lasting_root() == tmp_path / "current"
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to(tmp_path)
    assert profile_module.lasting_root() == version


def test_snakemake_looks_for_the_profile_where_it_is(place, monkeypatch):
    monkeypatch.setattr("snakemake.common.APPDIRS", None)
    assert str(user_profiles()) == get_appdirs().user_config_dir
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr("snakemake.common.APPDIRS", None)
    assert str(user_profiles()) == get_appdirs().user_config_dir


def test_a_second_time_nothing_changes_and_nothing_is_lost(place, capsys):
    assert main(words(place, "--yes")) == 0
    files = [profile(place), *sorted((place / "the site").rglob("*.*"))]
    before = {path: path.read_bytes() for path in files}
    capsys.readouterr()
    assert main(words(place, "--yes")) == 0
    assert capsys.readouterr().out.count("as it was") == 4
    assert {path: path.read_bytes() for path in files} == before


def test_settings_that_are_there_stay_and_the_profile_alone_is_replaced(place, capsys):
    assert main(words(place, "--yes")) == 0
    settings = place / "the site" / "site.yaml"
    content = yaml.safe_load(settings.read_text(encoding="utf-8"))
    content["identity"]["signing_key_file"] = "keys/own.key"
    content |= {"hub": {"id": "hub"}, "permissions": {"umask": "027"}}
    settings.write_text(yaml.safe_dump(content))
    kept = [settings, place / "the site" / "secrets" / "identity.key"]
    before = {path: path.read_bytes() for path in kept}
    first = profile(place).read_bytes()
    other = words(place, "--yes", "--scheduler", "slurm", partition="main", name="Another")
    assert main(other) == 1
    assert f"{profile(place)}: there already, and says something else" in capsys.readouterr().err
    assert profile(place).read_bytes() == first
    assert main([*other, "--replace"]) == 0
    printed = capsys.readouterr().out
    assert f"{settings}: as it was; what it says differs from the answers" in printed
    assert profile(place).with_name(f"{NAME}.before-1").read_bytes() == first
    assert {path: path.read_bytes() for path in kept} == before
    assert (place / "the site" / "keys" / "own.key").is_file()
    assert not list((place / "the site").glob("site.yaml.*"))


@pytest.mark.parametrize(
    ("text", "says"), [("site: {id: 1", "site.yaml"), (None, "has the settings of site 'north'")]
)
def test_settings_of_another_site_are_never_replaced(place, text, says, capsys):
    assert main(words(place, "--yes")) == 0
    settings = place / "the site" / "site.yaml"
    if text is not None:
        settings.write_text(text)
    before = settings.read_bytes()
    assert main(words(place, "--yes", "--replace", id="south")) == 1
    assert says in capsys.readouterr().err
    assert settings.read_bytes() == before
    assert not profile(place, "south").exists()


def test_results_whose_secret_is_lost_are_no_new_site(place, capsys):
    assert main(words(place, "--yes")) == 0
    for path in (place / "the site" / "secrets" / "identity.key", profile(place)):
        path.unlink()
    assert main(words(place, "--yes")) == 1
    assert "restore it from the backup" in capsys.readouterr().err
    assert not profile(place).exists()


def test_a_profile_of_another_making_stays(place, capsys):
    other = profile(place).with_name("config.yaml")
    other.parent.mkdir(parents=True)
    other.write_text("cores: 1\n")
    assert main(words(place, "--yes")) == 1
    assert str(other) in capsys.readouterr().err
    assert not (place / "the site").exists()


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("id", "../x", "--id: '../x' is no short name"),
        ("id", "the north", "--id: 'the north' is no short name"),
        ("id", "/etc", "--id: '/etc' is no short name"),
        ("id", "none", "means no profile to Snakemake"),
        ("id", "north\n", "is no short name"),
        ("name", "a\x1b[2Jb", "--name: write a name in a line"),
        ("images", "/nowhere/at/all", "--images: /nowhere/at/all is no folder"),
        ("folder", "$HOME/x", "holds a variable"),
        ("pacs", "pacs.example.org", "--pacs: 'pacs.example.org' is no address of a PACS"),
        ("pacs", "a;reboot:104", "is no address of a PACS"),
        ("protocol", "nonsense", "nonsense"),
        ("partition", "a b", "--partition: 'a b' is no name of a partition or queue"),
        ("partition", "main", "there is no scheduler here"),
        ("account", "o'brien", '--account: "o\'brien" is no name of an account'),
        ("account", "radiology", "--account: it is of SLURM, which is not the scheduler here"),
    ],
)
def test_an_answer_that_is_none_is_refused_in_a_line(place, option, value, part, capsys):
    with suppress(SystemExit):
        assert main(words(place, "--yes", **{option: value})) == 1
    error = capsys.readouterr().err
    assert part in error
    assert not (place / "the site").exists()
    assert not (place / "config").exists()


@pytest.mark.parametrize(
    ("missing", "option"),
    [("id", "--id"), ("name", "--name"), ("folder", "--folder"), ("images", "--images or --pacs")],
)
@pytest.mark.parametrize("more", [["--yes"], []])
def test_where_nobody_answers_the_missing_option_is_named(place, missing, option, more, capsys):
    with pytest.raises(SystemExit):
        main(words(place, *more, **{missing: ""}))
    *_, last = capsys.readouterr().err.splitlines()
    assert f"{option} is missing: " in last
    assert not (place / "config").exists()


@pytest.mark.parametrize("host", ["localhost", "https-pacs.klinik.de", "http"])
def test_a_title_is_asked_for_where_the_pacs_speaks_dimse(place, host, capsys):
    with pytest.raises(SystemExit):
        main(words(place, "--yes", pacs=f"{host}:104"))
    assert "--called-aet is missing" in capsys.readouterr().err


def test_results_below_the_images_are_refused(place, capsys):
    assert main(words(place, "--yes", folder=str(place / "images" / "jipflow"))) == 1
    assert "lies in the folder of the images" in capsys.readouterr().err


def test_a_person_is_asked_again_until_the_answer_is_one(place):
    """In a terminal, with answers that are none between those that are."""
    answers = ["../x", "north", "North Hospital", str(place / "site"), "/nowhere",
               str(place / "images"), "", "y"]  # fmt: skip
    leader, follower = pty.openpty()
    code = "import sys; from jipflow.cli import beginning, main; sys.exit(main(['site', 'init']))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=follower, stdout=subprocess.PIPE, env=environment
    ) as process:
        os.write(leader, "".join(f"{answer}\n" for answer in answers).encode())
        printed = process.stdout.read().decode()
    assert process.returncode == 0
    assert "'../x' is no short name" in printed
    assert "/nowhere is no folder" in printed
    assert yaml.safe_load((place / "site" / "site.yaml").read_text())["site"]["id"] == "north"
    assert profile(place).is_file()


@pytest.mark.parametrize(
    ("closed", "says"),
    [
        ("config", "{} is not writable for this account; nothing was written"),
        ("the site", "nothing can be written into {}"),
    ],
)
def test_where_nothing_can_be_written_nothing_is(place, closed, says, monkeypatch):
    (place / closed).mkdir(mode=0o500)
    monkeypatch.setenv("PATH", os.defpath)
    code = "import sys; from jipflow.cli import beginning, main; sys.exit(main(sys.argv[1:]))"
    with as_another_account() as before:
        done = subprocess.run(
            [*before, sys.executable, "-c", code, *words(place, "--yes")],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    assert done.returncode == 1
    assert says.format(place / closed) in done.stderr
    assert not profile(place).exists()
    assert not (place / "the site" / "site.yaml").exists()


def test_slurm_is_taken_where_it_answers(place, capsys, monkeypatch):
    slurm(place, SINFO + GPU)
    assert main(words(place, "--yes", account="radiology")) == 0
    assert "scheduler: slurm; sinfo lists main, long, gpu-a100" in capsys.readouterr().out
    options = read_profile(profile(place))
    assert options["executor"] == "slurm"
    assert "cores" not in options
    assert options["default-resources"][-2:] == [
        "slurm_account='radiology'",
        "slurm_partition='main'",
    ]
    segment = "segment:slurm_partition='gpu-a100' if $JIPFLOW_GPU else 'main'"
    assert segment in options["set-resources"]
    for gpu, partition in (("1", "gpu-a100"), ("0", "main")):
        monkeypatch.setenv("JIPFLOW_GPU", gpu)
        expression = segment.partition("=")[2]
        shared = {"wildcards": None, "input": [], "attempt": 1, "async_run": None}
        assert Resource.cli_evaluator("slurm_partition", expression, **shared) == partition
    assert "train_fit:slurm_partition='gpu-a100'" in options["set-resources"]
    content = yaml.safe_load((place / "the site" / "site.yaml").read_text(encoding="utf-8"))
    assert content["processing"] == {"device": "cuda"}


@pytest.mark.parametrize(
    ("partition", "says"),
    [
        ("main*|up|4:00:00|64000|(null)", ["ends jobs after 4:00:00", "asks for 14 hours"]),
        ("main*|up|30:00|16000|(null)", ["ends jobs after 30:00", "nodes have 16000 MB"]),
        # Of a program that knows no --exact: some nodes have more.
        ("main*|up|infinite|16000+|(null)", []),
        ("main*|up|14:00:00|18000|(null)", []),
        ("main*|up|infinite|16000|(null)\nmain*|up|infinite|32000|(null)", []),
        ("main*|up|n/a|n/a|(null)", []),
    ],
)
def test_a_partition_in_which_no_shard_would_start_is_named(place, partition, says, capsys):
    slurm(place, f"{partition}\n")
    assert main(words(place, "--yes")) == 0
    found = [line for line in capsys.readouterr().out.splitlines() if "never starts" in line]
    assert len(found) == len([text for text in says if "ends jobs" in text or "nodes" in text])
    assert all(text in " ".join(found) for text in says)


def test_what_a_shard_asks_for_is_the_sum_of_its_rules():
    asked = {
        name: [
            int(re.search(rf"{word}\((\d+)\)", (ROOT / "rules" / file).read_text())[1])
            for word in ("shard_minutes", "shard_memory")
        ]
        for name, file in {
            **{name: f"{name}.smk" for name in ("prepare", "segment", "encode", "measure")},
            **{"document": "document.smk", "overlay": "report.smk"},
        }.items()
    }
    beside = [asked[name] for name in ("encode", "measure", "overlay")]
    after = [asked[name] for name in ("prepare", "segment", "document")]
    minutes = sum(each[0] for each in after) + max(each[0] for each in beside)
    memory = max(*(each[1] for each in after), sum(each[1] for each in beside))
    (catalog,) = re.findall(r"runtime=(\d+)", (ROOT / "rules" / "catalog.smk").read_text())
    assert int(catalog) <= minutes
    assert (minutes, memory) == (schedulers.SHARD_MINUTES, schedulers.SHARD_MB)
    page = (ROOT / "docs" / "slurm.md").read_text(encoding="utf-8")
    assert f"{memory // 1000} GB and {minutes // 60} hours at most" in page


@pytest.mark.parametrize("start", ["/", str(ROOT)])
def test_the_profile_runs_the_site_from_any_folder(place, start):
    assert main(words(place, "--yes", "--scheduler", "none", protocol="demo")) == 0
    with open(profile(place), "a", encoding="utf-8") as stream:
        stream.write("set-resources:\n  catalog: {mem_mb: attempt * 7000}\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SNAKEMAKE")}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "north", "--dry-run"],
        cwd=start,
        env=environment | {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    job = done.stdout.split("rule catalog:")[1]
    assert f"output: {place}/the site/results/catalog/series.parquet" in job
    assert " mem_mb=7000" in job.split("rule ")[0]
    assert (place / "the site" / ".snakemake").is_dir()


def test_the_profile_of_another_workflow_does_not_count_beside_the_site_s(place, monkeypatch):
    assert main(words(place, "--yes", "--scheduler", "none", protocol="demo")) == 0
    other = place / "another"
    (other / "workflow").mkdir(parents=True)
    (other / "workflow" / "Snakefile").write_text("rule all: pass\n")
    (other / "profiles" / "default").mkdir(parents=True)
    (other / "profiles" / "default" / "config.yaml").write_text("printshellcmds: true\n")
    line = [sys.executable, "-m", "snakemake", "--profile", "north", "--dry-run"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SNAKEMAKE")}
    environment |= {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)}

    def started():
        return subprocess.run(
            line, cwd=other, env=environment, capture_output=True, text=True, check=False
        )

    refused = started()
    assert refused.returncode == 1
    assert "its profiles/default would count before the site's profile" in refused.stderr
    shutil.rmtree(other / "profiles")
    assert started().returncode == 0


def test_a_gpu_that_pytorch_does_not_find_is_not_denied(place, capsys, monkeypatch):
    program(place, "nvidia-smi", "NVIDIA H200\n")
    monkeypatch.setattr(beginning, "find_spec", lambda name: None)
    assert main(words(place, "--yes")) == 0
    printed = capsys.readouterr().out
    assert "GPUs: NVIDIA H200" in printed
    assert "profiles/local, since there is no scheduler, and PyTorch finds no GPU" in printed
    assert "nor a GPU" not in printed


def test_a_mistake_in_the_settings_is_named_before_snakemake_reads_them(place, capsys):
    assert main(words(place, "--yes")) == 0
    (place / "the site" / "site.yaml").write_text("site: 1\nsite: 2\n")
    with pytest.raises(SystemExit):
        read_profile(profile(place))
    assert "site.yaml: line 2" in capsys.readouterr().err


def test_of_several_partitions_one_is_named(place, capsys):
    slurm(place, SINFO.replace("*", ""))
    with pytest.raises(SystemExit):
        main(words(place, "--yes"))
    assert "--partition is missing: partition of SLURM for jobs, one of main, long" in (
        capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        main(words(place, "--yes", partition="short"))
    assert "'short' is none of main, long" in capsys.readouterr().err
    assert main(words(place, "--yes", partition="long")) == 0
    assert "slurm_partition='long'" in read_profile(profile(place))["default-resources"]


@pytest.mark.parametrize(
    ("answer", "code", "why"),
    [
        ("Segmentation fault; rm -rf $HOME", 0, "sinfo answers something else than partitions"),
        ("main*|up\n", 0, "sinfo answers something else than partitions: 'main*|up'"),
        ("$(reboot)|up|1|3|x\n", 0, "sinfo answers something else than partitions"),
        ("", 0, "sinfo lists nothing"),
        (
            "slurm_load_partitions: Unable to contact slurm controller",
            1,
            "sinfo ends with an error",
        ),
    ],
)
def test_what_is_no_list_of_partitions_is_no_slurm(place, answer, code, why, capsys):
    program(place, "sinfo", answer, code)
    assert main(words(place, "--yes")) == 0
    assert why in capsys.readouterr().out
    assert "executor" not in read_profile(profile(place))


@pytest.mark.parametrize(
    ("name", "prints", "scheduler", "queues"),
    [
        ("bqueues", "QUEUE_NAME PRIO STATUS\nnormal 30 Open:Active\n", "lsf", ("normal",)),
        ("qconf", "all.q\ngpu.q\n", "sge", ("all.q", "gpu.q")),
    ],
)
def test_other_schedulers_are_found_by_their_queues(place, name, prints, scheduler, queues):
    program(place, name, prints)
    found = schedulers.find()
    assert (found.name, found.queues) == (scheduler, queues)


def test_a_queue_of_gpus_needs_that_of_the_other_jobs(place, capsys):
    given = ["--yes", "--scheduler", "lsf"]
    with pytest.raises(SystemExit):
        main(words(place, *given, gpu_partition="gpuq"))
    error = capsys.readouterr().err
    assert "--partition is missing: partition or queue of jobs without a GPU" in error
    assert not (place / "config").exists()
    assert main(words(place, *given, gpu_partition="gpuq", partition="normal")) == 0
    options = read_profile(profile(place))
    assert "queue='normal'" in options["default-resources"]
    assert "segment:queue='gpuq' if $JIPFLOW_GPU else 'normal'" in options["set-resources"]
    content = yaml.safe_load((place / "the site" / "site.yaml").read_text(encoding="utf-8"))
    assert content["processing"] == {"device": "cuda"}


def test_the_profile_of_the_site_guide_sends_stages_that_share_a_job_to_one_partition(
    tmp_path, monkeypatch
):
    """SLURM's executor ends a run whose group names two partitions."""
    text = (ROOT / "docs" / "site-guide.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(# my-slurm/config.yaml.*?)```", text, re.S)
    (tmp_path / "config.yaml").write_text("\n".join(blocks))
    options = read_profile(tmp_path / "config.yaml")
    (others,) = [each for each in options["default-resources"] if "partition" in each]
    (segment,) = [each for each in options["set-resources"] if each.startswith("segment")]
    expression = segment.removeprefix("segment:slurm_partition=")
    shared = {"wildcards": None, "input": [], "attempt": 1, "async_run": None}
    for gpu, partition in (("1", "gpu"), ("0", others.partition("=")[2])):
        monkeypatch.setenv("JIPFLOW_GPU", gpu)
        assert Resource.cli_evaluator("slurm_partition", expression, **shared) == partition


def test_a_pacs_that_is_not_there_is_named_and_the_site_is_written(place, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    more = {"pacs": f"127.0.0.1:{port}", "called_aet": "ARCHIVE", "images": ""}
    assert main(words(place, "--yes", **more)) == 0
    printed = capsys.readouterr().out
    assert "PACS: no answer to C-ECHO" in printed
    assert "Connection refused" in printed
    content = yaml.safe_load((place / "the site" / "site.yaml").read_text(encoding="utf-8"))
    assert content["sources"] == [
        {
            "name": "pacs",
            "kind": "dimse",
            "host": "127.0.0.1",
            "port": port,
            "called_aet": "ARCHIVE",
            "calling_aet": "JIPFLOW",
        }
    ]


def groups(root: Path, line: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A /proc and a /sys/fs/cgroup."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(line)
    (root / "proc" / "meminfo").write_text("MemTotal:       16000000 kB\nMemFree: 1 kB\n")
    for name, text in files.items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "proc", root / "cgroup"


@pytest.mark.parametrize(
    ("line", "files", "cores", "megabytes"),
    [
        ("0::/\n", {}, 8, 16384),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/b/memory.max": "max"}, 8, 16384),
        ("0::/a/b\n", {"a/b/cpu.max": "max 1", "a/cpu.max": "250000 100000"}, 2, 16384),
        ("0::/a\n", {"a/cpu.max": "50000 100000", "memory.max": "4000000000"}, 1, 4000),
        (
            "4:memory:/x\n1:cpu,cpuacct:/x\n",
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "300000",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000",
                "memory/x/memory.limit_in_bytes": "2000000000",
            },
            3,
            2000,
        ),
        (
            "1:cpu:/host\n4:memory:/host\n",
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            8,
            16384,
        ),
    ],
)
def test_limits_of_control_groups_count(tmp_path, monkeypatch, line, files, cores, megabytes):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    proc, cgroups = groups(tmp_path, line, files)
    assert machine.cores(proc, cgroups).number == cores
    assert machine.memory_mb(proc, cgroups).number == megabytes


def test_gpus_are_those_that_the_driver_lists(place):
    assert machine.gpus() == ([], "nvidia-smi is not installed")
    program(place, "nvidia-smi", "NVIDIA H200\nNVIDIA H200\n")
    assert machine.gpus()[0] == ["NVIDIA H200", "NVIDIA H200"]
    program(place, "nvidia-smi", "NVIDIA-SMI has failed", 9)
    assert machine.gpus() == ([], "nvidia-smi ends with an error, or does not answer")
