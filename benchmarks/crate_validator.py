"""What roc-validator says of crates, without a network.

roc-validator needs a rich before 14, and jipflow's tests one after 15: so it runs in an environment
of its own. It fetches the names of RO-Crate 1.1 from w3id.org; a wheel of rocrate that wrote that
version has them, and they are put into its cache::

    python -m venv .venv-peers/crates
    .venv-peers/crates/bin/pip install roc-validator==0.13.0 rocrate==0.13.0
    .venv-peers/crates/bin/python benchmarks/crate_validator.py results/demo/.../crate/*.zip

It ends with 1 where a crate breaks what a profile requires. This file must not import jipflow.
"""

from __future__ import annotations

import logging
import re
import sys
import tempfile
from collections import Counter
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from requests_cache import CachedResponse, CachedSession
from rocrate_validator.models import Severity
from rocrate_validator.services import detect_profiles, validate
from urllib3 import HTTPResponse

NAMES = "https://w3id.org/ro/crate/1.1/context"
"""The names that every crate of version 1.1 uses."""


ADDRESS = re.compile(r"arcp://\S+|\"[#/.\w-]*/[^\"]*\"")
"""What differs between findings of one kind: the address of a result, or the name of an entity."""


def fill_cache(path: Path) -> None:
    """Put `NAMES` into the cache of HTTP answers that the validator reads."""
    request = requests.Request("GET", NAMES).prepare()
    text = (files("rocrate") / "data" / "ro-crate.jsonld").read_bytes()
    raw = HTTPResponse(
        BytesIO(text), {"Content-Type": "application/ld+json"}, 200, preload_content=False
    )
    answer = HTTPAdapter().build_response(request, raw)
    with CachedSession(str(path), backend="sqlite", expire_after=-1) as session:
        key = session.cache.create_key(request)
        session.cache.save_response(CachedResponse.from_response(answer), key)


def checked(crate: Path, cache: Path) -> int:
    """Print what is found of a crate; return how often it breaks what is required."""
    given = {
        "rocrate_uri": str(crate),
        "cache_path": cache,
        "offline": True,
        "skip_availability_check": True,
    }
    broken = 0
    for profile in detect_profiles(given):
        settings = {
            **given,
            "profile_identifier": profile.identifier,
            "requirement_severity": Severity.RECOMMENDED,
        }
        found = validate(settings).get_issues(Severity.RECOMMENDED)
        counts = Counter(
            (issue.severity.name, ADDRESS.sub("...", issue.message)) for issue in found
        )
        required = sum(n for (name, _), n in counts.items() if name == "REQUIRED")
        print(f"{crate.name}: {profile.identifier}: {required} required, {len(found)} in all")
        for (name, message), number in counts.most_common():
            print(f"  {number} x {name}: {message}")
        broken += required
    return broken


def main() -> None:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "names")
        fill_cache(cache)
        sys.exit(min(1, sum(checked(Path(name), cache) for name in sys.argv[1:])))


if __name__ == "__main__":
    main()
