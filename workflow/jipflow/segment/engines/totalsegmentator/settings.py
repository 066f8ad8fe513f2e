"""The settings of the engine `totalsegmentator`, and of its models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from jipflow.models.tasks import Task, read_tasks, runnable
from jipflow.settings.names import among
from jipflow.settings.part import Maybe, Part, SegmentName, Text, json_type
from jipflow.settings.protocol import (
    Expectation,
    Known,
    LabelledSegment,
    ModelSegmentation,
    Protocol,
)
from jipflow.settings.registry import RegisteredModel
from jipflow.settings.terms import TermName


class TaskSegment(LabelledSegment):
    """A class of a task that is taken over."""

    label: Text
    """The class's name in the task."""


class GivenSegment(Part):
    """A class of a task as a protocol gives it; the task has the rest."""

    label: Text
    """The class's name in the task."""
    name: Maybe[SegmentName] = None
    """Name of the segment in tables and releases; without it the class's name in small letters."""
    term: Maybe[TermName] = Field(
        default=None,
        description="Name of a coded term in workflow/resources/terms.yaml; without it the class's "
        "own.",
    )
    required: bool = False
    """A case without this segment fails the segmentation."""
    expect: Maybe[Expectation] = None
    """What a plausible segment is; one that is not is flagged in its outcome and in the report."""


Given = Annotated[
    Annotated[Literal["all"], Tag("string")]
    | Annotated[list[GivenSegment], Field(min_length=1), Tag("array")],
    Discriminator(json_type),
]


class TotalSegmentation(ModelSegmentation):
    """Regions that TotalSegmentator finds."""

    extra: ClassVar[str] = "totalsegmentator"

    engine: Literal["totalsegmentator"]
    task: Text
    """TotalSegmentator's task, such as total; docs/models-reference.md lists them."""
    mode: Literal["default", "fast", "fastest"] = "default"
    """Resolution of the task: fast runs at 3 mm and fastest at 6 mm, where the task has them."""
    segments: Annotated[list[TaskSegment], Field(min_length=1)]
    """The regions that are taken over, or `all` classes of the task."""

    @field_validator("task")
    @classmethod
    def _known_task(cls, name: str) -> str:
        if name not in read_tasks():
            raise PydanticCustomError(
                "task",
                "there is no task {name}{rest}",
                {"name": repr(name), "rest": among(name, read_tasks())},
            )
        return name

    @field_validator("mode")
    @classmethod
    def _known_mode(cls, mode: str, info: ValidationInfo) -> str:
        modes = read_tasks()[info.data["task"]].modes if "task" in info.data else [mode]
        if mode not in modes:
            raise PydanticCustomError(
                "mode",
                "task {task} has no mode {mode}; it has: {known}.",
                {"task": repr(info.data["task"]), "mode": repr(mode), "known": ", ".join(modes)},
            )
        return mode

    @field_validator("segments", mode="before", json_schema_input_type=Given)
    @classmethod
    def _complete(cls, given: Any, info: ValidationInfo) -> Any:
        """Fill in names and terms from the task's classes; ``all`` is a segment for each class."""
        # Of a task that is not there, no other message is to be given.
        task = read_tasks()[info.data["task"]] if info.data.keys() >= {"task", "mode"} else None
        if given == "all" and task:
            given = [{"label": label} for label in task.labels]
        if not isinstance(given, list):
            return given
        return [_completed(each, task) for each in given]

    def modalities(self, model: RegisteredModel) -> dict[str, str]:
        """Return the modality of the task's images."""
        return {self.role: read_tasks()[self.task].modality}

    def problems(self, protocol: Protocol, known: Known) -> Iterator[str]:
        """Yield which weights the model lacks."""
        yield from self.model_problems(known)
        model = known.models.get(self.model)
        able = runnable(model.files) if model else []
        if model and (self.task, self.mode) not in able:
            yield (
                f"model {self.model!r} lacks weights of task {self.task!r} in mode {self.mode!r}; "
                f"it has those of: {', '.join(f'{task} ({mode})' for task, mode in able) or 'none'}"
                ". docs/models.md says how to fetch and pin them."
            )


class TotalModel(RegisteredModel):
    """Weights of TotalSegmentator."""

    engine: Literal["totalsegmentator"]


def _completed(given: Any, task: Task | None) -> Any:
    """Return a segment with the name and term of its class, where it has none of its own."""
    label = given.get("label") if isinstance(given, dict) else None
    if not isinstance(label, str) or not label:
        return given
    if task is None:
        return {"name": label.lower(), "term": "unknown", **given}
    if label not in task.labels:
        raise PydanticCustomError(
            "label",
            "task {task} has no class {label}{rest}",
            {
                "task": repr(task.name),
                "label": repr(label),
                "rest": among(label, task.labels, "it has"),
            },
        )
    completed = {"name": label.lower(), "term": task.terms[label], **given}
    if completed["term"] is None and "term" not in given:
        raise PydanticCustomError(
            "label",
            "class {label} has no term; add one with reviewed codes to the protocol's terms and "
            "name it as the segment's term, or leave the class out. Without a term are: {uncoded}.",
            {"label": repr(label), "uncoded": ", ".join(task.uncoded())},
        )
    return completed
