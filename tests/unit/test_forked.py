"""A command is done by a copy of the server, as the command itself would have done it."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import count
from pathlib import Path
from pkgutil import resolve_name

import psutil
import pytest
from highdicom._standard_utils import get_module_attribute_map
from jinja2.meta import find_referenced_templates
from threadpoolctl import threadpool_info, threadpool_limits

from federation_world import hub_settings, site
from jipflow.cli.server import loaded, run_copy
from jipflow.files import json_text
from jipflow.forked import LENGTH, MOST_FILES, SERVER, SOCKET, _installation, ask, files_of
from jipflow.hub.settings import HubSettings
from jipflow.provenance import LIBRARIES, libraries
from jipflow.radiomics.ibsi import feature_table
from jipflow.release.contents import formats
from jipflow.report import pages
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.run import Settings
from jipflow.settings.site import Site

WORK = """
import json, os, signal, sys, tempfile, time
from pathlib import Path
from jipflow.workers import begin_forkserver, for_each_case
import forked_count

def wait(path):
    path.write_text(str(os.getpid()))
    time.sleep(60)
    return []

def run(words):
    if words[0] == "look":
        print(json.dumps([words, sys.argv, os.getcwd(), os.environ.get("COLOUR"), os.umask(0)]))
        print("aside", file=sys.stderr)
        return 0
    if words[0] == "look around":
        hour = time.localtime(0).tm_hour
        print(json.dumps([os.environ.get("ADDED"), tempfile.gettempdir(), hour]))
        return 0
    if words[0] == "share":
        begin_forkserver(Path(os.environ["JIPFLOW_SERVER"]))
        try:
            for_each_case([Path(word) for word in words[1:]], wait, 2)
        except KeyboardInterrupt:
            return 130
    if words[0] == "leave":
        sys.exit(words[1])
    if words[0] == "raise":
        raise ValueError(words[1])
    if words[0] == "print":
        print("x")
        return 0
    if words[0] == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if words[0] == "handle":
        try:
            Path(words[1]).write_text(str(os.getpid()))
            time.sleep(60)
        except KeyboardInterrupt:
            return 130
    if words[0] == "wait":
        Path(words[1]).write_text(str(os.getpid()))
        time.sleep(60)
    return int(words[1])
"""

SERVE = """
import sys
from pathlib import Path
from jipflow.forked import serve
from forked_work import run
names = ["not_there", "forked_count", "forked_library", "forked_library:make"]
serve(int(sys.argv[1]), Path(sys.argv[2]), names, run, more=lambda words: words)
"""

START = """
import subprocess, sys
from jipflow.forked import start
start([sys.executable, "-c", sys.argv[1]])
sys.exit(subprocess.run([sys.executable, "-c", sys.argv[2], "return", "7"]).returncode)
"""

STOP = """
import os, sys
from jipflow.forked import SERVER, start, stop, tell
start([sys.executable, "-c", sys.argv[1]])
tell("forked_count")
stop()
tell("forked_count")
sys.exit(7 if SERVER not in os.environ else 1)
"""

ASK = """
import sys
from jipflow.forked import ask
code = ask(sys.argv[1:])
sys.exit(99 if code is None else code)
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    (tmp_path / "forked_work.py").write_text(WORK)
    (tmp_path / "forked_count.py").write_text(
        f"open({str(tmp_path / 'loaded')!r}, 'a').write('once ')"
    )
    (tmp_path / "forked_library.py").write_text(
        "import os, tempfile, time\n"
        "os.environ['ADDED'] = 'by a library'\n"
        "tempfile.gettempdir()\n"
        "time.localtime()\n"
        "def make():\n"
        "    global MADE\n"
        "    MADE = True\n"
        f"    open({str(tmp_path / 'ready')!r}, 'w').write('yes')\n"
    )
    return folder


@pytest.fixture
def environment(tmp_path, folder):
    path = os.pathsep.join([str(tmp_path), *sys.path])
    held_back = {"PYTHONUNBUFFERED": ""}
    return {**os.environ, "PYTHONPATH": path, SERVER: str(folder), **held_back}


