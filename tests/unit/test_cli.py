"""The command line answers at once, shows people what they call, and knows what rules call."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import pytest

from federation_world import site
from jipflow.cli import main, menu
from jipflow.cli.attempts import Tries
from jipflow.cli.command import REPEATED, Audience, Command
from jipflow.files import sha256_file
from jipflow.reasons import StageError
from jipflow.settings.resources import ConfigError
from jipflow.version import full_version

ROOT = Path(__file__).resolve().parents[2]
PEOPLES = [command.name for audience in menu.PEOPLE for command in audience.commands]
WORKFLOWS = [command.name for audience in menu.WORKFLOW for command in audience.commands]


def shown(*words, capsys):
    """The names of the commands that a help lists, in its order."""
    main([*words, "--help"])
    page = capsys.readouterr().out
    return re.findall(r"^  ((?:[a-z]+ )+) +[A-Z]", page, re.M), page


def test_help_loads_nothing_of_others():
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "from jipflow.cli import main\n"
        "main(['--help'])\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print('LOADED', sorted(names - set(sys.stdlib_module_names)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.endswith("LOADED ['jipflow']\n")


def test_help_shows_what_people_call_and_hides_what_rules_call(capsys):
    names, page = shown(capsys=capsys)
    assert [name.strip() for name in names] == PEOPLES
    assert "jipflow stages lists" in page
    assert "snakemake --profile profiles/local" in page
    assert max(map(len, page.splitlines())) <= 100


def test_stages_shows_what_rules_call(capsys):
    names, _ = shown("stages", capsys=capsys)
    assert [name.strip() for name in names] == WORKFLOWS
    assert main(["stages"]) == 0
    assert "segment" in capsys.readouterr().out


def test_help_of_a_group_shows_what_people_call_first(capsys):
    names, page = shown("release", capsys=capsys)
    names = [name.strip() for name in names]
    people = ["release review", "release approve", "release revoke"]
    assert names == [*people, "release build", "release bundle"]
    assert page.index("approve what leaves") < page.index("Called by the workflow")
    assert shown("keys", capsys=capsys)[1].count("Called by") == 0


@pytest.mark.parametrize("name", menu.COMMANDS)
def test_every_command_has_help(name, capsys):
    command = menu.COMMANDS[name]
    with pytest.raises(SystemExit) as ended:
        main([*command.words, "--help"])
    assert ended.value.code == 0
    page = capsys.readouterr().out
    assert page.startswith(f"usage: jipflow {name} ")
    assert command.summary in page
    assert all(action.help for action in command.parser()._actions)
    assert ("The workflow calls this" in page) == (name in WORKFLOWS)


@pytest.mark.parametrize(
    ("typed", "proposed"),
    [
        (["catalogue"], ["catalog"]),
        (["catalogue", "--out", "x"], ["catalog"]),
        (["models", "fetc", "two"], ["models fetch"]),
        (["model", "fetch"], ["models fetch"]),
        (["aprove", "release/r01"], ["release approve"]),
        (["show"], ["config show", "keys show", "ledger show", "rounds show"]),
        (["release", "show"], []),
        (["relaese"], ["release"]),
        (["stage"], ["stages"]),
        (["run"], ["rounds"]),
        (["xyzzy"], []),
    ],
)
def test_a_wrong_command_proposes_the_one_that_was_meant(typed, proposed, capsys):
    assert main(typed) == 2
    message = capsys.readouterr().err
    wanted = " or ".join(map(repr, proposed))
    assert (f"; did you mean {wanted}?" in message) if proposed else ("mean" not in message)
    assert "A site is run by:\n  snakemake --profile" in message


def test_a_wrong_option_proposes_the_one_that_was_meant(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["release", "approve", "r01", "--nam=x"])
    assert ended.value.code == 2
    assert "there is no option --nam; did you mean --name?" in capsys.readouterr().err
    # Not taken for --outcomes, as argparse would do with what is short for one option only.
    with pytest.raises(SystemExit):
        main(["accept", "--verd", "x"])
    assert "did you mean --verdict?" in capsys.readouterr().err


def test_a_command_of_the_workflow_says_who_calls_it(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["catalog"])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "required: --settings, --out" in message
    assert "The workflow calls this" in message


@pytest.mark.parametrize(("words", "code"), [([], 2), (["release"], 2), (["help"], 0)])
def test_without_a_command_the_help_is_shown(words, code, capsys):
    assert main(words) == code
    printed = capsys.readouterr()
    assert "usage: jipflow" in (printed.err if code else printed.out)


def test_the_version_is_shown(capsys):
    assert main(["--version"]) == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(
        r"jipflow \d+\.\d+\.\d+(\.dev\d+)?( \([0-9a-f]{12}(\+dirty)?\))?\n", printed
    )
    assert printed == f"jipflow {full_version()}\n"


@pytest.mark.parametrize("module", ["jipflow", "jipflow.cli"])
def test_the_package_runs_as_a_module(module):
    result = subprocess.run(
        [sys.executable, "-m", module, "nonsense"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "there is no command 'nonsense'" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 0, ""),
        (StageError("x is wrong; do y."), 1, "jipflow: x is wrong; do y.\n"),
        (
            PermissionError(13, "Permission denied", "/a"),
            1,
            "jipflow: /a: Permission denied; let the account that runs jipflow read it, and write "
            "below its results, and run the same command again.\n",
        ),
        (
            MemoryError(),
            1,
            "jipflow: the memory is exhausted; use fewer cores or more memory, and run the same "
            "command again.\n",
        ),
        (KeyboardInterrupt(), 130, "jipflow: interrupted\n"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error, code, message, monkeypatch, capsys):
    def handler():
        """Fail."""
        if error is not None:
            raise error

    monkeypatch.setitem(menu.COMMANDS, "demo", Command("demo", handler))
    assert main(["demo"]) == code
    assert capsys.readouterr().err == message


def test_a_full_disk_is_named_with_its_room(monkeypatch, capsys):
    def handler():
        """Fail."""
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(menu.COMMANDS, "demo", Command("demo", handler))
    assert main(["demo"]) == 1
    printed = capsys.readouterr().err
    assert re.fullmatch(r"jipflow: No space left on device \(\d+ MB free at .*\); .*\n", printed)


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (RuntimeError("a\nbug"), "jipflow: RuntimeError: a bug (the lines above are for"),
        (OSError("Failed to open local file"), "jipflow: OSError: Failed to open local file ("),
    ],
)
def test_what_nobody_foresaw_is_one_line_after_its_traceback(error, last, monkeypatch, capsys):
    def handler():
        """Fail."""
        raise error

    monkeypatch.setitem(menu.COMMANDS, "demo", Command("demo", handler))
    assert main(["demo"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith(last)


def test_once_no_try_can_help_no_job_is_tried_again(tmp_path):
    tries = Tries(1, tmp_path / "run")
    assert tries > 0
    assert not tries > 1
    assert max(tries, Tries(2, tmp_path)) == 2
    (tmp_path / "run").mkdir()
    assert tries > 0
    (tmp_path / "run" / "x.txt").touch()
    assert not tries > 0


def fail_with(error, monkeypatch):
    """Run a command that fails; its calls are counted."""
    calls = []

    def handler():
        """Fail."""
        calls.append(1)
        raise error

    monkeypatch.setitem(menu.COMMANDS, "demo", Command("demo", handler))
    monkeypatch.setitem(menu.COMMANDS, "query", Command("query", handler))
    return calls


def of_the_place(shown):
    """An error of a stage that came of one of the system's."""
    try:
        try:
            raise OSError(5, "Input/output error", "/a")
        except OSError as error:
            raise StageError("x cannot be read") from (error if shown else None)
    except StageError as error:
        return error


