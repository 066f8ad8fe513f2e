"""Where the secrets of a PACS come from, and where they must not."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from jipflow.pacs.connect import open_archive
from jipflow.pacs.credentials import private_file, secret
from jipflow.settings.resources import ConfigError
from jipflow.settings.site import DicomWeb, Dimse, Tls


def dicomweb(**keys: str) -> DicomWeb:
    basis = {
        "name": "pacs",
        "kind": "dicomweb",
        "url": "https://pacs.example/dicom-web",
        "parallel": 1,
        "timeout": 1,
    }
    return DicomWeb.model_validate(basis | keys)


def written(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def test_a_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_TOKEN", "abc.def")
    assert secret(dicomweb(token_env="PACS_TOKEN"), "token") == "abc.def"


def test_a_password_comes_from_a_file_without_its_end_of_line(tmp_path: Path) -> None:
    file = written(tmp_path / "password", "ä secret \r\n")
    assert secret(dicomweb(password_file=str(file)), "password") == "ä secret "


def test_no_secret_is_none() -> None:
    assert secret(dicomweb(), "token") is None


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PACS_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("PACS_TOKEN", value)
    with pytest.raises(ConfigError, match=r"'pacs'.*PACS_TOKEN is not set"):
        secret(dicomweb(token_env="PACS_TOKEN"), "token")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"token_file: .*/nowhere: No such file"):
        secret(dicomweb(token_file=str(tmp_path / "nowhere")), "token")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o666])
def test_a_file_that_others_can_read_is_refused_with_the_command_that_fixes_it(
    mode: int, tmp_path: Path
) -> None:
    file = written(tmp_path / "token", "secret", mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {file}") as error:
        secret(dicomweb(token_file=str(file)), "token")
    assert "secret" not in str(error.value).replace(str(file), "")


def test_a_folder_is_no_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a file"):
        private_file(tmp_path, "source 'pacs': tls.key_file")


@pytest.mark.parametrize("content", ["", "\n", "one\ntwo\n", "a\0b", b"\xff\xfe"])
def test_a_file_that_holds_no_line_of_text_is_refused(content: str | bytes, tmp_path: Path) -> None:
    file = written(tmp_path / "token", content)
    with pytest.raises(ConfigError, match="text"):
        secret(dicomweb(token_file=str(file)), "token")


def test_a_secret_named_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_TOKEN", "abc")
    file = written(tmp_path / "token", "abc")
    source = dicomweb(token_env="PACS_TOKEN", token_file=str(file))
    with pytest.raises(ConfigError, match="token_env and token_file are both given"):
        secret(source, "token")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"user": "reader"}, "user belongs together with password_env"),
        ({"password_env": "PACS_PASSWORD"}, "user belongs together with password_env"),
        (
            {"user": "reader", "password_env": "PACS_PASSWORD", "token_env": "PACS_TOKEN"},
            "a token and a user are both given",
        ),
        ({"ca_file": "/nowhere/ca.pem"}, "ca_file: /nowhere/ca.pem is not a file"),
    ],
)
def test_credentials_that_do_not_fit_together_are_refused(
    keys: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACS_TOKEN", "abc")
    monkeypatch.setenv("PACS_PASSWORD", "def")
    with pytest.raises(ConfigError, match=message):
        open_archive(dicomweb(**keys))


@pytest.mark.parametrize(
    "keys",
    [
        {"user": "me", "password_file": "geheim-geheim"},
        {"user": "me", "password_env": "geheimGeheim1"},
        {"token_env": "eyJgeheim"},
        {"token_file": "eyJ.geheim.x"},
    ],
)
def test_a_secret_in_place_of_its_name_is_not_shown(
    keys: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, kind = dicomweb(**keys), "token" if "user" not in keys else "password"
    with pytest.raises(ConfigError) as caught:
        secret(source, kind)
    assert "geheim" not in str(caught.value).lower()
    assert f"{kind}_" in str(caught.value)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key = written(tmp_path / "key.pem", "-", 0o640)
    certificate = written(tmp_path / "cert.pem", "-", 0o644)
    source = Dimse(
        name="pacs",
        kind="dimse",
        host="pacs.example",
        port=104,
        called_aet="PACS",
        calling_aet="JIPFLOW",
        parallel=1,
        timeout=1,
        tls=Tls(ca_file=requests.certs.where(), cert_file=str(certificate), key_file=str(key)),
    )
    with pytest.raises(ConfigError, match=f"tls.*chmod 600 {key}"):
        open_archive(source)
