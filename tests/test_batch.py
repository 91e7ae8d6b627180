"""Sampled groups become tensors: order, choice of images, identities."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from online_synclr.caption_identity import caption_id
from online_synclr.config import Config
from online_synclr.stream.group import Group, Recipe
from trainer.arena import Arena
from trainer.batch import BatchMaker, choose_images, concept_id, stack
from trainer.device_copy import fill, is_pinned
from trainer.intake import Sampled
from trainer.loop import TrainLoop
from trainer.pinning import pin


def make_group(caption: str, concept: str = "fox", images: int = 4, fill: int = 0) -> Group:
    recipe = Recipe(
        caption=caption,
        concept=concept,
        source="test",
        template="c",
        background="",
        relation="",
        run_seed=1,
        incarnation=1,
        stream=0,
        counter=fill,
        num_images=images,
        llm_fingerprint="llm",
        image_fingerprint="image",
    )
    pixels = np.stack([np.full((3, 8, 8), fill + index, np.uint8) for index in range(images)])
    return Group(recipe, pixels)


def make_maker(images_per_group: int, trainer_index: int = 0) -> BatchMaker:
    return BatchMaker(
        images_per_group=images_per_group,
        run_seed=5,
        trainer_index=trainer_index,
        device=torch.device("cpu"),
    )


def test_images_lie_group_by_group() -> None:
    batch = make_maker(4)([make_group("a fox", fill=0), make_group("a cat", fill=40)], step=0)
    assert batch.images_NCHW.shape == (8, 3, 8, 8)
    assert batch.images_NCHW.dtype == torch.uint8
    assert batch.images_NCHW[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 40, 41, 42, 43]
    assert batch.num_groups == 2


def test_fewer_images_than_rendered_are_chosen_by_seed_and_step() -> None:
    groups = [make_group(f"caption {index}", fill=10 * index) for index in range(6)]
    first = make_maker(2)(groups, step=3).images_NCHW[:, 0, 0, 0]
    again = make_maker(2)(groups, step=3).images_NCHW[:, 0, 0, 0]
    other_step = make_maker(2)(groups, step=4).images_NCHW[:, 0, 0, 0]
    other_trainer = make_maker(2, trainer_index=1)(groups, step=3).images_NCHW[:, 0, 0, 0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other_step)
    assert not torch.equal(first, other_trainer)
    pairs = first.reshape(6, 2) - 10 * torch.arange(6)[:, None]
    assert bool((pairs >= 0).all())
    assert bool((pairs < 4).all())
    assert bool((pairs[:, 0] != pairs[:, 1]).all())


def test_every_image_has_its_turn() -> None:
    random = np.random.default_rng(0)
    seen = {image for _ in range(50) for image in choose_images(4, 2, random)}
    assert seen == {0, 1, 2, 3}


def test_equal_captions_have_equal_identities() -> None:
    groups = [make_group("A red fox."), make_group("a red FOX"), make_group("a cat", "cat")]
    batch = make_maker(2)(groups, step=0)
    assert torch.equal(batch.captions_N2[0], batch.captions_N2[3])
    assert not torch.equal(batch.captions_N2[0], batch.captions_N2[4])
    assert torch.equal(batch.concepts_N2[0], batch.concepts_N2[2])
    assert not torch.equal(batch.concepts_N2[0], batch.concepts_N2[4])
    expected = np.frombuffer(caption_id("a cat"), np.int64).tolist()
    assert batch.captions_N2[5].tolist() == expected
    assert len(concept_id("fox")) == 16


def test_image_ids_differ_over_all_trainers() -> None:
    groups = [make_group("a"), make_group("b")]
    ids = [make_maker(3, trainer)(groups, step=0).images_N2.tolist() for trainer in range(3)]
    flat = [tuple(image) for own in ids for image in own]
    assert len(set(flat)) == 18


def test_a_group_with_too_few_images_is_refused() -> None:
    with pytest.raises(ValueError, match="a step uses 3 of each"):
        make_maker(3)([make_group("a", images=2)], step=0)


def test_on_the_cpu_a_batch_is_copied_out_of_the_pool() -> None:
    groups = [make_group("a", fill=1), make_group("b", fill=9)]
    for num in (2, 4):
        maker = make_maker(num)
        batch = maker(groups, step=0)
        before = batch.images_NCHW.clone()
        maker.wait_read()
        for group in groups:
            assert not np.shares_memory(batch.images_NCHW.numpy(), group.images_mchw)
            group.images_mchw[:] = 255
        assert torch.equal(batch.images_NCHW, before)
        groups = [make_group("a", fill=1), make_group("b", fill=9)]


@pytest.mark.parametrize("num", [2, 4])
def test_a_copy_part_by_part_is_the_stack(num: int) -> None:
    groups = [make_group(f"caption {index}", fill=10 * index) for index in range(3)]
    maker = make_maker(num)
    parts = maker._choose(groups, 3)
    for part in parts:
        assert any(np.shares_memory(part, group.images_mchw) for group in groups)
    out = torch.empty((3 * num, 3, 8, 8), dtype=torch.uint8)
    fill(out, parts)
    assert torch.equal(out, maker(groups, step=3).images_NCHW)
    assert torch.equal(out, stack(parts))


def test_the_loop_samples_only_when_the_last_batch_was_read() -> None:
    done: list[str] = []

    def sample(num_groups: int) -> list[Sampled]:
        done.append(f"sample {num_groups}")
        return []

    parts = SimpleNamespace(
        config=Config.model_validate({"trainer": {"batch_groups": 8}}),
        trainers=SimpleNamespace(size=2),
        batches=SimpleNamespace(wait_read=lambda: done.append("read")),
        intake=SimpleNamespace(try_sample=sample),
    )
    loop = TrainLoop(parts, start_step=0)  # type: ignore[arg-type]
    loop._sample()
    assert done == ["read", "sample 4"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("num", [2, 4])
def test_a_gpu_reads_pinned_groups_where_they_are(num: int) -> None:
    device = torch.device("cuda")
    arena = Arena(num_places=64, group_bytes=4 * 3 * 64 * 64)
    assert pin(arena.memory, device) is None
    groups = []
    for index in range(64):
        images = arena.images(arena.take(), (4, 3, 64, 64))
        images[:] = np.random.default_rng(index).integers(0, 256, images.shape, dtype=np.uint8)
        groups.append(Group(make_group("a").recipe, images))
    assert is_pinned(groups[0].images_mchw)
    maker = BatchMaker(images_per_group=num, run_seed=5, trainer_index=0, device=device)
    expected = make_maker(num)(groups, step=0).images_NCHW
    torch.cuda._sleep(10**9)  # a step that is still queued when the batch is made
    batch = maker(groups, step=0)
    maker.wait_read()
    arena.memory[:] = 0
    assert torch.equal(batch.images_NCHW.cpu(), expected)
