"""Prompts have the paper's layout, and their files are checked."""

from pathlib import Path

import pytest

from generators.concepts import Concept, ConceptBank, ConceptBankError, ConceptStream, Draw
from generators.prompts import PromptBook, build_prompt, query_inputs
from tests.concept_banks import write_bank, write_prompts

FOX = Concept("red fox", source="animals", kind="object", domain="animal")


@pytest.fixture
def book(tmp_path: Path) -> PromptBook:
    for template in ("concept", "concept_background", "concept_relation"):
        write_prompts(tmp_path, template, num_examples=5)
    return PromptBook.load(tmp_path)


def test_layout_with_a_background(book: PromptBook) -> None:
    draw = Draw(FOX, "concept_background", "snowy field", None, (4, 0, 2))
    assert build_prompt(draw, book) == (
        "Write one sentence (concept_background).\n"
        "thing 4 => A photo of thing 4.\n"
        "thing 0 => A photo of thing 0.\n"
        "thing 2 => A photo of thing 2.\n"
        "red fox, snowy field =>"
    )


@pytest.mark.parametrize(
    ("draw", "inputs"),
    [
        (Draw(FOX, "concept", None, None, (0, 1, 2)), "red fox"),
        (Draw(FOX, "concept_background", "river bank", None, (0, 1, 2)), "red fox, river bank"),
        (Draw(FOX, "concept_relation", None, "behind", (0, 1, 2)), "red fox, behind"),
    ],
)
def test_query(book: PromptBook, draw: Draw, inputs: str) -> None:
    assert query_inputs(draw) == inputs
    prompt = build_prompt(draw, book)
    assert prompt.startswith(f"Write one sentence ({draw.template}).\n")
    assert prompt.endswith(f"\n{inputs} =>")


def test_the_prompt_of_a_draw_is_a_pure_function(tmp_path: Path) -> None:
    bank = ConceptBank.load(write_bank(tmp_path))
    prompts = [
        [build_prompt(ConceptStream(bank, 3, 1, 2).draw(n), bank.prompts) for n in range(50)]
        for _ in range(2)
    ]
    assert prompts[0] == prompts[1]
    assert len(set(prompts[0])) > 25


def test_a_book_may_hold_some_templates_only(tmp_path: Path) -> None:
    write_prompts(tmp_path, "concept", num_examples=3)
    book = PromptBook.load(tmp_path)
    assert "concept" in book
    assert "concept_relation" not in book


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a => A.\nb => B.\nc => C.\n", "its first line must be '# instruction:"),
        ("# instruction:\na => A.\nb => B.\nc => C.\n", "its first line must be"),
        ("# instruction: Write.\na => A.\nb => B.\n", "2 examples; write at least 3"),
        ("# instruction: Write.\na => A.\nb B.\nc => C.\n", "'b B.' is no example"),
        ("# instruction: Write.\na => A.\nb => B => B.\nc => C.\n", "is no example"),
        ("# instruction: Write.\na => A.\nb =>\nc => C.\n", "is no example"),
        ("# instruction: Write.\na => A.\n=> B.\nc => C.\n", "is no example"),
    ],
)
def test_a_faulty_prompt_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "concept.txt").write_text(text)
    with pytest.raises(ConceptBankError, match=message) as caught:
        PromptBook.load(tmp_path)
    assert "concept.txt" in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConceptBankError, match=r"add concept\.txt"):
        PromptBook.load(tmp_path)
