"""Three sites whose features differ by scanner, and a hub, for two rounds of ComBat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from federation_world import hub_settings, protocol, site
from models_world import AGE, CLINICAL, SEX, accepted, build_after, clinical_of, past_of, stated

FEATURES = (
    "original_firstorder_Mean",
    "original_glcm_Idmn",
    "original_glcm_JointEntropy",
    "original_gldm_DependenceEntropy",
    "original_ngtdm_Coarseness",
)
PLACES = ("liver", "spleen")
COVARIATES = [AGE, SEX]
KEYS = ["case_id", "patient", "role", "segmentation", "segment"]


def entry(id="combat", **more):
    return {"id": id, "kind": "combat", "variables": ["CT.original_*"], **more}


def world(tmp_path, *analyses, sizes=(64, 75, 97), mean=50.0, sd=1.0, missing=False):
    """Return sites of several sizes, and the hub's settings.

    Args:
        tmp_path: folder of all files.
        analyses: entries of the protocol.
        sizes: patients of each site.
        mean: of the first feature, of which values have few digits.
        sd: of the first feature.
        missing: whether the last site lacks the age of six patients and a feature of thirty others.
    """
    content = protocol(analyses=list(analyses), clinical=CLINICAL)
    made = [site(tmp_path, f"site{i}", n, i, content=content) for i, n in enumerate(sizes)]
    for i, one in enumerate(made):
        one.clinical = clinical_of(one, i)
        one.table = one.table[[*KEYS, "voxels", "volume_ml", "settings_sha256"]]
        rng = np.random.default_rng(3000 + i)
        age = one.clinical.set_index("case_id")["age"]
        for g, feature in enumerate(FEATURES):
            noise = rng.gamma(9, 1 / 3, len(one.table)) - 3
            value = 0.6 + 0.03 * noise * (1 + 0.15 * i + 0.1 * g) + 0.04 * ((i + g) % 3)
            value += 0.001 * (one.table["case_id"].map(age).to_numpy() - 60)
            if g == 0:
                value = mean + np.round((value - 0.6) * 20 * sd * 2**18) / 2**18
            one.table = one.table.assign(**{feature: value})
        if missing and i == 2:
            one.clinical.loc[3:8, "age"] = np.nan
            late = one.table["case_id"].isin(one.clinical["case_id"][20:50])
            one.table.loc[late, FEATURES[2]] = np.nan
        one.write()
    return made, hub_settings(made, tmp_path / "inbox", content)


def later(made, of_site, staying=True, **of_round):
    """Build the second round of a site beside the first, which it has built last."""
    more = {"staying_dir": made.root / "harmonised"} if staying else {}
    return build_after(made, of_site, **more, **of_round)


def two_rounds(made, settings):
    """Return what the hub has of both rounds, what it stated between them, and what left first.

    The latter is, by the site's name, what its ledger then knows.
    """
    first = accepted(made, settings)
    state = stated(settings, first)
    pasts = {one.name: [past_of(one)] for one in made}
    second = accepted(
        made,
        settings,
        2,
        state,
        build_=lambda one, **of_round: later(one, pasts[one.name], **of_round),
    )
    return first, state, second, pasts


def pooled(made, segment, covariates):
    """Return the features of a segment of all sites, the site of each row, and covariates."""
    tables, sites, c = [], [], []
    for one in made:
        rows = one.table[one.table["segment"] == segment].sort_values("case_id")
        of = one.clinical.set_index("case_id").loc[rows["case_id"]]
        tables.append(rows[list(FEATURES)].to_numpy(float))
        sites += [one.name] * len(rows)
        columns = [of["age"].to_numpy(float), (of["sex"] == "F").to_numpy(float)]
        c.append(np.column_stack(columns)[:, : len(covariates)])
    return np.vstack(tables), np.array(sites), np.vstack(c)


LIVER = {"segments": ["liver"]}


def only_liver(tmp_path, *more, covariates=(), **of_world):
    analysis = entry(**LIVER, **({"covariates": list(covariates)} if covariates else {}))
    return world(tmp_path, analysis, *more, **of_world)


def opened(made, settings):
    """Return what the hub states before the second round, and what has left the first site."""
    return stated(settings, accepted(made, settings)), [past_of(made[0])]


@dataclass
class Settled:
    """Sites that have answered in both rounds, and are changed by no test."""

    made: list
    settings: object
    first: list
    state: object
    second: list
    pasts: list

    def later(self, state=None, pasts=None):
        """Build the second round of the first site again."""
        pasts = self.pasts if pasts is None else pasts
        return later(self.made[0], pasts, round_=2, state=state or self.state)


def settled(folder, covariates):
    made, settings = only_liver(folder, covariates=covariates)
    first, state, second, pasts = two_rounds(made, settings)
    return Settled(made, settings, first, state, second, pasts[made[0].name])


def found(files):
    """Return the features that leave, and the rules that withhold others."""
    aggregates, record = files
    lost = {
        cell["feature"]: [rule for rule, is_ in cell["rules"].items() if is_ == "withheld"]
        for cell in record["cells"]
        if not cell["released"]
    }
    return [c["feature"] for a in aggregates["analyses"] for c in a["cells"]], lost