@pytest.mark.parametrize(
    ("error", "words", "calls"),
    [
        (StageError("x is wrong; do y."), ["demo"], 1),
        (ConfigError("x is wrong; do y."), ["demo"], 1),
        (StageError("the PACS does not answer"), ["query"], 2),
        (OSError(28, "No space left on device"), ["demo"], 2),
        (MemoryError(), ["demo"], 2),
        (RuntimeError("a bug"), ["demo"], 2),
        (of_the_place(shown=True), ["demo"], 2),
        (of_the_place(shown=False), ["demo"], 2),
    ],
)
def test_only_what_another_try_may_heal_is_tried_again_in_a_run(
    error, words, calls, monkeypatch, capsys, tmp_path
):
    counted = fail_with(error, monkeypatch)
    monkeypatch.setenv("JIPFLOW_RUN", str(tmp_path / "run"))
    printed = []
    for _ in range(2):
        assert main(words) == 1
        printed.append(capsys.readouterr().err.splitlines()[-1])
    assert len(counted) == calls
    assert printed[0] == printed[1]
    # The next run tries it again.
    monkeypatch.setenv("JIPFLOW_RUN", str(tmp_path / "next"))
    assert main(words) == 1
    assert len(counted) == calls + 1


def test_a_missing_file_is_named(tmp_path, capsys):
    assert main(["keys", "show", str(tmp_path / "none.key")]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("jipflow: ")
    assert "none.key" in captured.err
    assert captured.err.count("\n") == 1
    line = ["accept", "--verdict", "verdict.json", "--record", "accepted"]
    assert main([*line, "--settings", str(tmp_path / "none.json")]) == 1
    assert capsys.readouterr().err == f"jipflow: {tmp_path}/none.json: No such file or directory.\n"


@pytest.mark.parametrize("typed", [["--patients", "0"], ["--cores", "0"], ["--patients", "x"]])
def test_a_demo_that_cannot_be_is_named_as_a_wrong_option(typed, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--out", str(tmp_path / "d"), *typed])
    assert ended.value.code == 2
    assert typed[0] in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_a_folder_in_place_of_a_key_is_named(tmp_path, capsys):
    assert main(["keys", "show", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"jipflow: {tmp_path} is no file; name the file")


@pytest.mark.parametrize(("site", "patients"), [("../x", "1"), ("x", "0")])
def test_a_phantom_that_cannot_be_is_named_as_a_wrong_option(site, patients, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["phantom", "--out", str(tmp_path / "p"), "--site", site, "--patients", patients])
    assert ended.value.code == 2
    assert "jipflow phantom: error: " in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_the_parameters_of_a_function_are_the_arguments():
    audience, calls = Audience("Anyone"), []

    @audience.command("try it")
    def handler(
        out: Annotated[Path, "where to"],
        *name: Annotated[str, "of whom"],
        threads: Annotated[int, "cores"],
        from_: Annotated[Path | None, "source"] = None,
        files: Annotated[Sequence[Path], "many"] = (),
        label: Annotated[Sequence[str] | None, "one by one", REPEATED] = None,
        device: Annotated[Literal["cpu", "cuda"], "which"] = "cpu",
        no_pet: Annotated[bool, "CT only"] = False,
    ) -> None:
        """Try it.

        At length.
        """
        calls.append((out, name, threads, from_, files, label, device, no_pet))

    (command,) = audience.commands
    assert (command.words, command.summary) == (["try", "it"], "Try it")
    command.run(["o", "--threads", "2"])
    command.run(
        shlex.split(
            "o n m --threads=3 --from f --files a b --label x --label y --device cuda --no-pet"
        )
    )
    assert calls == [
        (Path("o"), (), 2, None, (), None, "cpu", False),
        (Path("o"), ("n", "m"), 3, Path("f"), [Path("a"), Path("b")], ["x", "y"], "cuda", True),
    ]
    for wrong in ("--threads 1", "o", "o --threads two", "o --threads 1 --device tpu"):
        with pytest.raises(SystemExit):
            command.run(shlex.split(wrong))
    page = command.parser().format_help()
    assert "At length." in page
    assert "(default: cpu)" in page


def command_lines():
    """The command lines of the rules by rule, with a word for each placeholder."""
    found = {}
    for path in sorted((ROOT / "rules").glob("*.smk")):
        text = path.read_text(encoding="utf-8")
        for _, name, body in re.findall(
            r"^( *)(?:rule|checkpoint) (\w+):\n((?:\1    .*\n|\n)+)", text, re.M
        ):
            shell = re.search(r"^ +shell:\n((?: {8,}.*\n)+)", body, re.M)
            if shell:
                line = ast.literal_eval(f"({shell[1]})")
                line = re.split(r" 2?>|\|", line)[0]
                line = line.removeprefix("set -o pipefail; ").replace("{threads}", "2")
                line = line.replace("{params.round}", "2")
                # On a machine of its own a stage has other processes than its threads.
                line = line.replace("{params.workers}", "--threads 16")
                if not line.startswith("cp "):
                    found[name] = shlex.split(re.sub(r"\{[^}]*\}", "x", line))
    return found


# One rule copies a file.
LINES = {rule: words for rule, words in command_lines().items() if words[0] != "cp"}


@pytest.mark.parametrize("rule", LINES)
def test_a_rule_types_what_its_command_takes(rule):
    program, *words = LINES[rule]
    assert program == "jipflow"
    command = menu.find(words)
    assert command is not None
    assert command.name in WORKFLOWS
    rest = words[len(command.words) :]
    known = {option for action in command.parser()._actions for option in action.option_strings}
    assert {word for word in rest if word.startswith("--")} <= known
    command.parser().parse_args(rest)


def test_every_command_of_the_workflow_is_called_by_a_rule():
    # An input function calls this one, to see whether a rule has anything to do.
    looks = {"exchange look"}
    assert {menu.find(words[1:]).name for words in LINES.values()} == set(WORKFLOWS) - looks


def test_the_entry_of_a_stage_takes_its_arguments_by_name():
    entries = [
        (path, node)
        for path in (ROOT / "workflow" / "jipflow").rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == "run"
    ]
    assert len(entries) > 10
    assert [path for path, node in entries if node.args.args or node.args.posonlyargs] == []


def test_settings_are_shown_with_their_defaults(tmp_path, capsys):
    path = tmp_path / "site.yaml"
    path.write_text(
        "site: {id: north, name: North}\n"
        f"sources: [{{name: archive, kind: folder, path: {tmp_path}}}]\n"
    )
    assert main(["config", "show", "--configfile", str(path), "--protocol", "sarcoma-ct"]) == 0
    output = capsys.readouterr().out
    assert "device: auto" in output
    assert "max_failed_fraction: 0.2" in output
    with pytest.raises(SystemExit):
        main(["config", "show", "--configfile", str(path)])
    assert f"{path} names no protocol; add --protocol" in capsys.readouterr().err
    path.write_text(f"{path.read_text()}protocol: sarcoma-ct\n")
    assert main(["config", "show", "--configfile", str(path)]) == 0
    assert capsys.readouterr().out == output
    path.write_text("- north\n")
    assert main(["config", "show", "--configfile", str(path)]) == 1
    assert f"{path} must be a mapping" in capsys.readouterr().err


def test_an_approval_says_what_it_lets_out(tmp_path, capsys):
    """Counts, and the hashes that the page shows, so that who reads it can compare."""
    world = site(tmp_path, "north")
    world.write()
    world.build()
    command = ["release", "approve", str(world.release), "--name", "Ada Roe"]
    command += ["--key", str(world.approver_key)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert f"{world.release}/approval.json, with 5 of 5 cells" in printed
    assert "signed by Ada Roe on " in printed
    for name in ("aggregates.json", "disclosure.json", "disclosure.html"):
        digest = sha256_file(world.release / name)
        assert f"SHA-256 of {name}: {digest}" in printed
    assert main(command) == 0
    assert capsys.readouterr().out == printed


def test_an_approval_of_nothing_is_asked_for(tmp_path, capsys):
    world = site(tmp_path, "south", 3)
    world.write()
    world.build()
    command = ["release", "approve", str(world.release), "--name", "Ada Roe"]
    command += ["--key", str(world.approver_key)]
    assert main(command) == 1
    assert "No cell would leave" in capsys.readouterr().err
    assert main([*command, "--empty"]) == 0
    assert "with 0 of 5 cells" in capsys.readouterr().out
