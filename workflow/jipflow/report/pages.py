"""What all pages share: the templates, the formats of numbers, and writing one file."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jipflow.analyses.cells import CLINICAL, CLINICAL_WORDS
from jipflow.analyses.contract import title_of
from jipflow.analyses.units import with_unit
from jipflow.blocks import class_of, feature
from jipflow.files import atomic_path
from jipflow.plots import MISSING, THIN_SPACE, count, duration, number
from jipflow.settings.resources import RESOURCES
from jipflow.version import full_version

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = RESOURCES / "report"
ENDING = ".html.j2"

SHARED = ("base", "blocks", "macros")
"""Templates of all pages; others are named as their page, or stand in a folder of its name."""

SIZES = 2**16
"""A page whose size leaves has a multiple of so many bytes."""


@cache
def environment() -> Environment:
    """Return the jinja2 environment of the templates: escaping on, undefined names an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    script = (TEMPLATES / "page.js").read_text(encoding="utf-8").strip()
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        number=number,
        count=count,
        duration=duration,
        share=share,
        class_of=class_of,
        feature=feature,
        with_unit=with_unit,
        with_code=with_code,
        title_of=title_of,
    )
    made.globals.update(
        clinical_role=CLINICAL.role,
        clinical_words=CLINICAL_WORDS,
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8").strip()),
        script=Markup(script),
        # The page may run this one script and load nothing.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return made


def compile_page(page: str) -> None:
    """Compile the templates of a page, for processes that are copies of this one."""
    made = environment()
    for name in made.list_templates():
        if name.partition("/")[0].partition(".")[0] in {page, *SHARED} and name.endswith(ENDING):
            made.get_template(name)


def write_page(path: Path, template: str, *, secret: bytes | None = None, **context: Any) -> None:
    """Render a template into one self-contained HTML file.

    Args:
        path: the file.
        template: its name.
        secret: of the site, for a page that stays there and whose size and hash leave.
        context: what the template shows.
    """
    # Of the moment: the environment may be older, and of another process.
    version = full_version()
    text = environment().get_template(template).render(full_version=version, **context)
    if secret is not None:
        text += _veil(text, secret)
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _veil(text: str, secret: bytes) -> str:
    """Return the comment that ends a page of which size and hash shall say nothing.

    A page is made of a template and of numbers, some of them few: who tries all would find the one
    of the hash. Under the HMAC (RFC 2104) of the page nobody can who has not the secret, and the
    same page has the same bytes.
    """
    seal = hmac.new(secret, b"page\0" + text.encode(), hashlib.sha256).hexdigest()
    comment = f"<!-- {seal} -->\n"
    missing = -len((text + comment).encode()) % SIZES
    return f"<!-- {seal}{' ' * missing} -->\n"


def with_code(text: str) -> Markup:
    """Return a sentence whose words between backticks are names of the data or of the format."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def share(part: float, whole: float) -> str:
    """Format a part of a whole in per cent; a dash where the whole is nothing."""
    return MISSING if whole == 0 else f"{100 * part / whole:.0f}{THIN_SPACE}%"
