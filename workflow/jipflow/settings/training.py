"""The settings of a training: a model made of a protocol's own cohort."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from jipflow.settings.part import AsGiven, Id, Maybe, Part, Positive, Role, Text

Patch = Annotated[
    list[Annotated[int, Field(ge=8)]],
    Field(
        min_length=3,
        max_length=3,
        description="Voxels of a patch along (z, y, x); the last two in configuration `2d`.",
    ),
]
Features = Annotated[
    list[Annotated[int, Field(ge=1)]],
    Field(min_length=2, description="Channels at each resolution of the network."),
]
Batch = Annotated[int, Field(ge=1, description="Patches in an iteration.")]
BatchDice = Annotated[
    bool, Field(description="Take the Dice loss over the batch, not over each patch.")
]
Epochs = Annotated[int, Field(ge=1, description="Number of epochs.")]
Iterations = Annotated[int, Field(ge=1, description="Training iterations in an epoch.")]
ValidationIterations = Annotated[int, Field(ge=1, description="Validation iterations in an epoch.")]
Optimiser = Annotated[
    Literal["sgd", "adamw"],
    Field(description="Stochastic gradient descent as nnU-Net does it, or AdamW."),
]
LearningRate = Annotated[
    float,
    Field(gt=0, allow_inf_nan=False, description="The first learning rate; it falls to 0."),
    AsGiven,
]
Mirroring = Annotated[
    bool,
    Field(description="Mirror patches in training; not where left and right tell segments apart."),
]


class Training(Part):
    """A model that `snakemake train` trains."""

    model: Id
    """Name under which the model is registered in the site's models.yaml."""
    segmentation: Id
    """Id of the segmentation whose segments are the labels."""
    inputs: list[Role] = Field(default=[])
    """Roles that are the channels of the image, in this order; those of another grid are resampled
    onto that of the segmentation. Without any it is the segmentation's role."""
    configuration: Literal["2d", "3d_lowres", "3d_fullres"] = "3d_fullres"
    """Which of nnU-Net's configurations is trained."""
    folds: Annotated[int, Field(ge=1, le=10)] = 5
    """Folds of the cross-validation, by patient; each gives a model, and the models are an
    ensemble. With 1 there is one model of all cases that are not held out."""
    held_out: Annotated[float, Field(ge=0, le=0.5), AsGiven] = 0
    """Share of the patients that no model sees and the ensemble is evaluated on."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides the split and every random number of the training."""
    preset: str
    """`full` is nnU-Net's own plan and schedule, for a GPU; `small` is a small network and a short
    schedule for a CPU. Each of the keys below may be given as well."""
    spacing: Maybe[Annotated[list[Positive], Field(min_length=3, max_length=3)]] = None
    """Distance of the voxels in mm along (z, y, x), superior, posterior and left, that images are
    resampled to; else nnU-Net's choice."""
    licence: Text
    """The model's licence, as an SPDX identifier or in words."""
    intended_use: Text
    """What the model may be used for."""
    training_data: Text
    """What the model was trained on, for those who will use it."""
    patch: Patch | None
    features: Features | None
    batch: Batch | None
    batch_dice: BatchDice | None
    epochs: Epochs
    iterations: Iterations
    validation_iterations: ValidationIterations
    optimiser: Optimiser
    learning_rate: LearningRate
    mirroring: Mirroring

    def fold_names(self) -> list[str]:
        """Return nnU-Net's names of the folds: ``0`` and on, or ``all`` for one model."""
        return [str(number) for number in range(self.folds)] if self.folds > 1 else ["all"]


class SmallTraining(Training):
    """A small network and a short schedule for a CPU."""

    preset: Literal["small"]
    patch: Patch = Field(default=[32, 64, 64])
    features: Features = Field(default=[16, 32, 64, 128])
    batch: Batch = 2
    batch_dice: BatchDice = True
    epochs: Epochs = 40
    iterations: Iterations = 25
    validation_iterations: ValidationIterations = 3
    optimiser: Optimiser = "adamw"
    learning_rate: LearningRate = 0.002
    mirroring: Mirroring = False


class FullTraining(Training):
    """nnU-Net's own plan and schedule, for a GPU."""

    preset: Literal["full"] = "full"
    patch: Maybe[Patch] = None
    features: Maybe[Features] = None
    batch: Maybe[Batch] = None
    batch_dice: Maybe[BatchDice] = None
    epochs: Epochs = 1000
    iterations: Iterations = 250
    validation_iterations: ValidationIterations = 50
    optimiser: Optimiser = "sgd"
    learning_rate: LearningRate = 0.01
    mirroring: Mirroring = True


def _full_by_default(value: Any) -> Any:
    return {"preset": "full", **value} if isinstance(value, dict) else value


AnyTraining = Annotated[
    Annotated[SmallTraining | FullTraining, Field(discriminator="preset")],
    BeforeValidator(_full_by_default),
]

DESCRIBING = frozenset({"model", "licence", "intended_use", "training_data"})
"""Keys of a training that describe the model and change no number."""
