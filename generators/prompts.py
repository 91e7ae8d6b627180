"""Prompts for a completing language model, in the paper's layout.

    <instruction>
    red fox => A red fox trots along a frozen river at dawn.
    ...two more examples of the same template...
    grey owl, old barn =>

The model continues the last line; everything after its first newline is thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from generators.concept_files import ConceptBankError, read_lines, read_text

if TYPE_CHECKING:
    from generators.concepts import Draw

TemplateName = Literal["concept", "concept_background", "concept_relation"]
TEMPLATES: tuple[TemplateName, ...] = get_args(TemplateName)
ARROW = "=>"
EXAMPLES_PER_PROMPT = 3
_INSTRUCTION = "# instruction:"


@dataclass(frozen=True)
class Example:
    """One in-context example: what was asked for (`inputs`) and a caption that answers it."""

    inputs: str
    caption: str

    def __str__(self) -> str:
        return f"{self.inputs} {ARROW} {self.caption}"


@dataclass(frozen=True)
class PromptTemplate:
    """One template's instruction line and its pool of examples."""

    instruction: str
    examples: tuple[Example, ...]

    @classmethod
    def load(cls, path: Path) -> PromptTemplate:
        """Read one prompt file: '# instruction: ...', then one 'inputs => caption' a line.

        Raises:
            ConceptBankError: the file is missing, has no instruction, too few or broken examples.
        """
        examples = tuple(_parse_example(line, path) for line in read_lines(path))
        if len(examples) < EXAMPLES_PER_PROMPT:
            raise ConceptBankError(
                f"{path} has {len(examples)} examples; write at least {EXAMPLES_PER_PROMPT}"
            )
        return cls(instruction=_read_instruction(path), examples=examples)


@dataclass(frozen=True)
class PromptBook:
    """The prompt templates of a bank, by template name."""

    templates: Mapping[TemplateName, PromptTemplate]

    @classmethod
    def load(cls, folder: Path) -> PromptBook:
        """Read `<template>.txt` for every template that `folder` holds.

        Raises:
            ConceptBankError: the folder holds no template, or one of them is unusable.
        """
        paths = {name: folder / f"{name}.txt" for name in TEMPLATES}
        found = {name: PromptTemplate.load(path) for name, path in paths.items() if path.exists()}
        if not found:
            raise ConceptBankError(f"{folder} holds no prompt file; add {TEMPLATES[0]}.txt to it")
        return cls(templates=found)

    def __getitem__(self, name: TemplateName) -> PromptTemplate:
        return self.templates[name]

    def __contains__(self, name: object) -> bool:
        return name in self.templates


def query_inputs(draw: Draw) -> str:
    """Return what a draw asks for, as it stands before the arrow: 'red fox, snowy field'."""
    extra = draw.background if draw.background is not None else draw.relation
    return draw.concept.name if extra is None else f"{draw.concept.name}, {extra}"


def build_prompt(draw: Draw, book: PromptBook) -> str:
    """Return the prompt of a draw: instruction, its examples, the query up to the arrow.

    A pure function: the examples are the draw's `example_indices`. The text ends with the arrow and
    no space, since most tokenisers join a space to the word that follows it.
    """
    template = book[draw.template]
    examples = [str(template.examples[index]) for index in draw.example_indices]
    return "\n".join([template.instruction, *examples, f"{query_inputs(draw)} {ARROW}"])


def _read_instruction(path: Path) -> str:
    first_line = read_text(path).split("\n", 1)[0].strip()
    instruction = first_line.removeprefix(_INSTRUCTION).strip()
    if not first_line.startswith(_INSTRUCTION) or not instruction:
        raise ConceptBankError(f"{path}: its first line must be '{_INSTRUCTION} <one sentence>'")
    return instruction


def _parse_example(line: str, path: Path) -> Example:
    parts = [part.strip() for part in line.split(ARROW)]
    if len(parts) != 2 or not all(parts):
        raise ConceptBankError(f"{path}: '{line}' is no example; write 'inputs {ARROW} caption'")
    return Example(*parts)
