"""The command line answers at once and says what is wrong in one line."""

from __future__ import annotations

import subprocess
import sys

from jipflow.cli import main


def test_help_loads_nothing_heavy():
    code = (
        "import sys, contextlib\n"
        "from jipflow.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "heavy = {'numpy', 'pandas', 'torch', 'pydicom', 'highdicom', 'SimpleITK', 'yaml'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.rstrip().endswith("LOADED []")
    assert "catalog" in result.stdout


def test_an_error_is_one_line_and_an_exit_code(tmp_path, capsys):
    assert main(["keys", "show", str(tmp_path / "none.key")]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("jipflow: ")
    assert "none.key" in captured.err
    assert captured.err.count("\n") == 1


def test_settings_are_shown_with_their_defaults(tmp_path, capsys):
    path = tmp_path / "site.yaml"
    path.write_text(
        "site: {id: north, name: North}\n"
        f"sources: [{{name: archive, kind: folder, path: {tmp_path}}}]\n"
    )
    assert main(["config", "show", "--configfile", str(path), "--protocol", "sarcoma-ct"]) == 0
    output = capsys.readouterr().out
    assert "shard_size: 50" in output
    assert "max_failed_fraction: 0.2" in output
