"""Folders of S3 and WebDAV, reached by Snakemake's storage plugins.

The plugins' providers make the connection: settings, credentials, proxies and certificates are as
Snakemake's documentation says. Files are listed, read and written by the clients of the providers:
the plugins' own methods list nothing in these versions, bound neither bytes nor time, write into
names that a server chooses, and leave half files (docs/exchange.md).

No text of a server goes into a message, since it could repeat the password that it was sent.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from jipflow.exchange.transport import Listed, NotThere, Place
from jipflow.pacs.credentials import private_file
from jipflow.reasons import PlaceError
from jipflow.settings.addresses import Address
from jipflow.settings.extras import install_command
from jipflow.settings.resources import ConfigError

CHUNK = 1 << 18
"""Bytes that are read at a time."""

LONGEST_LIST = 32 << 20
"""Bytes of the XML that lists a folder; 10,000 files of wsgidav take 9 MB."""

SILENCE = 30.0
"""Seconds without a byte after which a connection is over."""

GONE = {404, 410}


def open_place(address: Address) -> Place:
    """Return a place.

    Args:
        address: of the folder.

    Raises:
        ConfigError: its plugin is not installed, or credentials are missing or open to others.
    """
    provider = _provider(address)
    return Bucket(provider, address) if address.kind == "s3" else WebDav(provider, address)


class Bucket:
    """A prefix of a bucket.

    Args:
        provider: of the plugin for S3.
        address: of the place.
    """

    def __init__(self, provider: Any, address: Address) -> None:
        self.bucket = provider.s3c.Bucket(address.host)
        self.prefix = f"{address.path}/" if address.path else ""

    def entries(self) -> Iterator[Listed]:
        """See `jipflow.exchange.transport.Place`."""
        with _explained():
            pages = self.bucket.meta.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket.name, Prefix=self.prefix, Delimiter="/"):
                # What is no list at all is read as an empty one.
                if "Name" not in page:
                    raise PlaceError("its answer is no list of a bucket")
                for item in page.get("Contents", []):
                    if item["Key"] != self.prefix:
                        mark = item.get("ETag") or item.get("LastModified", "")
                        yield Listed(
                            item["Key"].removeprefix(self.prefix), int(item["Size"]), str(mark)
                        )

    def chunks(self, name: str) -> Iterator[bytes]:
        """See `jipflow.exchange.transport.Place`."""
        with _explained():
            body = self.bucket.Object(self.prefix + name).get()["Body"]
            with body:
                yield from body.iter_chunks(CHUNK)

    def put(self, path: Path, name: str, folder: str | None) -> None:
        """See `jipflow.exchange.transport.Place`; an object is there once it is whole."""
        below = f"{folder}/" if folder else ""
        with open(path, "rb") as stream, _explained():
            self.bucket.Object(f"{self.prefix}{below}{name}").put(Body=stream)


class WebDav:
    """A folder of a WebDAV server (RFC 4918).

    Args:
        provider: of the plugin for WebDAV.
        address: of the place.
    """

    def __init__(self, provider: Any, address: Address) -> None:
        self.client = provider.client.client
        # The plugin reads this from its settings and does not use it.
        self.client.http.timeout = SILENCE
        self.path = unquote(urlsplit(address.web_url).path).rstrip("/")

    def entries(self) -> Iterator[Listed]:
        """See `jipflow.exchange.transport.Place`."""
        from webdav4.multistatus import MultiStatusResponse

        with _explained():
            text = b"".join(self._stream("PROPFIND", "", {"Depth": "1"}, LONGEST_LIST))
            answer = MultiStatusResponse(text.decode("utf-8"))
            # What is no list at all is read as an empty one.
            if answer.tree.tag != "{DAV:}multistatus":
                raise PlaceError("its answer is no list of a folder")
            for item in answer.responses.values():
                about = item.properties
                if about.collection or item.path_norm.rstrip("/") == self.path:
                    continue
                mark = about.etag or about.raw["modified"] or ""
                name = item.path_norm.removeprefix(f"{self.path}/")
                yield Listed(name, int(about.content_length or 0), mark)

    def chunks(self, name: str) -> Iterator[bytes]:
        """See `jipflow.exchange.transport.Place`."""
        with _explained():
            yield from self._stream("GET", name, {}, None)

    def put(self, path: Path, name: str, folder: str | None) -> None:
        """See `jipflow.exchange.transport.Place`; a server may show what comes before its end."""
        from webdav4.client import ResourceAlreadyExists

        below = f"{folder}/" if folder else ""
        with _explained():
            if folder:
                with suppress(ResourceAlreadyExists):
                    self.client.mkdir(folder)
            self.client.upload_file(path, f"{below}{name}.part", overwrite=True)
            self.client.move(f"{below}{name}.part", f"{below}{name}", overwrite=True)

    def _stream(
        self, method: str, name: str, headers: dict[str, str], most: int | None
    ) -> Iterator[bytes]:
        """Iterate over the body of an answer, as it is sent, which is no redirection."""
        url = self.client.join_url(name, add_trailing_slash=not name)
        headers = {**headers, "Accept-Encoding": "identity"}
        with self.client.http.stream(method, str(url), headers=headers) as answer:
            if answer.status_code not in {200, 207}:
                raise _Status(answer.status_code)
            got = 0
            for chunk in answer.iter_raw(CHUNK):
                got += len(chunk)
                if most is not None and got > most:
                    raise PlaceError(f"the list has more than {most} bytes")
                yield chunk


class _Status(Exception):
    """An answer of HTTP that is none of success."""

    def __init__(self, status_code: int) -> None:
        super().__init__(status_code)
        self.status_code = status_code


def _provider(address: Address) -> Any:
    """Return the provider of a plugin, with the settings that Snakemake would give it."""
    from snakemake_interface_common.exceptions import InvalidPluginException
    from snakemake_interface_storage_plugins.registry import StoragePluginRegistry

    try:
        plugin = StoragePluginRegistry().get_plugin(address.kind)
    except InvalidPluginException:
        raise ConfigError(
            f"{address.url}: the package snakemake-storage-plugin-{address.kind} is not "
            f"installed; say: {install_command('exchange')}"
        ) from None
    found: dict[str, str | int] = {
        each.name: value
        for each in fields(plugin.settings_cls)
        if each.metadata.get("env_var")
        if (value := _from_environment(plugin.get_envvar(each.name))) is not None
    }
    if address.kind == "webdav":
        found["host"] = address.web_url
        missing = [plugin.get_envvar(n) for n in ("username", "password") if n not in found]
        if missing:
            raise ConfigError(f"{address.url}: set the environment variable {missing[0]}.")
    else:
        # What fails is tried again by the next run.
        found["retries"] = 2
        if "access_key" not in found:
            _check_aws_file()
    return plugin.storage_provider(
        local_prefix=Path(tempfile.gettempdir()),
        logger=logging.getLogger("jipflow.exchange"),
        settings=plugin.settings_cls(**found),
    )


def _from_environment(variable: str) -> str | None:
    """Return a variable's value, or what is in the private file that ``<variable>_FILE`` names.

    Raises:
        ConfigError: the file is missing or open to others.
    """
    if value := os.environ.get(variable):
        return value
    if named := os.environ.get(f"{variable}_FILE"):
        path = private_file(Path(named), f"the environment variable {variable}_FILE")
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    return None


def _check_aws_file() -> None:
    """Check that the file of credentials that boto3 would read is its owner's alone."""
    named = os.environ.get("AWS_SHARED_CREDENTIALS_FILE")
    path = Path(named or "~/.aws/credentials").expanduser()
    if named or path.exists():
        private_file(path, "AWS_SHARED_CREDENTIALS_FILE" if named else "credentials of S3")


@contextmanager
def _explained() -> Iterator[None]:
    """Turn every error of a library or server into one of the place, without the server's words.

    Raises:
        NotThere: there is no such file.
        PlaceError: all else.
    """
    try:
        yield
    except PlaceError:
        raise
    except MemoryError:
        raise PlaceError("its answer is too large") from None
    except Exception as error:
        status = _status(error)
        if status in GONE:
            raise NotThere from None
        if status in {401, 403}:
            raise PlaceError(
                f"access is denied (HTTP status {status}); check the credentials"
            ) from None
        what = f"HTTP status {status}" if status else type(error).__name__
        raise PlaceError(what) from None


def _status(error: Exception) -> int | None:
    """Return the status of HTTP in an error of a library; None where it has none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status_code", None)
    if type(error).__name__ in {"ResourceNotFound", "NoSuchKey"}:
        status = 404
    return status if isinstance(status, int) and status >= 300 else None
