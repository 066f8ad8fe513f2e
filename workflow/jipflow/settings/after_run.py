"""The settings of what a site has run when a run is over."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from jipflow.settings.part import Part, Text


class AfterRun(Part):
    """A command that is run when a run is over, well or with an error."""

    command: Annotated[list[Text], Field(min_length=1)]
    """The program and its arguments, each an entry of the list; no shell reads them. It gets the
    counts of cases by stage and reason as JSON on its standard input, and in its environment as
    JIPFLOW_STATE (ended or failed), JIPFLOW_OK, JIPFLOW_FAILED, JIPFLOW_WAITING and JIPFLOW_OPEN.
    See [repair.md](repair.md#when-a-run-is-over)."""
    seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """It is ended when it takes longer."""
