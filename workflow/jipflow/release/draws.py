"""Noise that was drawn, in the folder of the site's ledger: once, and read ever after.

A draw that did not leave has cost nothing, but who could draw again at will would choose.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from jipflow.exchange.message import Sha256, canonical, checked
from jipflow.files import read_json
from jipflow.privacy.private import alone_in, write_private
from jipflow.reasons import StageError
from jipflow.settings.part import Part
from jipflow.settings.resources import ConfigError

FOLDER = "noise"
"""Name of the folder of the draws, in that of the ledger."""


class DrawFault(StageError):
    """A draw is not as it was written; nothing is released."""


class Draw(Part):
    """Numbers with noise."""

    format: Literal["jipflow-noise-1"] = "jipflow-noise-1"
    identity: Sha256
    """Hash of what they are of."""
    numbers: dict[str, int]


class SealedDraw(Part):
    """What the file of a draw holds."""

    draw: Draw
    seal: Sha256
    """HMAC-SHA256 (RFC 2104) of the draw's canonical JSON under the site's secret."""


class Draws:
    """The draws of a site.

    Args:
        ledger: folder of the ledger; it need not be there.
        secret: of the site.
    """

    def __init__(self, ledger: Path, secret: bytes) -> None:
        self.folder = Path(ledger) / FOLDER
        self._secret = secret

    def drawn(self, identity: str, make: Callable[[], dict[str, int]]) -> Mapping[str, int]:
        """Return numbers that are drawn once.

        Args:
            identity: hash of what they are of.
            make: draws them.

        Raises:
            DrawFault: they are not as they were written.
        """
        path = self.folder / f"{identity}.json"
        # The ledger's folder first, so that it is made for its owner alone.
        with alone_in(self.folder.parent), alone_in(self.folder):
            if not path.is_file():
                draw = Draw(identity=identity, numbers=make())
                sealed = SealedDraw(draw=draw, seal=self._seal(draw))
                write_private(path, canonical(sealed.plain()))
            return self._read(path).numbers

    def check(self) -> int:
        """Check every draw that is kept, and return how many there are.

        Raises:
            DrawFault: one is not as it was written.
        """
        return len([self._read(path) for path in sorted(self.folder.glob("*.json"))])

    def _read(self, path: Path) -> Draw:
        try:
            sealed = checked(SealedDraw, read_json(path), str(path))
        except (ValueError, ConfigError):
            raise _fault(path, "is not as it was written") from None
        right = hmac.compare_digest(sealed.seal, self._seal(sealed.draw))
        if not right or sealed.draw.identity != path.stem:
            raise _fault(path, "was changed, or written with another secret than the site's")
        return sealed.draw

    def _seal(self, draw: Draw) -> str:
        return hmac.new(self._secret, canonical(draw.plain()), hashlib.sha256).hexdigest()


def _fault(path: Path, what: str) -> DrawFault:
    return DrawFault(
        f"{path} {what}: noise that was drawn once. Restore it from the backup of the ledger. If "
        "there is none, remove the file: what was packed is in the ledger's entries, all else is "
        "drawn anew."
    )
