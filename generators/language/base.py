"""What a language model is to the captioner."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from online_synclr.config.schema import CaptionsConfig

STOP = "\n"
"""A caption ends at its first newline, as in the paper."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn, and how many at most."""

    temperature: float
    top_p: float
    max_tokens: int

    @classmethod
    def of(cls, settings: CaptionsConfig) -> "Sampling":
        """The sampling settings of a configuration."""
        return cls(
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=settings.max_tokens,
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote: one line, and whether it ended it (False: cut off by `max_tokens`)."""

    text: str
    finished: bool


class LanguageModel(Protocol):
    """Continues prompts. Used by one thread at a time."""

    @property
    def fingerprint(self) -> str:
        """Names the model, the back end and the sampling settings."""

    def complete(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Completion]:
        """The continuation of each prompt up to its first newline, in order.

        A continuation depends on its own prompt and seed only, up to numerical tolerance.

        Raises:
            GeneratorError: the model cannot answer, with the setting to change.
        """

    def close(self) -> None:
        """Let go of memory, connections and processes; may be called from another thread."""


def first_line(text: str) -> str:
    """`text` up to its first newline, without white space around it."""
    return text.split(STOP, 1)[0].strip()
