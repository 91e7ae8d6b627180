"""The recipe of the embedded image model, piece by piece, without network or training."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("resvg_py")
pytest.importorskip("diffusers")

from generators.concepts import ConceptBank
from recipes.embedded_image_model import (
    atlas,
    backgrounds,
    bank,
    captions,
    codes,
    colours,
    config,
    evaluate,
    latents,
    text_encoder,
    training,
    work_folder,
)
from recipes.embedded_image_model.compose import PLACES, Composer, Wish
from recipes.embedded_image_model.concepts import CONCEPTS, NAMES, OFFERED, mentions, plural_of
from recipes.embedded_image_model.judge import Judge

ROOT = Path(__file__).parents[1]
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" width="128" height="128">'
    '<rect x="8" y="4" width="16" height="24" fill="{ink}"/></svg>'
)


@pytest.fixture(scope="module")
def composer() -> Composer:
    """A composer over two plain icons a concept."""
    inks = ("#d02020", "#2040d0")
    images = [
        atlas.fill_square(atlas.rasterise(SVG.format(ink=ink)), 64)
        for _ in CONCEPTS
        for ink in inks
    ]
    palettes = [atlas.palette(image) for image in images]
    rgba = torch.from_numpy(np.stack(images)).float().div(255)
    rgba[..., :3] *= rgba[..., 3:]
    icons = atlas.Atlas(
        icons_N4SS=rgba.permute(0, 3, 1, 2).contiguous(),
        concept_N=torch.arange(len(CONCEPTS)).repeat_interleave(2),
        source_N=torch.tensor([0, 1]).repeat(len(CONCEPTS)),
        palette_NK3=torch.from_numpy(np.stack([colour for colour, _ in palettes])),
        weight_NK=torch.from_numpy(np.stack([weight for _, weight in palettes])),
    )
    rng = np.random.default_rng(0)
    bank = np.stack(
        [
            np.round(255 * np.clip(kind.draw(rng, 64), 0, 1)).astype(np.uint8)[None]
            for kind in backgrounds.BACKGROUNDS
        ]
    )
    return Composer(icons, torch.from_numpy(bank).permute(0, 1, 4, 2, 3), seed=0)


def test_rasterise_fills_the_square() -> None:
    image = atlas.fill_square(atlas.rasterise(SVG.format(ink="#d02020")), 64)
    assert image.shape == (64, 64, 4)
    rows = np.flatnonzero(image[..., 3].max(axis=1))
    assert rows[0] == 0
    assert rows[-1] == 63
    assert image[32, 32, 0] > 200
    assert image[32, 2, 3] == 0


def test_compose_shapes_and_wishes(composer: Composer) -> None:
    sand = next(i for i, b in enumerate(backgrounds.BACKGROUNDS) if b.phrase == "sandy beach")
    wishes = [
        Wish(concept=0),
        Wish(concept=1, background=sand, size="small"),
        *(Wish(concept=2, second=3, place=place, front=False) for place in PLACES),
    ]
    scenes = composer.compose(wishes)
    assert scenes.images_B3SS.shape == (len(wishes), 3, 64, 64)
    assert scenes.images_B3SS.dtype == torch.float32
    assert scenes.images_B3SS.min() >= 0
    assert scenes.images_B3SS.max() <= 1
    assert scenes.background_B[1] == sand
    covered = scenes.cover_B1SS.mean(dim=(1, 2, 3))
    assert covered[1] < covered[0]


def test_one_wish_gives_different_scenes(composer: Composer) -> None:
    images = composer.compose([Wish(concept=0, background=20)] * 4).images_B3SS
    assert torch.pdist(images.flatten(1)).min() > 1


def test_a_wished_colour_comes_true(composer: Composer) -> None:
    car, purple = NAMES.index("car"), colours.NAMES.index("purple")
    scenes = composer.compose([Wish(concept=car, colour=purple)] * 32)
    assert (scenes.colour_B == purple).float().mean() > 0.7


def test_colour_names_of_plain_colours() -> None:
    named = colours.name_indices(torch.tensor(list(colours.PLAIN.values())))
    assert [colours.NAMES[index] for index in named.tolist()] == list(colours.NAMES)


def test_every_template_caption_names_its_concept() -> None:
    rng = random.Random(0)
    for _ in range(500):
        concept = rng.randrange(len(CONCEPTS))
        draft = captions.template_draft(concept, rng, pair_share=0.2)
        assert concept in {found.concept for found in mentions(draft.finish(0))}, draft
        assert "{" not in draft.finish(-1)
        assert "  " not in draft.finish(-1)


def test_an_unknown_word_changes_no_other() -> None:
    rng, caption = random.Random(0), "a red fox in the snow"
    for _ in range(50):
        words = captions.with_unknown_word(caption, rng).split()
        assert words[0] == "a"
        assert len(words) == 7
        assert any(" ".join(words[:i] + words[i + 1 :]) == caption for i in range(1, 7))


def _wish(concept: str, caption: str, background: str | None = None) -> Wish:
    draft = captions.free_draft(concept, caption, background)
    assert draft is not None
    return draft.wish


def _background(wish: Wish) -> str | None:
    return None if wish.background is None else backgrounds.BACKGROUNDS[wish.background].phrase


def test_reading_a_free_caption() -> None:
    wish = _wish("fox", "a small red fox next to a pine tree in the snow")
    assert wish.second == NAMES.index("pine tree")
    assert wish.place == "side"
    assert wish.colour == colours.NAMES.index("red")
    assert _background(wish) == "snowy field"
    wish = _wish("fox", "a tiny fox on a pink background")
    assert _background(wish) == "pink background"
    assert wish.size == "small"
    assert wish.colour is None
    assert _wish("fox", "a fox reading the paper", "sandy beach").background is None


@pytest.mark.parametrize(
    ("caption", "phrase"),
    [
        ("a crab on the beach at sunset", "beach at sunset"),
        ("a fox on a rainbow gradient", "rainbow gradient"),
        ("an owl under the stars", "night sky"),
        ("a cat on a blurred background", None),
        ("a wooden castle", None),
        ("a striped zebra", None),
        ("an ice cream cone", None),
        ("a full moon", None),
    ],
)
def test_what_counts_as_a_background(caption: str, phrase: str | None) -> None:
    wish = _wish("fox", caption)
    assert _background(wish) == phrase
    assert wish.second is None


def test_every_wording_of_a_background_is_read_as_it_is_taught() -> None:
    for kind, background in enumerate(backgrounds.BACKGROUNDS):
        for wording in background.wordings:
            assert _wish("fox", f"a fox {wording}") == Wish(
                concept=NAMES.index("fox"), background=kind
            ), wording


def test_no_word_of_the_templates_names_a_thing() -> None:
    words = (*captions.FILLERS, *captions.VERBS, *captions.SMALL, *captions.LARGE, *colours.NAMES)
    assert [word for word in words if list(mentions(word))] == []


def test_a_caption_is_about_what_it_names_first() -> None:
    wish = _wish("snowman", "a brown bear watching the snowman")
    assert (wish.concept, wish.second) == (NAMES.index("bear"), NAMES.index("snowman"))
    assert captions.free_draft("glasses", "a jug of something blue", None) is None


def test_size_and_colour_are_those_of_the_thing() -> None:
    assert _wish("fish", "a fish swimming in a big blue ocean").size is None
    assert _wish("frog", "a frog with a big smile").size is None
    assert _wish("dog", "a big brown dog").size == "large"


def test_several_are_two_wherever_they_are_named() -> None:
    cat = NAMES.index("cat")
    assert _wish("cat", "some cats in the snow").second == cat
    assert _wish("cat", "one cat").second is None
    assert _wish("scissors", "the scissors").second is None
    rng = random.Random(0)
    for _ in range(2000):
        draft = captions.template_draft(cat, rng, pair_share=0)
        several = next(m for m in mentions(draft.finish(0)) if m.concept == cat).several
        assert (draft.wish.second == cat) == several, draft


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        ("wolf", "wolves"), ("maple leaf", "maple leaves"), ("bus", "buses"), ("peach", "peaches"),
        ("butterfly", "butterflies"), ("key", "keys"), ("scissors", "scissors"),
        ("hourglass", "hourglasses"), ("sheep", "sheep"),
    ],
)  # fmt: skip
def test_plurals(noun: str, plural: str) -> None:
    assert plural_of(noun) == plural


def test_longer_names_go_before_shorter_ones() -> None:
    found = [NAMES[m.concept] for m in mentions("A hot dog, two fire trucks and a dog")]
    assert found == ["hot dog", "fire truck", "dog"]


def test_every_word_names_one_concept() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for index, concept in enumerate(CONCEPTS):
        for word in concept.words:
            assert [m.concept for m in mentions(f"the {word} there")] == [index], word


def test_a_work_folder_belongs_to_its_settings(tmp_path: Path) -> None:
    made = config.Config(work=str(tmp_path / "work"))
    work_folder.claim(made)
    work_folder.claim(made)
    other = dataclasses.replace(made, text=config.TextConfig(width=96))
    with pytest.raises(ValueError, match="network shapes"):
        work_folder.claim(other)
    old = tmp_path / "old"
    old.mkdir()
    (old / "atlas.pt").touch()
    with pytest.raises(ValueError, match="older version"):
        work_folder.claim(config.Config(work=str(old)))


def test_prompt_examples_name_what_the_model_draws() -> None:
    loaded = ConceptBank.load(ROOT / "configs/concepts/embedded.yaml")
    for name, least in (("concept", 30), ("concept_background", 30), ("concept_relation", 20)):
        examples = loaded.prompts[name].examples  # type: ignore[index]
        assert len(examples) >= least
        for example in examples:
            concept = NAMES.index(example.inputs.split(",")[0])
            assert concept in {found.concept for found in mentions(example.caption)}, example
    used = {example.inputs.split(", ")[1] for example in examples}
    assert used == set(loaded.relations)


def test_the_bank_that_the_recipe_writes(tmp_path: Path) -> None:
    loaded = ConceptBank.load(bank.write_apart(tmp_path))
    concepts = {concept.name: concept for concept in loaded.sources[0].concepts}
    assert list(concepts) == [NAMES[index] for index in OFFERED]
    assert len(concepts) >= 150
    assert "kitten" in concepts["cat"].aliases
    assert loaded.backgrounds["embedded"] == tuple(b.phrase for b in backgrounds.BACKGROUNDS)


def test_the_shipped_bank_is_the_recipes(tmp_path: Path) -> None:
    bank.write(tmp_path)
    for file in ("concepts/embedded.tsv", "backgrounds/embedded.txt"):
        assert (ROOT / "configs" / file).read_text() == (tmp_path / file).read_text(), file


def test_patches_are_cut_row_by_row() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3)
    cut = codes.patches(image)
    assert cut.shape == (1, 16, 256)
    assert torch.equal(cut[0, :, 0], torch.arange(16.0))
    assert torch.equal(cut.amin(dim=2), cut.amax(dim=2))


def test_components_keep_what_varies_most() -> None:
    torch.manual_seed(0)
    points = torch.randn(500, 3) * torch.tensor([1.0, 10.0, 0.1]) + 5
    found = codes.components(points, 2)
    centred = points - points.mean(dim=0)
    assert torch.allclose(found[:, 0].abs(), centred[:, 1].abs(), atol=0.5)
    assert found.std(dim=0)[0] > found.std(dim=0)[1]


def test_answers_of_a_pair_and_of_the_empty_caption() -> None:
    known = torch.randn(len(CONCEPTS), codes.PATCHES, codes.CODE)
    pair = Wish(concept=1, second=2, place="above", front=False, background=3)
    right = text_encoder.answers([pair, None], known)
    assert torch.equal(right.codes[0, : codes.PATCHES], known[1])
    assert torch.equal(right.codes[0, codes.PATCHES :], known[2])
    assert right.codes[1].abs().max() == 0
    assert right.attributes["background"].tolist() == [3, len(backgrounds.BACKGROUNDS)]
    assert right.attributes["place"][0] != right.attributes["place"][1]


def test_readings_say_the_colour_that_the_words_say() -> None:
    captioner = latents.Captioner([], config.Config(), seed=0)
    coloured = 0
    for _ in range(300):
        caption, wish = captioner.reading()
        if wish is None:
            assert caption == ""
        elif wish.colour is not None:
            coloured += 1
            assert colours.NAMES[wish.colour] in caption.split()
    assert coloured > 30


def test_captions_kept_back_are_never_drafted() -> None:
    seen = latents.Captioner([], config.Config(), seed=0)
    texts = {latents.plain(seen.draft().finish(-1)) for _ in range(300)}
    record = {"concept": "cat", "caption": "A cat on the moon.", "background": None}
    careful = latents.Captioner(
        [record], config.Config(), seed=0, avoid=[*texts, "a cat on the moon"]
    )
    assert not texts & {latents.plain(careful.draft().finish(-1)) for _ in range(300)}


def test_the_text_encoder_learns_to_say_codes(tmp_path: Path) -> None:
    from recipes.embedded_image_model import tokens

    words = tokens.train(["a cat", "a dog"] * 50, vocabulary=300)
    tokenizer = tokens.save(words, tmp_path / "tokenizer", positions=40)
    settings = config.TextConfig(
        width=32, layers=1, heads=2, positions=40, batch=16, steps=150, rate=3e-3
    )
    torch.manual_seed(0)
    known = torch.randn(len(CONCEPTS), codes.PATCHES, codes.CODE)
    texts = {NAMES.index("cat"): "a cat", NAMES.index("dog"): "a dog"}

    def draw(count: int) -> tuple[torch.Tensor, text_encoder.Answers]:
        chosen = [list(texts)[i] for i in torch.randint(2, (count,)).tolist()]
        rows = latents.tokenise(tokenizer, [texts[index] for index in chosen])
        return rows, text_encoder.answers([Wish(concept=index) for index in chosen], known)

    reader = text_encoder.Reader(text_encoder.build(settings, tokenizer))
    text_encoder.train(draw, reader, tmp_path, settings, seed=0)
    rows, right = draw(16)
    error = (reader(rows)[0] - right.codes).square().mean() / right.codes.square().mean()
    assert error < 0.4  # the mean of the two codes leaves 0.5


def test_a_tally_counts_concepts_backgrounds_and_spread() -> None:
    class Sure(Judge):
        """Sees concept 1 and background 2 in everything."""

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

        def features(self, images_B3SS: torch.Tensor) -> torch.Tensor:
            return images_B3SS.flatten(1)[:, :2]

        def concept(self, features_BD: torch.Tensor) -> torch.Tensor:
            return torch.eye(4)[[1] * len(features_BD)]

        background = lambda self, f: torch.eye(4)[[2] * len(f)]  # noqa: E731

    tally = evaluate.Tally()
    images = torch.zeros(2, 3, 64, 64)
    images[1, 0, 0, :2] = torch.tensor([3.0, 4.0])
    tally.add(Sure(), images, Wish(concept=1, background=0))
    tally.add(Sure(), images, Wish(concept=0))
    assert tally.concept == [True, True, False, False]
    assert tally.background == [False, False]
    assert tally.mean_spread("features") == pytest.approx(5.0)
    assert tally.mean_spread("pixels") == pytest.approx(5.0)


def test_tokenizer_round_trip(tmp_path: Path) -> None:
    from recipes.embedded_image_model import tokens

    rng = random.Random(0)
    corpus = [
        captions.template_draft(rng.randrange(len(CONCEPTS)), rng, pair_share=0.1).finish(1)
        for _ in range(2000)
    ]
    saved = tokens.save(tokens.train(corpus, vocabulary=900), tmp_path, positions=24)
    ids = saved("A small flamingo on a zebra crossing").input_ids
    assert ids[0] == saved.bos_token_id
    assert ids[-1] == saved.eos_token_id
    assert saved.decode(ids, skip_special_tokens=True).strip() == (
        "a small flamingo on a zebra crossing"
    )
    assert {"vocab.json", "merges.txt"} <= {file.name for file in tmp_path.iterdir()}


def test_settings_are_checked(tmp_path: Path) -> None:
    assert config.load(ROOT / "recipes/embedded_image_model/config.yaml").unet.steps > 0
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("unet: {stepz: 3}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="stepz: unknown key"):
        config.load(wrong)
    wrong.write_text("unet: {processes: 3}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="must divide"):
        config.load(wrong)
    wrong.write_text("unet: {steps: many}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="int expected"):
        config.load(wrong)


def test_folding_statistics_keeps_the_decoding() -> None:
    from recipes.embedded_image_model import vae

    torch.manual_seed(0)
    codec = vae.build(config.VaeConfig(channels=(8, 8, 8, 8))).eval()
    images = torch.randint(0, 256, (8, 4, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        x = images[:, :3].float().div(127.5).sub(1)
        before = codec.decode(codec.encode(x).latent_dist.mode()).sample
        vae.fold_latent_statistics(codec, images)
        latent = codec.encode(x).latent_dist.mode()
        after = codec.decode(latent).sample
    assert torch.allclose(before, after, atol=2e-2)
    assert latent.mean(dim=(0, 2, 3)).abs().max() < 0.1
    assert (latent.std(dim=(0, 2, 3)) - 1).abs().max() < 0.1


def test_the_late_descent_of_the_learning_rate() -> None:
    rates = [training.late_decay_rate(step, 100, 2.0, warm=10, tail=0.3) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert set(rates[9:70]) == {2.0}
    assert rates[85] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(2.0 / 30)
