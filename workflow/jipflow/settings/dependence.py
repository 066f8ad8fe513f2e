"""Which parts of a site's settings each stage depends on: what a change of one computes again."""

from __future__ import annotations

from collections.abc import Mapping

DEPENDENCE: Mapping[str, tuple[str, ...]] = {
    "catalog": ("folders",),
    "query": ("archives", "cohort", "segmentations"),
    "cohort": ("cohort", "site.processing", "consent list"),
    "clinical": ("clinical", "clinical source"),
    "retrieve": (),
    "prepare": ("suv", "volumes"),
    "segment": ("segmentations",),
    "annotate": ("protocol", "segmentations", "site.annotation"),
    "encode": ("protocol", "segmentations"),
    "measure": ("radiomics",),
    "document": ("protocol", "segmentations", "radiomics", "suv"),
    "publish": ("site.publish",),
    "overlay": ("segmentations",),
    "collect": ("tolerance",),
    "accept": (),
    "report": ("whole protocol", "whole site"),
    "crate": ("whole protocol", "site.site"),
    "candidate": ("whole protocol", "site.site", "site.disclosure", "site.hub"),
    "receive": ("whole protocol", "site.site", "site.hub", "site.exchange", "site.identity"),
    "bundle": ("whole protocol", "site.site", "site.hub", "site.exchange", "site.identity"),
    "train_data": ("segmentations", "training.segmentation", "training.inputs"),
    "train_plan": ("segmentations", "plan"),
    "train_fit": ("fit",),
    "train_evaluate": ("segmentations", "training.segmentation", "training.folds"),
    "train_report": ("protocol", "training", "site.site"),
    "train_register": ("whole protocol",),
    "train_crate": ("whole protocol", "site.site"),
}
"""By stage: keys of the protocol, of the site as ``site.<key>``, of the protocol's training as
``training.<key>``, and what `jipflow.settings.run` gathers of several. What a stage reads of
earlier ones is not repeated: their records are its inputs."""

PLANNING = (
    *("segmentation", "inputs", "configuration", "folds", "held_out", "seed"),
    *("spacing", "patch", "features", "batch", "batch_dice"),
)
"""Keys of the training that decide the split and the network."""
