"""The concept banks that ship: they load, and they hold what the paper's recipe asks for."""

from collections import Counter
from pathlib import Path

import pytest

from generators.concept_files import read_lines, read_yaml_mapping
from generators.concept_names import names_concept
from generators.concepts import Concept, ConceptBank, ConceptStream
from generators.prompts import build_prompt, query_inputs
from online_synclr.paths import CONFIGS_DIR

BANKS = sorted((CONFIGS_DIR / "concepts").glob("*.yaml"))
LISTS = sorted((CONFIGS_DIR / "concepts").glob("*.tsv"))
BACKGROUNDS = sorted((CONFIGS_DIR / "backgrounds").glob("*.txt"))
PAPER = CONFIGS_DIR / "concepts" / "paper.yaml"


@pytest.fixture(scope="module")
def paper() -> ConceptBank:
    return ConceptBank.load(PAPER)


def duplicates(values: list[str]) -> list[str]:
    return [value for value, n in Counter(value.casefold() for value in values).items() if n > 1]


def test_there_are_banks() -> None:
    assert "paper.yaml" in {path.name for path in BANKS}
    assert len(BANKS) >= 2


@pytest.mark.parametrize("path", BANKS, ids=lambda path: path.stem)
def test_every_bank_loads_and_draws(path: Path) -> None:
    bank = ConceptBank.load(path)
    stream = ConceptStream(bank, 0, 0, 0)
    prompts = [build_prompt(stream.draw(counter), bank.prompts) for counter in range(500)]
    assert all(prompt.count("\n") == 4 for prompt in prompts)
    assert len(set(prompts)) > 450


@pytest.mark.parametrize("path", BANKS, ids=lambda path: path.stem)
def test_shares_sum_to_one(path: Path) -> None:
    content = read_yaml_mapping(path)
    assert sum(s["share"] for s in content["sources"].values()) == pytest.approx(1)
    for shares in content["templates"].values():
        assert sum(shares.values()) == pytest.approx(1)


def test_the_papers_shares(paper: ConceptBank) -> None:
    shares = {source.name: source.share for source in paper.sources}
    assert shares["imagenet1k"] == 0.47
    assert shares["aircraft"] == shares["cars"] == shares["food"] == 0.05
    assert shares["flowers"] == 0.03
    assert shares["scenes"] == 0.09
    assert dict(paper.templates["object"]) == {
        "concept": 0.44, "concept_background": 0.45, "concept_relation": 0.11,
    }  # fmt: skip
    assert dict(paper.templates["scene"]) == dict(paper.templates["texture"]) == {"concept": 1.0}
    assert paper.relations == (
        "in", "on", "next to", "behind", "in front of", "over", "under", "above", "below",
        "besides",
    )  # fmt: skip


def test_the_papers_examples(paper: ConceptBank) -> None:
    num_examples = {name: len(t.examples) for name, t in paper.prompts.templates.items()}
    assert num_examples["concept"] >= 106
    assert num_examples["concept_background"] >= 50
    assert num_examples["concept_relation"] >= 20


def test_the_papers_concepts(paper: ConceptBank) -> None:
    num_concepts = {source.name: len(source.concepts) for source in paper.sources}
    assert num_concepts["imagenet1k"] == 1000
    assert num_concepts["imagenet12k"] > 9000
    at_least = {
        "aircraft": 100, "cars": 190, "food": 101, "flowers": 102, "pets": 37, "textures": 47,
        "scenes": 360, "general": 95,
    }  # fmt: skip
    assert {name: num_concepts[name] >= n for name, n in at_least.items()} == dict.fromkeys(
        at_least, True
    )


def test_every_domain_of_the_paper_has_backgrounds(paper: ConceptBank) -> None:
    objects = [s for s in paper.sources if s.kind == "object"]
    domains = {concept.domain for source in objects for concept in source.concepts}
    assert domains == set(paper.backgrounds)
    assert {d: len(phrases) for d, phrases in paper.backgrounds.items() if len(phrases) < 40} == {}


def test_few_concepts_have_no_domain_of_their_own(paper: ConceptBank) -> None:
    objects = [c for s in paper.sources if s.kind == "object" for c in s.concepts]
    assert sum(c.domain == "generic" for c in objects) < 0.1 * len(objects)


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("golden retriever", "dog"),
        ("red fox", "wild_mammal"),
        ("ruffed grouse", "bird"),
        ("king penguin", "water_bird"),
        ("goldfish", "marine"),
        ("crane (wading bird)", "water_bird"),
        ("crane (construction machine)", "tool"),
        ("airliner", "aircraft"),
        ("steam locomotive", "rail"),
        ("espresso", "drink"),
        ("pizza", "food"),
        ("strawberry", "fruit_vegetable"),
        ("violin", "musical_instrument"),
        ("castle", "building_structure"),
        ("volcano", "geological"),
    ],
)
def test_domains_of_well_known_classes(paper: ConceptBank, name: str, domain: str) -> None:
    imagenet = next(source for source in paper.sources if source.name == "imagenet1k")
    assert next(c.domain for c in imagenet.concepts if c.name == name) == domain


@pytest.mark.parametrize("path", BACKGROUNDS, ids=lambda path: path.stem)
def test_backgrounds_are_short_phrases_without_duplicates(path: Path) -> None:
    phrases = read_lines(path)
    assert duplicates(phrases) == []
    assert [p for p in phrases if len(p.split()) > 8 or "," in p or "=>" in p or p[-1] == "."] == []


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_concept_lists_have_no_duplicates(path: Path) -> None:
    names = [line.split("\t")[0] for line in read_lines(path)]
    assert duplicates(names) == []
    assert [name for name in names if "=>" in name or "," in name or "_" in name] == []


@pytest.mark.parametrize("path", BANKS, ids=lambda path: path.stem)
def test_examples_are_distinct_sentences_that_name_their_subject(path: Path) -> None:
    for template in ConceptBank.load(path).prompts.templates.values():
        captions = [example.caption for example in template.examples]
        assert duplicates(captions) == []
        assert duplicates([example.inputs for example in template.examples]) == []
        for example in template.examples:
            subject = Concept(example.inputs.split(",")[0], "example", "object", "generic")
            assert names_concept(example.caption, subject), example


def test_examples_of_the_paper_use_its_relations(paper: ConceptBank) -> None:
    examples = paper.prompts["concept_relation"].examples
    used = {example.inputs.split(", ", 1)[1] for example in examples}
    assert used == set(paper.relations)
    for example in examples:
        relation = example.inputs.split(", ", 1)[1]
        assert f" {relation} " in example.caption, example


def test_queries_of_the_paper_are_short_plain_text(paper: ConceptBank) -> None:
    stream = ConceptStream(paper, 0, 0, 0)
    queries = [query_inputs(stream.draw(counter)) for counter in range(2000)]
    assert [q for q in queries if not q.isprintable() or len(q.split()) > 20] == []
