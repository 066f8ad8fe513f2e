"""Who may read what a run writes, at a site and at a hub."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from jipflow.settings.part import Part


class Permissions(Part):
    """Who may read what a run writes."""

    umask: Annotated[str, Field(pattern=r"^0?0[0-7]7$")] = "077"
    """Rights that no file of a run gets, as of the shell's umask. 077 leaves all to the account
    that runs jipflow, 027 lets its group read, 007 lets its group write; others never may."""

    @property
    def mask(self) -> int:
        """The number that the digits write."""
        return int(self.umask, 8)
