"""The settings of the engine `nnunet`, and of its models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from jipflow.reasons import StageError
from jipflow.segment.engines.nnunet.described import Dataset, Plans, described
from jipflow.settings.part import AsGiven, Maybe, Role, Text, Unique
from jipflow.settings.protocol import Known, LabelledSegment, ModelSegmentation, Protocol
from jipflow.settings.registry import FileName, LabelledModel, RegisteredModel
from jipflow.settings.resources import ConfigError


class NnUNetSegment(LabelledSegment):
    """A region that is taken over."""

    label: Text
    """The label's name in the model's dataset.json."""


class NnUNetSegmentation(ModelSegmentation):
    """Regions that a model of nnU-Net v2 finds."""

    extra: ClassVar[str] = "nnunet"

    engine: Literal["nnunet"]
    inputs: Annotated[list[Role], Unique] = Field(default=[])
    """Roles of the model's channels, in its order; each is resampled onto the grid of role. Without
    any, the model takes the role alone."""
    folds: Annotated[list[Literal[0, 1, 2, 3, 4, "all"]], Unique] = Field(default=[])
    """Folds whose mean is taken, 0 to 4 or all (the fold trained on all cases); without any, all
    that are pinned."""
    mirroring: bool = False
    """Test-time augmentation by mirroring; several times slower."""
    tile_step_size: Annotated[float, Field(gt=0, le=1), AsGiven] = 0.5
    """Distance of the tiles that a large image is predicted in, as a share of their size."""
    segments: Annotated[list[NnUNetSegment], Field(min_length=1)]
    """The regions that are taken over."""

    def modalities(self, model: RegisteredModel) -> dict[str, str]:
        """Return the modality that the series of each channel's role must have."""
        return dict(zip(self.inputs or [self.role], model.roles, strict=False))

    def input_roles(self) -> list[str]:
        """Return the roles whose volumes it needs, its own first."""
        return list(dict.fromkeys([self.role, *self.inputs]))

    def networks(self, known: Known) -> int:
        """Return how many members the model has, or else how many of its folds run."""
        model = known.models.get(self.model)
        if not isinstance(model, NnUNetModel):
            return 0
        if len(model.members) > 1:
            return len(model.members)
        return len(self.folds or model.folds(*model.members))

    def problems(self, protocol: Protocol, known: Known) -> Iterator[str]:
        """Yield what is wrong with the model, its labels, channels and folds."""
        yield from self.model_problems(known)
        yield from self.label_problems(known)
        model = known.models.get(self.model)
        if not isinstance(model, NnUNetModel):
            return
        inputs = self.inputs or [self.role]
        if len(inputs) != len(model.roles):
            yield (
                f"model {self.model!r} takes {len(model.roles)} images "
                f"({', '.join(model.roles)}) and not {len(inputs)}; name a role for each in "
                "inputs, in this order."
            )
        for member in model.members or [""]:
            for fold in self.folds:
                if str(fold) not in model.folds(member):
                    yield (
                        f"model {self.model!r} has no fold {fold} in {known.registries}; name one "
                        "that it has, or none for all."
                    )


class NnUNetModel(LabelledModel):
    """A model of nnU-Net v2."""

    engine: Literal["nnunet"]
    checkpoint: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")] = (
        "checkpoint_final.pth"
    )
    """Name of the weights in each fold's folder."""
    members: Annotated[
        list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]*$")]], Unique
    ] = Field(default=[])
    """Folders of trained configurations whose probabilities are averaged, where the model's folder
    is not one itself; the first stage of a cascade stands beside the second and is not named."""
    postprocessing: Maybe[FileName] = None
    """Which of the files is the `postprocessing.json` that nnU-Net found best for the model;
    without it nothing is removed from what was predicted."""
    axes: Annotated[str, Field(pattern=r"^[LR][AP][SI]$")] = "LPS"
    """Where x, y and z run in the files that it was trained with: left, back and head as in an
    axial DICOM series, or other letters of LR, AP and SI."""

    def folds(self, member: str = "") -> list[str]:
        """Return the folds of the model, by its pinned checkpoints.

        Args:
            member: folder of a configuration below the model's.
        """
        prefix, suffix = (f"{member}/fold_" if member else "fold_"), f"/{self.checkpoint}"
        return sorted(
            path.removeprefix(prefix).removesuffix(suffix)
            for path in self.files
            if path.startswith(prefix) and path.endswith(suffix)
        )

    def file_problems(self, folder: Path) -> Iterator[str]:
        """Yield which of nnU-Net's files are not there, or have other labels."""
        if self.postprocessing is not None and self.postprocessing not in self.files:
            yield (
                f"there is no file {self.postprocessing!r} in {folder}; nnU-Net writes it beside "
                "postprocessing.pkl, in crossval_results_folds_.. or ensembles/.."
            )
        elif self.postprocessing is not None:
            from jipflow.segment.engines.nnunet.postprocessing import read_postprocessing

            try:
                read_postprocessing(folder / self.postprocessing)
            except StageError as error:
                yield str(error)
        for member in self.members or [""]:
            yield from self._member_problems(folder, f"{member}/" if member else "")

    def _member_problems(self, folder: Path, member: str) -> Iterator[str]:
        """Yield what is wrong with the files of a trained configuration."""
        for path in (f"{member}dataset.json", f"{member}plans.json"):
            if path not in self.files:
                yield (
                    f"{folder / path} is missing; name under members the folders of trained "
                    "configurations, where there are several."
                )
                return
        if not self.folds(member.rstrip("/")):
            yield (
                f"{folder}/{member} has no fold_0 to fold_4 or fold_all with {self.checkpoint}; "
                "name another file as checkpoint, or copy the folder again from nnUNet_results."
            )
        try:
            dataset = described(Dataset, folder / f"{member}dataset.json")
            described(Plans, folder / f"{member}plans.json")
        except ConfigError as error:
            yield str(error)
            return
        yield from self._dataset_problems(dataset, f"{member}dataset.json")

    def _dataset_problems(self, dataset: Dataset, path: str) -> Iterator[str]:
        """Yield in which labels and channels the entry differs from what was trained."""
        trained = dataset.segments()
        named = {label.name: label.value for label in self.labels}
        if trained.keys() != named.keys():
            yield (
                f"its labels are {', '.join(sorted(named))}, but those of {path} are "
                f"{', '.join(sorted(trained))}; name the same."
            )
        for name, values in trained.items():
            if isinstance(values, int) and named.get(name, values) != values:
                yield (
                    f"its label {name!r} has the value {named[name]}, but {values} in {path}; "
                    "give the same."
                )
        channels = dataset.channels()
        if len(channels) != len(self.roles):
            yield (
                f"its roles are {', '.join(self.roles)}, but the channels of {path} are "
                f"{', '.join(channels)}; name the modality of each."
            )
        for channel, modality in zip(channels, self.roles, strict=False):
            if (channel == "CT") != (modality == "CT"):
                yield (
                    f"its roles are {', '.join(self.roles)}, but the channels of {path} are "
                    f"{', '.join(channels)}, and nnU-Net scales Hounsfield units where a channel "
                    "is CT; name the modalities in the order of the channels."
                )
                break
