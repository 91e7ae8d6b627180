"""The concept bank refuses what a draw could trip over; the stream is a pure function."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from generators.concepts import ConceptBank, ConceptBankError, ConceptStream, Draw
from tests.concept_banks import BANK, SOURCES, write_bank, write_prompts

FIRST_DRAWS = [
    ("owl", "concept_background", (3, 2, 0)),
    ("owl", "concept_background", (0, 4, 3)),
    ("crane (bird)", "concept", (2, 4, 1)),
    ("crane (bird)", "concept", (3, 0, 4)),
]


@pytest.fixture
def bank(tmp_path: Path) -> ConceptBank:
    return ConceptBank.load(write_bank(tmp_path))


def draws(bank: ConceptBank, num: int, **key: int) -> list[Draw]:
    key = {"run_seed": 0, "incarnation": 0, "stream": 0} | key
    stream = ConceptStream(bank, **key)
    return [stream.draw(counter) for counter in range(num)]


def shares(values: list[Any]) -> dict[Any, float]:
    return {value: count / len(values) for value, count in Counter(values).items()}


def test_load_reads_names_domains_aliases_and_the_appended_word(bank: ConceptBank) -> None:
    concepts = {c.name: c for source in bank.sources for c in source.concepts}
    assert set(concepts) == {
        "red fox", "crane (bird)", "owl", "Audi S4 Sedan 2012 car", "beach", "library",
    }  # fmt: skip
    assert concepts["red fox"].aliases == ("fox", "Vulpes")
    assert concepts["Audi S4 Sedan 2012 car"].aliases == ("Audi S4 Sedan 2012", "Audi")
    assert concepts["beach"].domain == "generic"
    assert bank.backgrounds["animal"] == ("snowy field", "forest path", "river bank")


def test_shares_are_kept(bank: ConceptBank) -> None:
    drawn = draws(bank, 20_000)
    assert shares([d.concept.source for d in drawn]) == pytest.approx(
        {"animals": 0.6, "cars": 0.1, "scenes": 0.3}, abs=0.01
    )
    objects = [d for d in drawn if d.concept.kind == "object"]
    assert shares([d.template for d in objects]) == pytest.approx(
        BANK["templates"]["object"], abs=0.01
    )
    animals = [d.concept.name for d in drawn if d.concept.source == "animals"]
    assert shares(animals) == pytest.approx(
        dict.fromkeys(("red fox", "crane (bird)", "owl"), 1 / 3), abs=0.015
    )
    relations = [d.relation for d in drawn if d.relation]
    assert shares(relations) == pytest.approx(
        dict.fromkeys(("on", "under", "next to"), 1 / 3), abs=0.04
    )


def test_scenes_use_only_their_template(bank: ConceptBank) -> None:
    scenes = [d for d in draws(bank, 2000) if d.concept.kind == "scene"]
    assert {d.template for d in scenes} == {"concept"}


def test_a_draw_holds_what_its_template_needs(bank: ConceptBank) -> None:
    for d in draws(bank, 2000):
        assert (d.background is not None) == (d.template == "concept_background")
        assert (d.relation is not None) == (d.template == "concept_relation")
        if d.background is not None:
            assert d.background in bank.backgrounds[d.concept.domain]
        assert len(set(d.example_indices)) == 3
        assert all(0 <= index < 5 for index in d.example_indices)


def test_every_example_is_shown_equally_often(bank: ConceptBank) -> None:
    indices = [index for d in draws(bank, 5000) for index in d.example_indices]
    assert shares(indices) == pytest.approx(dict.fromkeys(range(5), 0.2), abs=0.015)


def test_draws_are_random_access_and_repeatable(bank: ConceptBank) -> None:
    forward = draws(bank, 200)
    again = ConceptStream(bank, 0, 0, 0)
    assert [again.draw(counter) for counter in reversed(range(200))] == forward[::-1]
    assert again.draw(7) == again.draw(7) == forward[7]


def test_draws_stay_the_same_across_versions(bank: ConceptBank) -> None:
    # A recipe must find its concept again years later: this order is part of the format.
    assert [(d.concept.name, d.template, d.example_indices) for d in draws(bank, 4)] == FIRST_DRAWS


@pytest.mark.parametrize("part", ["run_seed", "incarnation", "stream"])
def test_every_part_of_the_key_matters(bank: ConceptBank, part: str) -> None:
    assert draws(bank, 50) != draws(bank, 50, **{part: 1})


def test_key_parts_are_not_confused(bank: ConceptBank) -> None:
    assert draws(bank, 50, run_seed=1, incarnation=11) != draws(
        bank, 50, run_seed=11, incarnation=1
    )


def test_shares_are_relative(tmp_path: Path) -> None:
    sources = {name: source | {"share": source["share"] * 50} for name, source in SOURCES.items()}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = ConceptBank.load(write_bank(tmp_path / "a"))
    scaled = ConceptBank.load(write_bank(tmp_path / "b", sources=sources))
    names = [[d.concept.name for d in draws(bank, 300)] for bank in (plain, scaled)]
    assert names[0] == names[1]


def changed(path: str, value: Any) -> dict[str, Any]:
    """The bank with the dotted `path` set to `value`, or removed where it is `...`."""
    content = copy.deepcopy(BANK)
    *parents, last = path.split(".")
    inner = content
    for parent in parents:
        inner = inner[parent]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sources.animals.file", "nowhere.tsv", r"nowhere\.tsv does not exist"),
        ("sources.animals.share", 0, "share of source 'animals' is 0"),
        ("sources.animals.share", -0.5, "above 0"),
        ("sources.animals.share", "half", "above 0"),
        ("sources.animals.share", float("nan"), "above 0"),
        ("sources.animals.share", True, "above 0"),
        ("sources.animals.kind", "sound", "kind 'sound'; use one of object, scene, texture"),
        ("sources.animals.kind", "texture", r"add templates\.texture"),
        ("sources.animals.shares", 1, "unknown key 'shares'"),
        ("sources.animals.file", ..., "has no file"),
        ("sources.animals", None, "is no mapping"),
        ("sources", {}, "sources is empty"),
        ("sources", ["animals"], "sources is no mapping"),
        ("templates.object.haiku", 0.1, "names 'haiku'"),
        ("templates.object.concept", 0, r"templates\.object\.concept is 0"),
        ("templates.scene", {}, r"templates\.scene is empty"),
        ("templates.smell", {"concept": 1}, "names 'smell'"),
        ("backgrounds.animal", "nowhere.txt", r"nowhere\.txt does not exist"),
        ("backgrounds.animal", ..., "domain 'animal' of source 'animals' has no backgrounds"),
        ("backgrounds.animal", "scenes_empty.txt", "lists no background"),
        ("relations", [], "relations is empty"),
        ("relations", "on", "must be a list"),
        ("prompts", "nowhere", "nowhere holds no prompt file"),
        ("prompts", ..., "has no prompts"),
        ("sauces", {}, "unknown key 'sauces'"),
    ],
)
def test_a_faulty_bank_is_refused_in_one_line(
    tmp_path: Path, path: str, value: Any, message: str
) -> None:
    (tmp_path / "scenes_empty.txt").write_text("# nothing\n")
    bank_path = write_bank(tmp_path)
    content = changed(path, value)
    bank_path = write_bank(tmp_path, **content)
    if path == "prompts" and value is ...:
        text = bank_path.read_text().replace("prompts: prompts\n", "")
        bank_path.write_text(text)
    if path == "backgrounds.animal" and value is ...:
        assert "animal.txt" not in bank_path.read_text()
    with pytest.raises(ConceptBankError, match=message) as caught:
        ConceptBank.load(bank_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# only a comment\n", "lists no concept"),
        ("owl\nred fox\nOwl\n", "lists 'Owl' twice"),
        ("owl\tanimal\tbird\tmore\n", "4 columns"),
    ],
)
def test_a_faulty_list_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write_bank(tmp_path)
    (tmp_path / "animals.tsv").write_text(text)
    with pytest.raises(ConceptBankError, match=message):
        ConceptBank.load(path)


def test_a_list_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = write_bank(tmp_path)
    (tmp_path / "animals.tsv").write_bytes(b"\xff\xfe\x00owl")
    with pytest.raises(ConceptBankError, match="not UTF-8"):
        ConceptBank.load(path)


@pytest.mark.parametrize("text", ["sources: [", "- a\n- b\n", ""])
def test_a_file_that_is_no_bank_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bank.yaml"
    path.write_text(text)
    with pytest.raises(ConceptBankError, match=r"bank\.yaml"):
        ConceptBank.load(path)


def test_a_template_without_prompts_is_refused(tmp_path: Path) -> None:
    path = write_bank(tmp_path)
    (tmp_path / "prompts" / "concept_relation.txt").unlink()
    with pytest.raises(ConceptBankError, match=r"add concept_relation\.txt"):
        ConceptBank.load(path)


def test_too_few_examples_are_refused(tmp_path: Path) -> None:
    path = write_bank(tmp_path)
    write_prompts(tmp_path / "prompts", "concept", num_examples=2)
    with pytest.raises(ConceptBankError, match="2 examples; write at least 3"):
        ConceptBank.load(path)


def test_an_unused_template_needs_no_prompts_backgrounds_or_relations(tmp_path: Path) -> None:
    only_names = {"object": {"concept": 1}, "scene": {"concept": 1}}
    path = write_bank(tmp_path, templates=only_names, relations=[], backgrounds={})
    (tmp_path / "prompts" / "concept_relation.txt").unlink()
    assert {d.template for d in draws(ConceptBank.load(path), 100)} == {"concept"}


def test_a_bare_yaml_on_is_the_relation_on(tmp_path: Path) -> None:
    path = write_bank(tmp_path)
    path.write_text(path.read_text().replace("- 'on'", "- on"))
    assert "- on\n" in path.read_text()
    assert ConceptBank.load(path).relations == ("on", "under", "next to")
