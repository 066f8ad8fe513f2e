"""What the disclosure gate does not protect from, for whoever approves a release."""

from __future__ import annotations

NOT_PROTECTED_FROM = (
    "Two releases that differ by a few patients: their difference may tell about those. Release "
    "once for a cohort that does not change.",
    "Many patients of a site in one bin: its width is then what becomes known of each. Protocols "
    "choose edges wide enough.",
    "Textures beyond the families of `saturation`: that no values follow from their means and "
    "variances is argued, not proven.",
    "Several protocols at one site: each is checked by itself.",
    "`rows` above `n`: it shows how many more cases than patients there are.",
    "Whoever knows how the gate works and that it withheld as little as it could may narrow down a "
    "withheld bin further than the numbers alone allow.",
)
"""The list of docs/release.md, word by word; a test compares them."""