@pytest.fixture
def server(folder, environment):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / SOCKET))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(listener.fileno()), folder],
            stdin=subprocess.PIPE,
            env=environment,
            pass_fds=[listener.fileno()],
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(path: Path) -> str:
    for _ in range(600):
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.05)
    raise AssertionError(f"{path.name} did not come")


def typed(environment, *words, **options):
    return subprocess.run(
        [sys.executable, "-c", ASK, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def started(environment, *words):
    return subprocess.Popen([sys.executable, "-c", ASK, *words], env=environment)


def is_gone(process: int) -> bool:
    for _ in range(600):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_the_copy_is_where_and_what_the_command_is(server, environment, tmp_path):
    asked = typed({**environment, "COLOUR": "red"}, "look", "a b", cwd=tmp_path, umask=0o027)
    words = ["look", "a b"]
    assert json.loads(asked.stdout) == [words, ["jipflow", *words], str(tmp_path), "red", 0o027]
    assert asked.stderr == "aside\n"
    assert asked.returncode == 0


def test_modules_are_loaded_once_for_all(server, environment, tmp_path):
    for _ in range(3):
        typed(environment, "look")
    assert (tmp_path / "loaded").read_text() == "once "


def test_what_libraries_read_and_set_when_they_load_is_the_commands(server, environment, tmp_path):
    wait_for(tmp_path / "ready")
    own = {"TMPDIR": str(tmp_path), "TZ": "UTC-5"}
    asked = typed({**environment, **own}, "look around")
    assert json.loads(asked.stdout) == ["by a library", str(tmp_path), 5]
    asked = typed({**environment, **own, "ADDED": "by a person"}, "look around")
    assert json.loads(asked.stdout)[0] == "by a person"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["return", "7"], 7),
        (["leave", "with a sentence"], 1),
        (["raise", "an error"], 1),
        (["crash"], 128 + signal.SIGSEGV),
    ],
)
def test_the_command_ends_as_the_copy_does(server, environment, words, code):
    asked = typed(environment, *words)
    assert asked.returncode == code
    if words[0] == "leave":
        assert asked.stderr == "with a sentence\n"
    if words[0] == "raise":
        assert "ValueError: an error" in asked.stderr
    if words[0] == "crash":
        assert asked.stderr == "jipflow: ended by SIGSEGV.\n"


def test_what_cannot_be_printed_is_no_success(server, environment):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", ASK, "print"]
        done = subprocess.run(command, env=environment, stdout=full, timeout=60, check=False)
    assert done.returncode == 120


def test_without_a_free_process_the_command_does_its_work_itself(folder, environment):
    """As where the account has all the processes that it may have."""
    forbidden = "import os\ndef fork():\n    raise BlockingIOError\nos.fork = fork\n"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / SOCKET))
        listener.listen()
        descriptor = listener.fileno()
        command = [sys.executable, "-c", forbidden + SERVE, str(descriptor), folder]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, env=environment, pass_fds=[descriptor]
        ) as process:
            assert [typed(environment, "return", "7").returncode for _ in range(2)] == [99, 99]
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_command_ends_the_copy(server, environment, tmp_path, number):
    asking = started(environment, "wait", tmp_path / "pid")
    process = int(wait_for(tmp_path / "pid"))
    asking.send_signal(number)
    # By the signal itself where it comes before it is passed on; a shell gives the same code.
    assert asking.wait(30) in (128 + number, -number)
    assert is_gone(process)


def test_the_copy_can_handle_an_interruption(server, environment, tmp_path):
    asking = started(environment, "handle", tmp_path / "pid")
    wait_for(tmp_path / "pid")
    asking.send_signal(signal.SIGINT)
    assert asking.wait(30) == 130


