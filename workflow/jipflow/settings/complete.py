"""The types of the settings, completed by what engines and analyses declare."""

from __future__ import annotations

from functools import cache

from jipflow.settings.plugins import analysis_settings, engine_settings, one_of
from jipflow.settings.protocol import AnalysisSettings, Protocol, SegmentationSettings
from jipflow.settings.registry import PinnedModel, RegisteredModel, Registry


@cache
def complete_types() -> None:
    """Let the types know every engine and analysis; before that they cannot be used.

    What an engine declares derives from the types' modules, so it cannot be there when they are
    imported.
    """
    models = one_of(engine_settings(RegisteredModel), "engine")
    for kind in (Registry, PinnedModel):
        kind.model_rebuild(_types_namespace={"AnyModel": models})
    segmentations = one_of(engine_settings(SegmentationSettings), "engine")
    analyses = one_of(analysis_settings(AnalysisSettings), "kind")
    Protocol.model_rebuild(
        _types_namespace={"AnySegmentation": segmentations, "AnyAnalysis": analyses}
    )
