"""What the disclosure gate does not protect from, for whoever approves a release."""

from __future__ import annotations

NOT_PROTECTED_FROM = (
    "Releases that the ledger does not know: of another site, or of this one before its ledger was "
    "lost or was kept in another folder.",
    "Many patients of a site in one bin: its width is then what becomes known of each. Protocols "
    "choose edges wide enough.",
    "Textures beyond the families of `saturation`: that no values follow from their means and "
    "variances is argued, not proven.",
    "Regions of several segmentations that add up to one another, such as the lobes of a "
    "liver: where a patient lacks those and not the whole, the sums may give the value of "
    "that patient.",
    "Several segmentations of one region that differ in every patient, as of several readers "
    "or models: their errors average out, so that the patients whom one lacks may become "
    "known better than from one pair.",
    "Numbers of patients of different regions or roles, which may differ by a few: they tell "
    "how many have a region or an image, and of thresholds that lie far apart, in how many "
    "the maximum lies between.",
    "The size of a cohort that somebody knows from elsewhere: less a number of patients with a "
    "value it is the number of those without one, however few.",
    "Numbers with all their digits: where values are known to lie on a grid, as counts of "
    "voxels do, mean and variance exclude more than rounded ones would.",
    "Values that hardly differ between patients: the mean is then near to that of each.",
    "Fully known patients: who knows the values of all but a few of a cohort subtracts them, and "
    "the filter of a protocol can choose a cohort of those.",
    "A filter, a threshold or another limit that is moved from release to release: where the "
    "patients stay the same their numbers leave again, and where one is lost they do not, so that "
    "the greatest age or the least maximum is found as exactly as there are releases.",
    "That a cell is withheld by `earlier`: it tells that some patients, fewer than the minimum, "
    "came or left, or were measured anew.",
    "Several releases whose patients are the same and whose values differ in many of them, as of "
    "another model or other settings: their errors average out.",
    "`rows` above `n`: it shows how many more cases than patients there are.",
    "Whoever knows how the gate works and that it withheld as little as it could may narrow down a "
    "withheld bin further than the numbers alone allow.",
    "Edges of quantiles that a site leaves out: they tell that fewer patients than the minimum lie "
    "on one side, and so between which two edges the value of some patient lies, not of which; "
    "these are never closer than a 100,000th of the range of the protocol.",
    "Edges of survival curves that a site leaves out: they tell that few have the event or leave "
    "without it beside them, and so between which two edges the time of some patient lies, not of "
    "which; these are never closer than a hundredth of the last edge.",
    "That noisy numbers of one protocol are the same as before: it tells that no patient came, "
    "left or was measured anew; other numbers tell that some did, not who.",
    "Exact numbers of patients whose noisy ones leave as well: noise protects from who has nothing "
    "else of them.",
    "Differences of what models send at coefficients that come near to each other as Newton's "
    "steps do: small combinations of several, whose digits are few, tell about where the greatest "
    "values lie.",
    "Coefficients of a Cox model that a hub chooses as large as the gate lets it: they tell about "
    "where the values of those with the greatest lie, who are as many as the minimum.",
)
"""The list of docs/release.md, word by word; a test compares them."""
