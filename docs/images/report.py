"""Make the picture of README from the report of a real run of the demonstration.

    make demo
    .venv/bin/python docs/images/report.py

It needs `chromium`. What the picture shows in words is kept inside the file, so that a test tells
when the page has become another; then run it again.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, PngImagePlugin

REPORT = Path("results/demo/results/north/demo/report/index.html")
PICTURE = Path(__file__).with_suffix(".png")
KEY = "jipflow"
"""Name of the text in the file."""

SIZE = (1400, 940)
"""Width and height of the window in pixels."""


def shown(page: str) -> dict[str, object]:
    """Return what the beginning of a report says: its labels, and how many cases became what.

    Args:
        page: the report's HTML.
    """
    contents = re.findall(r'<a href="#\w+">([^<]+)</a>', page.split("</nav>")[0])
    verdict, cohort = (
        page.split(f'<section id="{name}"')[1].split("</section>")[0]
        for name in ("verdict", "cohort")
    )
    title = re.sub(r"<[^>]+>", "", re.findall(r"<h2>(.*?)</h2>", verdict)[0]).lstrip("✓!…✕")
    tiles = re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", verdict)
    return {
        "contents": [name.strip() for name in contents],
        "title": title,
        "headings": re.findall(r"<h[23]>([^<]+)</h[23]>", cohort),
        "tiles": {name: int(re.sub(r"\D", "", text)) for name, text in tiles},
    }


def take(page: Path, picture: Path) -> None:
    """Photograph a report and keep inside the picture what it shows."""
    browser = shutil.which("chromium")
    if browser is None:
        sys.exit("chromium is not installed")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += ["--disable-background-networking", f"--user-data-dir={folder}/profile"]
        options += [f"--window-size={SIZE[0]},{SIZE[1]}", f"--screenshot={raw}"]
        subprocess.run([browser, *options, page.resolve().as_uri()], check=True)
        image = Image.open(raw).convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    note = PngImagePlugin.PngInfo()
    note.add_text(KEY, json.dumps(shown(page.read_text(encoding="utf-8"))))
    image.save(picture, optimize=True, pnginfo=note)


if __name__ == "__main__":
    take(Path(sys.argv[1]) if len(sys.argv) > 1 else REPORT, PICTURE)
