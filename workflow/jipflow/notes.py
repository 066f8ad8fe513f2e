"""What is decided on an image or a region: a sentence for a person and a code to count it by."""

from __future__ import annotations

from dataclasses import dataclass, field

from jipflow.reasons import Decision


@dataclass
class Notes:
    """What was decided on the way to a volume or a region.

    Attributes:
        sentences: for a person, of the decisions in their order.
        decisions: the code of each; one that was taken twice stands there once.
    """

    sentences: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def add(self, decision: Decision, sentence: str) -> None:
        """Note a decision and the sentence that tells a person of it."""
        if decision not in self.decisions:
            self.decisions.append(decision)
        self.sentences.append(sentence)