def test_a_terminal_interrupts_the_workers_of_a_copy_too(server, environment, tmp_path):
    paths = [tmp_path / name for name in "ab"]
    asking = started(environment, "share", *paths)
    for path in paths:
        wait_for(path)
    asking.send_signal(signal.SIGINT)
    assert asking.wait(30) == 130


def test_no_other_account_can_reach_what_forks_the_workers(server, environment, folder, tmp_path):
    """Whoever does has it run any code (CVE-2022-42919): abstract sockets are open to all."""
    asking = started(environment, "share", tmp_path / "a", tmp_path / "b")
    forking = psutil.Process(int(wait_for(tmp_path / "a"))).parent()
    held = {os.readlink(path) for path in Path(f"/proc/{forking.pid}/fd").iterdir()}
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    names = {line[7] for line in lines if len(line) > 7 and f"socket:[{line[6]}]" in held}
    assert names
    assert {str(Path(name).parent) for name in names} == {str(folder)}
    asking.send_signal(signal.SIGINT)
    assert asking.wait(30) == 130
    assert [path.name for path in folder.iterdir()] == [SOCKET]


def test_a_signal_that_the_command_ignores_does_not_reach_the_copy(server, environment, tmp_path):
    """As where nohup has started the run."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        asking = started(environment, "wait", tmp_path / "pid")
    finally:
        signal.signal(signal.SIGHUP, before)
    process = int(wait_for(tmp_path / "pid"))
    asking.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert asking.poll() is None
    os.kill(process, signal.SIGTERM)
    assert asking.wait(30) == 128 + signal.SIGTERM


def test_a_copy_does_not_outlive_its_command(server, environment, tmp_path):
    asking = started(environment, "wait", tmp_path / "pid")
    process = int(wait_for(tmp_path / "pid"))
    asking.kill()
    asking.wait()
    assert is_gone(process)


def handed_over(connection, environment, folder, words, stream):
    """Hand a command over as `ask` does, and read no answer."""
    request = {
        "of": _installation(),
        "words": words,
        "environment": environment,
        "folder": str(folder.parent),
        "umask": 0o022,
    }
    content = json.dumps(request).encode()
    connection.connect(str(folder / SOCKET))
    socket.send_fds(connection, [LENGTH.pack(len(content))], [stream.fileno()] * 3)
    connection.sendall(content)


def test_nor_a_command_that_is_killed_before_it_has_read_the_answer(
    server, environment, folder, tmp_path
):
    """The system then says that the connection was reset, not that it has ended."""
    words = ["wait", str(tmp_path / "pid")]
    with socket.socket(socket.AF_UNIX) as connection, open(os.devnull, "r+b") as nothing:
        handed_over(connection, environment, folder, words, nothing)
        process = int(wait_for(tmp_path / "pid"))
    assert is_gone(process)


def test_a_command_that_is_killed_before_there_is_an_answer_has_nothing_done(
    server, environment, folder, tmp_path
):
    server.send_signal(signal.SIGSTOP)
    words = ["wait", str(tmp_path / "pid")]
    with open(tmp_path / "printed", "w+b") as printed:
        with socket.socket(socket.AF_UNIX) as connection:
            handed_over(connection, environment, folder, words, printed)
        server.send_signal(signal.SIGCONT)
        assert typed(environment, "return", "7").returncode == 7
        server.stdin.close()
        assert server.wait(30) == 0
        assert (tmp_path / "printed").read_bytes() == b""
    assert not (tmp_path / "pid").exists()


def test_a_copy_does_not_outlive_the_server(server, environment, tmp_path):
    asking = started(environment, "wait", tmp_path / "pid")
    process = int(wait_for(tmp_path / "pid"))
    server.kill()
    assert asking.wait(30) == 128 + signal.SIGKILL
    assert is_gone(process)


def test_the_server_ends_with_its_run_after_the_last_copy(server, environment, folder, tmp_path):
    asking = started(environment, "wait", tmp_path / "pid")
    process = int(wait_for(tmp_path / "pid"))
    server.stdin.close()
    time.sleep(0.3)
    assert server.poll() is None
    assert typed(environment, "return", "7").returncode == 99
    os.kill(process, signal.SIGTERM)
    assert asking.wait(30) == 128 + signal.SIGTERM
    assert server.wait(30) == 0
    assert not folder.exists()


def test_commands_wait_where_the_server_can_open_no_further_file(server, environment, tmp_path):
    wait_for(tmp_path / "ready")
    there = {int(file.name) for file in Path(f"/proc/{server.pid}/fd").iterdir()}
    free = next(number for number in count() if number not in there)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (free + 1, free + 1))
    first = started(environment, "wait", tmp_path / "pid")
    process = int(wait_for(tmp_path / "pid"))
    with ThreadPoolExecutor() as typing:
        second = typing.submit(typed, environment, "return", "7")
        time.sleep(0.5)
        assert not second.done()
        os.kill(process, signal.SIGTERM)
        assert second.result().returncode == 7
    assert first.wait(30) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("soft", "hard", "files"),
    [
        (1024, 4096, 4096),
        (1024, 1 << 20, MOST_FILES),
        (1024, resource.RLIM_INFINITY, MOST_FILES),
        (30_000, 1 << 20, 30_000),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ],
)
def test_a_server_has_as_many_files_as_it_needs_and_never_fewer_than_before(soft, hard, files):
    assert files_of(soft, hard) == files


def test_what_the_run_tells_is_loaded_too(server, environment, tmp_path):
    wait_for(tmp_path / "ready")
    (tmp_path / "forked_later.py").write_text(f"open({str(tmp_path / 'later')!r}, 'w').write('x')")
    server.stdin.write(b'no json\n["forked_count", "forked_la')
    server.stdin.flush()
    assert typed(environment, "return", "7").returncode == 7
    server.stdin.write(b'ter"]\n')
    server.stdin.flush()
    assert wait_for(tmp_path / "later") == "x"
    assert (tmp_path / "loaded").read_text() == "once "


@pytest.mark.parametrize("name", ["temporary", "n" * 100], ids=["short", "too long for a socket"])
def test_a_run_starts_its_server_and_leaves_nothing_of_it(environment, tmp_path, name):
    (tmp_path / name).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", START, SERVE, ASK],
        env={**environment, "TMPDIR": str(tmp_path / name), SERVER: ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert list((tmp_path / name).iterdir()) == []


def test_a_run_whose_jobs_go_elsewhere_ends_its_server(environment, tmp_path):
    (tmp_path / "temporary").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", STOP, SERVE],
        env={**environment, "TMPDIR": str(tmp_path / "temporary"), SERVER: ""},
        timeout=60,
        check=False,
    )
    assert done.returncode == 7
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("device", "gpu", "networks"),
    [("cpu", True, True), ("auto", False, True), ("auto", True, False), ("cuda", False, False)],
)
def test_networks_are_loaded_beforehand_where_they_compute_on_no_gpu(
    tmp_path, device, gpu, networks
):
    if gpu:
        (tmp_path / "nvidia0").touch()
    settings = {
        "site": {"processing": {"device": device}},
        "protocol": {"segmentations": [{"engine": "nnunet"}], "training": {}},
    }
    engine = "jipflow.segment.engines.nnunet.engine"
    for rules in ((), ("cohort",), ("measure", "segment")):
        assert (engine in loaded(settings, rules, tmp_path)) == networks
        assert "jipflow.radiomics.measure" in loaded(settings, rules, tmp_path)


def test_nothing_is_loaded_that_no_job_of_the_run_needs(tmp_path):
    settings = {
        "site": {"processing": {"device": "cpu"}},
        "protocol": {"segmentations": [{"engine": "nnunet"}], "training": {}},
    }
    found = loaded(settings, ("measure", "report"), tmp_path)
    assert "jipflow.radiomics.measure" in found
    found += loaded(settings, ("bundle",), tmp_path)
    assert not any(".engines." in name or ".training." in name for name in found)
    assert "jipflow.radiomics.measure" not in loaded(settings, ("bundle",), tmp_path)
    settings["protocol"]["training"] = {"epochs": 1}
    assert any(".training." in name for name in loaded(settings, ("train_fit",), tmp_path))


def test_what_is_loaded_is_there_and_makes_what_each_job_would_make():
    """The server passes over what it cannot load."""
    of_a_site = {
        "site": {"processing": {"device": "cpu"}},
        "protocol": {"segmentations": [{"engine": "imported"}]},
    }
    for settings in (of_a_site, {"hub": {}, "protocol": {}}):
        for name in loaded(settings):
            found = resolve_name(name)
            if ":" in name:
                found()
    for made in (Settings, Site, Radiomics, HubSettings):
        assert made.__pydantic_complete__
    assert get_module_attribute_map.cache_info().currsize == 1
    assert feature_table.cache_info().currsize == 1
    assert libraries.cache_info().currsize >= len(LIBRARIES)
    assert formats().aggregates.__pydantic_complete__
    assert "words" in vars(formats())
    assert compiled() >= {name for page in ("site", "disclosure", "release") for name in of(page)}


def compiled() -> set[str]:
    return {name for _, name in pages.environment().cache or ()}


def of(page: str) -> set[str]:
    """Return the templates that a page is made of."""
    found, waiting = set(), [f"{page}.html.j2"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            parsed = pages.environment().parse((pages.TEMPLATES / name).read_text())
            waiting += filter(None, find_referenced_templates(parsed))
    return found


@pytest.mark.parametrize("page", ["site", "disclosure", "release", "hub", "training"])
def test_a_page_is_compiled_with_all_that_it_is_made_of_and_no_other(page):
    pages.environment.cache_clear()
    pages.compile_page(page)
    shared = {f"{name}.html.j2" for name in pages.SHARED}
    assert of(page) <= compiled() <= of(page) | shared


def test_what_functions_import_when_they_are_called_is_loaded_beforehand():
    settings = {
        "site": {"processing": {"device": "cpu"}},
        "protocol": {"segmentations": [{"engine": "imported"}]},
    }
    later = {"PIL.WebPImagePlugin", "rocrate.rocrate", "scipy.sparse.csgraph"}
    assert later <= set(loaded(settings, ("measure", "report")))
    assert later.intersection(loaded({"hub": {}, "protocol": {}})) == {"rocrate.rocrate"}


def test_jobs_of_a_hub_have_their_modules_loaded(tmp_path):
    written = hub_settings([site(tmp_path, "north", 12, 1)], tmp_path / "inbox")
    found = loaded(json.loads(json_text(written.plain())), ("hub_accept",))
    assert {"jipflow.hub.accept", "jipflow.hub.merge"} <= set(found)
    assert "jipflow.radiomics.measure" not in found


def test_a_copy_computes_with_the_threads_of_its_job(monkeypatch):
    """Libraries have read the number when they loaded, in the server."""
    import_module("scipy.linalg")
    with threadpool_limits(2):
        for threads in (3, 1):
            monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
            assert run_copy(["--version"]) == 0
            assert {each["num_threads"] for each in threadpool_info()} == {threads}


def test_without_a_server_nothing_is_done(monkeypatch, tmp_path):
    monkeypatch.delenv(SERVER, raising=False)
    assert ask(["look"]) is None
    monkeypatch.setenv(SERVER, str(tmp_path))
    assert ask(["look"]) is None


def test_a_server_of_another_installation_does_nothing(server, environment, tmp_path):
    other = tmp_path / "other" / "jipflow"
    other.mkdir(parents=True)
    for name in ("__init__.py", "cores.py", "forked.py"):
        source = Path(sys.modules["jipflow"].__file__).with_name(name)
        (other / name).write_text(source.read_text())
    path = os.pathsep.join([str(other.parent), environment["PYTHONPATH"]])
    assert typed({**environment, "PYTHONPATH": path}, "return", "7").returncode == 99
