"""What the disclosure gate does not protect from, for whoever approves a release."""

from __future__ import annotations

NOT_PROTECTED_FROM = (
    "Two releases that differ by a few patients: their difference may tell about those. Release "
    "once for a cohort that does not change.",
    "One patient who dominates a mean, where others know roughly what the rest is.",
    "All patients of a site in one bin: the bin's width is then what becomes known. Protocols "
    "choose edges wide enough.",
    "`rows` above `n`: it shows how many more cases than patients there are.",
    "Whoever knows how the gate works and that it withheld as little as it could may narrow down a "
    "withheld bin further than the numbers alone allow.",
)
"""The list of docs/release.md, word by word; a test compares them."""
