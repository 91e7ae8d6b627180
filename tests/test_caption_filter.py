"""What becomes a caption, what is refused and why, and that nothing a model writes breaks it."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators.caption_filter import REASONS, Accepted, CaptionFilter, Rejected, clean
from generators.concept_names import bare_name, names_concept
from generators.concepts import Concept, Draw
from generators.prompts import PromptBook
from online_synclr.caption_identity import _normalise, caption_id, normalise_caption
from tests.concept_banks import write_prompts


def concept(name: str, *aliases: str) -> Concept:
    return Concept(name, source="test", kind="object", domain="generic", aliases=aliases)


def draw_of(name: str = "red fox", *aliases: str) -> Draw:
    return Draw(concept(name, *aliases), "concept", None, None, (0, 1, 2))


def verdict(text: str, name: str = "red fox", **settings: int) -> str:
    """The accepted caption, or the reason in brackets."""
    result = CaptionFilter(**settings).check(text, draw_of(name))
    return result.caption if isinstance(result, Accepted) else f"[{result.reason}]"


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        (" A red fox sleeps.\nblue jay => A blue jay sings.", "A red fox sleeps."),
        ("\n\n  A red fox sleeps.", "A red fox sleeps."),
        ("A red fox sleeps.\r\nMore", "A red fox sleeps."),
        ("A red fox sleeps.\u2028More", "A red fox sleeps."),
        ('"A red fox sleeps."', "A red fox sleeps."),
        ("\u201cA red fox sleeps.\u201d", "A red fox sleeps."),
        ('"A red fox sleeps.', "A red fox sleeps."),
        ("- A red fox sleeps.", "A red fox sleeps."),
        ("1. A red fox sleeps.", "A red fox sleeps."),
        ("* \u2022 A red fox sleeps.", "A red fox sleeps."),
        ('- "A red fox sleeps."', "A red fox sleeps."),
        ("=> A red fox sleeps.", "A red fox sleeps."),
        ("red fox, snowy field => A red fox sleeps.", "A red fox sleeps."),
        ("A  red\tfox \x07 sleeps.\x00", "A red fox sleeps."),
        ("The fox's den is empty.", "The fox's den is empty."),
        ("12 foxes run over a hill.", "12 foxes run over a hill."),
        ('A fox under a sign that says "exit".', 'A fox under a sign that says "exit".'),
        ('"Fox" is painted on a "red" van', '"Fox" is painted on a "red" van'),
    ],
)
def test_texts_are_cleaned(text: str, caption: str) -> None:
    assert verdict(text) == caption


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n \t", "empty"),
        ('"..." 12 !!', "empty"),
        ("=>", "empty"),
        ("red fox =>", "empty"),
        ("A red fox.", None),
        ("Red fox", "too_short"),
        ("A red fox " + "very " * 40 + "far away.", "too_long"),
        ("A red fox " + "x" * 400, "too_long"),
        ("A red fox sleeps. owl => An owl flies.", "prompt_echo"),
        ("red fox => A red fox => A red fox sleeps.", "prompt_echo"),
        ("A red fox sleeps \ufffd\ufffd.", "garbled"),
        ("A red fox @@@@ ~~ ####### %% sleeps", "garbled"),
        ("A red fox, a well-known 3-legged one, sleeps (at 5 o'clock).", None),
        ("A red fox on a red fox on a red fox on a red fox", "repetitive"),
        ("A red fox beside a red fox on a red hill", None),
        ("A fox, a fox, a fox", None),
        ("A blue car on a road.", "concept_missing"),
        ("The foxglove blooms in June.", "concept_missing"),
    ],
)
def test_reasons(text: str, reason: str | None) -> None:
    assert verdict(text) == (f"[{reason}]" if reason else text)


def test_the_first_line_counts_as_finished_where_it_was_broken() -> None:
    captions = CaptionFilter()
    cut = captions.check("A red fox sleeps in the\nmiddle", draw_of(), finished=False)
    assert cut == Accepted("A red fox sleeps in the")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("A red fox sleeps. Its tail is wrapped arou", "A red fox sleeps."),
        ('A fox sits by a sign "Stop." It wai', 'A fox sits by a sign "Stop."'),
        ("A red fox sleeps. ", "A red fox sleeps."),
        ("A red fox sleeps in the", ""),
        ("A red fox near St. Moritz looks at 3.5 kil", ""),
    ],
)
def test_an_unfinished_sentence_is_cut(text: str, left: str) -> None:
    assert clean(text, finished=False) == left


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="min_words <= max_words"):
        CaptionFilter(min_words=10, max_words=5)
    with pytest.raises(ValueError, match="max_chars"):
        CaptionFilter(max_chars=0)
    with pytest.raises(ValueError, match="history_size"):
        CaptionFilter(history_size=-1)


def test_the_concept_may_go_unnamed_where_that_is_allowed() -> None:
    captions = CaptionFilter(require_concept=False)
    assert captions.check("A blue car on a road.", draw_of()) == Accepted("A blue car on a road.")


def test_examples_and_instructions_are_echoes(tmp_path: Path) -> None:
    write_prompts(tmp_path, "concept", num_examples=3)
    captions = CaptionFilter(book=PromptBook.load(tmp_path), require_concept=False)
    assert captions.check("a photo of thing 1", draw_of()) == Rejected("prompt_echo")
    assert captions.check("Write one sentence (concept).", draw_of()) == Rejected("prompt_echo")
    assert isinstance(captions.check("A photo of thing 9.", draw_of()), Accepted)


def test_a_query_or_a_filled_in_instruction_is_an_echo(tmp_path: Path) -> None:
    write_prompts(tmp_path, "concept", num_examples=3)
    (tmp_path / "concept.txt").write_text(
        "# instruction: Write one sentence about the thing that is named.\n"
        + "\n".join(f"thing {i} => A photo of thing {i}." for i in range(3))
    )
    captions = CaptionFilter(book=PromptBook.load(tmp_path))
    asked = replace(draw_of(), background="snowy field")
    assert captions.check("Red fox, snowy field.", asked) == Rejected("prompt_echo")
    filled = "Write one sentence about the red fox."
    assert captions.check(filled, asked) == Rejected("prompt_echo")
    other = "Write one sentence, says the red fox."
    assert captions.check(other, asked) == Accepted(other)


def test_repeats_are_refused_until_they_are_forgotten() -> None:
    captions = CaptionFilter(history_size=2)
    texts = ["A red fox runs.", "a RED  fox runs!", "A fox sits.", "A fox eats.", "A red fox runs."]
    verdicts = [captions.check(text, draw_of()) for text in texts]
    assert verdicts[1] == Rejected("repeated")
    assert [isinstance(v, Accepted) for v in verdicts] == [True, False, True, True, True]
    assert captions.counts["repeated"] == 1
    assert captions.counts["accepted"] == 4


def test_a_repeat_keeps_its_caption_remembered() -> None:
    captions = CaptionFilter(history_size=2)
    for text in ["A red fox runs.", "A fox sits.", "A red fox runs.", "A fox eats."]:
        captions.check(text, draw_of())
    assert captions.check("A red fox runs.", draw_of()) == Rejected("repeated")


def test_without_history_nothing_is_a_repeat() -> None:
    captions = CaptionFilter(history_size=0)
    assert all(isinstance(captions.check("A red fox.", draw_of()), Accepted) for _ in range(3))


def test_refused_texts_are_not_remembered() -> None:
    captions = CaptionFilter()
    assert captions.check("A blue car drives.", draw_of("red fox")) == Rejected("concept_missing")
    assert isinstance(captions.check("A blue car drives.", draw_of("blue car")), Accepted)


@pytest.mark.parametrize(
    ("name", "aliases", "caption"),
    [
        ("red fox", (), "Two RED FOXES play."),
        ("red fox", (), "A fox at night."),
        ("T-shirt", (), "A white t shirt hangs."),
        ("T-shirt", (), "White tshirts hang."),
        ("pickup truck", (), "A pick-up is parked by trucks."),
        ("ice cream", (), "An icecream melts."),
        ("jack-o'-lantern", (), "A jack-o\u2019-lantern grins."),
        ("crane (bird)", (), "A crane wades."),
        ("loaf of bread", (), "Two loaves cool."),
        ("bird of paradise", (), "A bird of paradise blooms."),
        ("puppy", (), "Three puppies sleep."),
        ("mouse", (), "Mice run."),
        ("wolf", (), "Wolves howl."),
        ("glass", (), "Four glasses stand."),
        ("ski", (), "A pair of skis."),
        ("iris", (), "Purple irises bloom."),
        ("bus", (), "Red buses wait."),
        ("creme brulee", (), "A cr\u00e8me br\u00fbl\u00e9e is served."),
        ("Audi S4 Sedan 2012 car", ("Audi S4 Sedan 2012", "Audi"), "A grey Audi waits."),
        ("Audi S4 Sedan 2012 car", ("Audi S4 Sedan 2012",), "A grey sedan waits."),
        ("Boeing 747-400 aircraft", ("747-400",), "A 747-400 lands."),
        ("striped", ("stripes",), "Cloth with narrow stripes."),
    ],
)
def test_concepts_are_found_tolerantly(name: str, aliases: tuple[str, ...], caption: str) -> None:
    assert names_concept(caption, concept(name, *aliases))


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("cat", "A catalogue lies open."),
        ("red fox", "A red van."),
        ("pen", "A penguin swims."),
        ("loaf of bread", "A slice of bread."),
        ("crane (bird)", "A small bird."),
        ("Boeing 747-400", "A row of 400 lamps."),
        ("ant", "An elephant wants water."),
    ],
)
def test_other_things_are_not_taken_for_the_concept(name: str, caption: str) -> None:
    assert not names_concept(caption, concept(name))


def test_bare_name() -> None:
    assert bare_name("crane (wading bird)") == "crane"
    assert bare_name("red fox") == "red fox"
    assert bare_name("(odd)") == "(odd)"


MODEL_TEXT = st.text(max_size=200) | st.lists(
    st.sampled_from(
        ["red", "fox", "=>", "\n", '"', "'", "- ", "1.", "\u201c", "\u201d", ".", "!", " ", "\x00",
         "\u2028", "\ufeff", "\U0001f98a", "a\u0301", "\ud800", "A photo", "*", ">>", "(", "\t"]
    ),
    max_size=40,
).map("".join)  # fmt: skip


@given(text=MODEL_TEXT, finished=st.booleans())
def test_whatever_a_model_writes_is_judged(text: str, finished: bool) -> None:
    captions = CaptionFilter()
    result = captions.check(text, draw_of(), finished=finished)
    assert sum(captions.counts.values()) == 1
    assert set(captions.counts) == {"accepted", *REASONS}
    if isinstance(result, Accepted):
        assert result.caption == result.caption.strip()
        assert result.caption.isprintable()
        assert "=>" not in result.caption
        assert 3 <= len(result.caption.split()) <= 40
        assert names_concept(result.caption, draw_of().concept)
        assert captions.check(result.caption, draw_of()) == Rejected("repeated")


@given(text=MODEL_TEXT)
def test_cleaning_is_idempotent(text: str) -> None:
    once = clean(text)
    if "=>" not in once:
        assert clean(once) == once


def test_a_runaway_text_is_cheap_to_refuse() -> None:
    assert verdict("-" * 5_000_000) == "[empty]"
    assert verdict("a " * 5_000_000) == "[too_long]"


@given(text=st.text(max_size=100))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise_caption(normalise_caption(text)) == normalise_caption(text)


@given(text=st.text(st.characters(codec="ascii"), max_size=100))
def test_the_short_way_for_ascii_is_the_same(text: str) -> None:
    assert normalise_caption(text) == _normalise(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A red fox.", "a red  fox"),
        ("A red fox!", "A RED FOX"),
        ("caf\u00e9", "cafe\u0301"),
        ("\uff21 fox", "a fox"),
        ("Stra\u00dfe", "STRASSE"),
        ("semi-detached", "semi detached"),
    ],
)
def test_captions_that_are_one_class(one: str, other: str) -> None:
    assert caption_id(one) == caption_id(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("red fox", "fox red"), ("two foxes", "two fox"), ("a fox", "fox"), ("\u2600", "\u2601")],
)
def test_captions_that_are_two_classes(one: str, other: str) -> None:
    assert caption_id(one) != caption_id(other)


def test_an_id_is_sixteen_bytes_and_lasting() -> None:
    # Checkpoints and recipes of different versions must agree on what one class is.
    assert caption_id("A red fox.").hex() == "6d5c9c71e2c402e2b97771b7ec13edd9"
    assert len(caption_id("\ud800")) == 16
