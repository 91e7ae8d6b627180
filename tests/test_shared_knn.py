"""kNN shared out over trainers and steps: the slices, the moment of the weights, the outcome."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from online_synclr.config import ConfigError
from tests.tiny_objective import tiny_config
from tests.tiny_step import ALONE, CPU, tiny_step
from trainer.distributed import Trainers
from trainer.evaluation.features import Embed, extract
from trainer.evaluation.image_folder import load_images
from trainer.evaluation.image_share import ImageShare
from trainer.evaluation.knn import leave_one_out_accuracy
from trainer.shared_knn import SharedKnnProbe, build_shared_knn

NUM_IMAGES, LABELS, SIDE_PX, NEIGHBOURS = 23, 4, 16, 5


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise around a colour of each label, so that neighbours tell some of them."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, LABELS, (NUM_IMAGES,), generator=generator)
    noise = torch.randint(0, 160, (NUM_IMAGES, 3, SIDE_PX, SIDE_PX), generator=generator)
    colours = torch.randint(0, 96, (LABELS, 3, 1, 1), generator=generator)
    return (noise + colours[labels]).byte(), labels


def share(index: int = 0, size: int = 1) -> ImageShare:
    images, labels = pictures()
    return ImageShare(images[index::size], labels, index, size)


def mean_colour(images: torch.Tensor) -> torch.Tensor:
    return images.mean((2, 3))


class Fake:
    """Embeds by the mean colour; counts the images of each call and the snapshots."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.snapshots = 0

    def snapshot(self) -> Embed:
        self.snapshots += 1
        return self.embed

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(images))
        return mean_colour(images)


def probe_of(
    snapshot: Callable[[], Embed], own: ImageShare, trainers: Trainers = ALONE, at_once: int = 4
) -> SharedKnnProbe:
    return SharedKnnProbe(
        own, snapshot, neighbours=NEIGHBOURS, slice_images=at_once, trainers=trainers
    )


def expected() -> float:
    images, labels = pictures()
    features = extract(mean_colour, images, CPU)
    return leave_one_out_accuracy(features, labels, neighbours=NEIGHBOURS)


def test_a_slice_is_never_larger_than_agreed_and_the_last_one_compares() -> None:
    fake = Fake()
    probe = probe_of(fake.snapshot, share())
    assert not probe.under_way
    probe.begin()
    for number in range(6):
        assert probe.advance() is None
        assert len(fake.sizes) == number + 1, "one slice each time"
    assert fake.sizes == [4, 4, 4, 4, 4, 3]
    assert probe.under_way
    assert probe.advance() == expected()
    assert not probe.under_way
    assert fake.snapshots == 1
    assert 0.3 < expected() < 1.0


@pytest.mark.parametrize("size", [1, 2, 3, 5, 22])
def test_all_trainers_have_equally_many_slices(size: int) -> None:
    """So the last ones, which have collectives, meet after the same step."""
    numbers = set()
    for index in range(size):
        fake, own = Fake(), share(index, size)
        probe = probe_of(fake.snapshot, own, at_once=2)
        probe.begin()
        slices = 0
        while probe._next < own.largest_share:
            assert probe.advance() is None
            slices += 1
        numbers.add(slices)
        assert sum(fake.sizes) == len(own.images_NCHW)
    assert len(numbers) == 1


def test_what_is_dropped_leaves_nothing_behind() -> None:
    fake = Fake()
    probe = probe_of(fake.snapshot, share())
    probe.begin()
    probe.advance()
    probe.drop()
    assert not probe.under_way
    assert probe.measure() == expected()
    assert sum(fake.sizes) == 4 + NUM_IMAGES


def test_shares_put_together_are_in_the_folders_order() -> None:
    for size in (1, 2, 3, 7):
        shares = [share(index, size) for index in range(size)]
        longest = shares[0].largest_share
        filled = torch.zeros(size, longest, 1, dtype=torch.int64)
        for row, own in zip(filled, shares, strict=True):
            row[: len(own.own_rows), 0] = own.own_rows
        assert shares[0].in_order(filled).flatten().tolist() == list(range(NUM_IMAGES))


def folder(root: Path) -> Path:
    images, labels = pictures()
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        (root / f"label {label}").mkdir(parents=True, exist_ok=True)
        pixels = image.permute(1, 2, 0).numpy().astype(np.uint8)
        Image.fromarray(pixels).save(root / f"label {label}" / f"{number:02}.png")
    return root


def test_it_measures_the_teacher_as_one_process_would(tmp_path: Path) -> None:
    config = tiny_config()
    settings = {"knn_folder": str(folder(tmp_path / "set")), "knn_neighbours": NEIGHBOURS}
    config = config.model_copy(update={"monitor": config.monitor.model_copy(update=settings)})
    teacher = tiny_step(config).model.teacher
    probe = build_shared_knn(config, teacher, ALONE)
    assert probe is not None
    images = load_images(tmp_path / "set", SIDE_PX)
    features = extract(teacher.backbone, images.images_NCHW, CPU)
    whole = leave_one_out_accuracy(features, images.labels_N, neighbours=NEIGHBOURS)
    assert probe.measure() == whole


def test_a_probe_is_of_the_weights_at_its_beginning(tmp_path: Path) -> None:
    config = tiny_config()
    settings = {"knn_folder": str(folder(tmp_path / "set")), "knn_neighbours": NEIGHBOURS}
    config = config.model_copy(update={"monitor": config.monitor.model_copy(update=settings)})
    teacher = tiny_step(config).model.teacher
    probe = build_shared_knn(config, teacher, ALONE)
    assert probe is not None
    before = probe.measure()
    probe.begin()
    probe.advance()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.fill_(torch.nan)
    while (after := probe.advance()) is None:
        pass
    assert after == before
    assert probe.measure() != before, "a later one is of the weights that are there then"


def test_too_few_images_are_refused_and_none_are_no_probe(tmp_path: Path) -> None:
    config = tiny_config()

    def build(**settings: object) -> SharedKnnProbe | None:
        monitor = config.monitor.model_copy(update=settings)
        changed = config.model_copy(update={"monitor": monitor})
        return build_shared_knn(changed, tiny_step(config).model.teacher, ALONE)

    assert build(knn_folder="") is None
    with pytest.raises(ConfigError, match=r"^monitor\.knn_neighbours=23, but .* only 23 images"):
        build(knn_folder=str(folder(tmp_path / "set")), knn_neighbours=23)
