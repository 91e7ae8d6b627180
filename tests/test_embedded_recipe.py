"""The recipe of the embedded image model, piece by piece, without network or training."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("resvg_py")
pytest.importorskip("diffusers")

from recipes.embedded_image_model import atlas, backgrounds, captions, colours, config, prompts
from recipes.embedded_image_model.compose import PLACES, Composer, Wish
from recipes.embedded_image_model.concepts import CONCEPTS, NAMES

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
        assert prompts.names(concept, draft.finish(0)), draft
        assert "{" not in draft.finish(-1)
        assert "  " not in draft.finish(-1)


def test_reading_a_free_caption() -> None:
    fox, tree = NAMES.index("fox"), NAMES.index("pine tree")
    wish = captions.free_draft(fox, "a small red fox next to a pine tree in the snow", None).wish
    assert wish.second == tree
    assert wish.place == "side"
    assert backgrounds.BACKGROUNDS[wish.background or 0].phrase == "snowy field"
    wish = captions.free_draft(fox, "a tiny fox on a pink background", None).wish
    assert backgrounds.BACKGROUNDS[wish.background or 0].phrase == "pink background"
    assert wish.size == "small"
    assert wish.colour is None
    assert captions.free_draft(fox, "a fox reading the paper", 3).wish.background is None


def test_trimming_an_answer() -> None:
    fox = NAMES.index("fox")
    assert prompts.trim(" a fox in the grass\ncat => a cat", fox, max_words=24) == (
        "a fox in the grass"
    )
    assert prompts.trim(" a cat in the grass", fox, max_words=24) is None
    assert prompts.trim(" a fox" + " and" * 30, fox, max_words=24) is None


def test_prompt_files_are_long_enough() -> None:
    folder = ROOT / "configs/prompts/embedded"
    for name, least in (("concept", 30), ("concept_background", 30), ("concept_relation", 20)):
        template = prompts.read(name, folder)
        assert len(template.examples) >= least
        assert template.instruction.endswith(".")
        for example in template.examples:
            query, caption = example.split(" => ")
            thing = query.split(",")[0]
            assert thing in NAMES
            assert prompts.names(NAMES.index(thing), caption), example
    used = {line.split(", ")[1].split(" =>")[0] for line in template.examples}
    assert used == set(prompts.RELATIONS)


def test_concept_bank_is_what_the_model_draws() -> None:
    lines = (ROOT / "configs/concepts/embedded.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    assert tuple(row[0] for row in rows) == NAMES
    for row, concept in zip(rows, CONCEPTS, strict=True):
        assert row[1] == "embedded"
        assert {concept.name, *row[2].split("|")} == set(concept.words)
    phrases = (ROOT / "configs/backgrounds/embedded.txt").read_text(encoding="utf-8").split("\n")
    assert [p for p in phrases if p] == [kind.phrase for kind in backgrounds.BACKGROUNDS]
    assert len(NAMES) >= 60


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
