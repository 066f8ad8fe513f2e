"""nnU-Net's post-processing: the largest component of some labels stays, the others go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jipflow.files import read_json
from jipflow.models import upstream
from jipflow.reasons import StageError

KNOWN = "remove_all_but_largest_component_from_segmentation"
"""Of `upstream`: the one that nnU-Net has."""


def read_postprocessing(path: Path | None) -> list[list[int]]:
    """Read which labels' largest components are kept, from a ``postprocessing.json``.

    nnU-Net writes it beside ``postprocessing.pkl`` and with the same content, and nothing in it can
    run code.

    Args:
        path: None where there is none.

    Returns:
        Steps in their order, each the values of the labels that are looked at as one.

    Raises:
        StageError: it asks for something else.
    """
    if path is None:
        return []
    steps = []
    try:
        content = read_json(path)
        functions, keywords = content["postprocessing_fns"], content["postprocessing_kwargs"]
        for function, given in zip(functions, keywords, strict=True):
            if function != KNOWN or given.keys() != {"labels_or_regions"}:
                raise ValueError(f"{function} with {', '.join(given)}")
            steps.append([int(value) for value in _flat(given["labels_or_regions"])])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StageError(
            f"{path} is not a post-processing that can be applied ({error!r}); only nnU-Net's "
            f"{KNOWN} is known. Remove the key postprocessing from the model's entry, or let "
            "nnUNetv2_determine_postprocessing write the file anew."
        ) from None
    return steps


def _flat(values: Any) -> list[Any]:
    """Return the values of a label, a region, or of a list of these: each looks at their union."""
    return [v for part in values for v in _flat(part)] if isinstance(values, list) else [values]


def keep_largest(labels: np.ndarray[Any, Any], steps: Sequence[Sequence[int]]) -> Any:
    """Set to background what is not in the largest component of some labels, step by step.

    Components are connected by faces, edges and corners; of several largest all are kept.

    Args:
        labels: of an image.
        steps: values that are looked at as one.
    """
    for values in steps:
        labels = upstream.remove_all_but_largest_component_from_segmentation(labels, list(values))
    return labels
