"""What a linear probe trains on: which splits, and images that are cropped and flipped anew."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

from evaluation.backbone import FrozenBackbone
from evaluation.errors import EvaluationError
from evaluation.linear.augmented import AugmentedSplit
from evaluation.linear.division import divide
from evaluation.linear.order import epoch_batches
from evaluation.linear.protocol import Protocol
from evaluation.linear.streamed import StreamedSource
from tests.feature_fakes import MemoryData, MemorySplit
from tests.linear_parts import bench

PX = 16
PROTOCOL = Protocol(batch_images=12)


class _Patches(nn.Module):
    """Mean colours of four quarters: features of which one knows what they must be."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, images_N3SS: torch.Tensor) -> torch.Tensor:
        return self.scale * nn.functional.adaptive_avg_pool2d(images_N3SS, 2).flatten(1)


def _backbone() -> FrozenBackbone:
    return FrozenBackbone(
        "quarters", "made here", _Patches(), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), PX, "quarters"
    )


def test_a_view_follows_from_seed_epoch_and_image() -> None:
    split = MemorySplit(8)
    views = AugmentedSplit(split, PX, seed=1, epoch=2)
    image, label = views[3]
    assert (image.size, label) == ((PX, PX), 0)
    assert _same(image, views[3][0])
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert _same(image, views[3][0])
    assert torch.equal(before, torch.random.get_rng_state())
    assert not _same(image, AugmentedSplit(split, PX, seed=1, epoch=3)[3][0])
    assert not _same(image, AugmentedSplit(split, PX, seed=2, epoch=2)[3][0])


def test_about_half_of_the_views_are_flipped_and_crops_are_as_torchvisions() -> None:
    """Pictures whose red rises to the right and whose green says where the crop was taken."""
    ramp = torch.arange(200).float().repeat(200, 1)
    pixels = torch.stack([ramp, ramp.T, torch.zeros_like(ramp)], 2).byte()
    picture = Image.fromarray(pixels.numpy())

    class Ramps(MemorySplit):
        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return picture, 0

    split = Ramps(300)
    flipped, shares = 0, []
    for index in range(300):
        image, _ = AugmentedSplit(split, PX, seed=0, epoch=0)[index]
        left, right = image.getpixel((0, 8))[0], image.getpixel((PX - 1, 8))[0]
        top, bottom = image.getpixel((8, 0))[1], image.getpixel((8, PX - 1))[1]
        flipped += left > right
        shares.append(abs(right - left) * abs(bottom - top) / 200**2)
    assert 110 < flipped < 190
    # Areas are drawn evenly from 0.08 to 1; a pixel's centre lies within, so they look smaller.
    assert 0.05 < min(shares) < 0.12
    assert 0.7 < max(shares) <= 1.0


@pytest.mark.parametrize("threads", [1, 8])
def test_streams_the_backbones_features_of_the_views(threads: int) -> None:
    split, backbone = MemorySplit(30), _backbone()
    here = replace(bench(), batch_images=5, cpu_threads=threads)
    steps = list(StreamedSource(backbone, split, PROTOCOL, here).epoch(1))
    batches = epoch_batches(30, PROTOCOL, here, 1)
    assert [len(labels) for _, labels in steps] == [12, 12]
    views = AugmentedSplit(MemorySplit(30), PX, here.seed, 1)
    for (features, labels), batch in zip(steps, batches, strict=True):
        assert torch.equal(labels, torch.tensor([split.label(index) for index in batch.tolist()]))
        for feature, index in zip(features, batch.tolist(), strict=True):
            assert torch.allclose(feature, _by_hand(views[index][0]), atol=1e-5)
    if threads == 1:
        assert sorted(split.reads) == sorted(torch.cat(batches).tolist())


def _by_hand(image: Image.Image) -> torch.Tensor:
    pixels = pil_to_tensor(image).permute(1, 2, 0).double() / 255
    pixels = (pixels - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.3, 0.4])
    half = PX // 2
    quarters = pixels.view(2, half, 2, half, 3).mean((1, 3))
    return quarters.permute(2, 0, 1).flatten().float()


def test_ranks_read_what_one_would() -> None:
    whole = [part for part, _ in StreamedSource(*_source_parts(), bench()).epoch(0)]
    for rank in range(2):
        own = [part for part, _ in StreamedSource(*_source_parts(), bench(rank, 2)).epoch(0)]
        assert all(
            torch.allclose(part, batch[rank::2]) for part, batch in zip(own, whole, strict=True)
        )


def _source_parts() -> tuple[FrozenBackbone, MemorySplit, Protocol]:
    return _backbone(), MemorySplit(30), PROTOCOL


def test_an_unreadable_image_is_one_sentence() -> None:
    split = MemorySplit(12, bad_at=4)
    with pytest.raises(EvaluationError, match=r"^image 4 cannot be read"):
        list(StreamedSource(_backbone(), split, PROTOCOL, bench()).epoch(0))


TRAIN, VAL, TEST = (MemorySplit(30, name=name) for name in ("train", "val", "test"))


@pytest.mark.parametrize(
    ("data", "choose_on", "choose", "report"),
    [
        (MemoryData({"train": TRAIN, "val": VAL, "test": TEST}), "auto", VAL, TEST),
        (MemoryData({"train": TRAIN, "val": VAL, "test": TEST}), "val", VAL, TEST),
        (MemoryData({"train": TRAIN, "val": VAL, "test": TEST}), "test", TEST, TEST),
        (MemoryData({"train": TRAIN, "test": TEST}), "auto", TEST, TEST),
        (MemoryData({"train": TRAIN, "val": VAL}), "auto", VAL, VAL),
        (MemoryData({"train": TRAIN, "val": VAL}), "val", VAL, VAL),
    ],
)
def test_which_splits_choose_and_which_are_reported(
    data: MemoryData, choose_on: str, choose: MemorySplit, report: MemorySplit
) -> None:
    division = divide(data, choose_on, seed=0)  # type: ignore[arg-type]
    assert division.train is TRAIN
    assert division.choose is choose
    assert division.report is report
    assert ("optimistic" in division.note) == (choose is report)


def test_a_tenth_of_the_training_images_may_choose() -> None:
    data = MemoryData({"train": MemorySplit(90), "val": VAL, "test": TEST})
    division = divide(data, "train-holdout", seed=0)
    # Of each class a tenth, rounded.
    assert len(division.train) + len(division.choose) == 90
    assert 7 <= len(division.choose) <= 11
    assert division.report is TEST
    assert "optimistic" not in division.note


@pytest.mark.parametrize(
    ("choose_on", "num_parts"), [("auto", 2), ("test", 2), ("train-holdout", 3)]
)
def test_a_single_split_is_divided(choose_on: str, num_parts: int) -> None:
    data = MemoryData({"train": MemorySplit(90)})
    division = divide(data, choose_on, seed=0)  # type: ignore[arg-type]
    parts = {part.identity: part for part in (division.train, division.choose, division.report)}
    assert len(parts) == num_parts
    assert sum(map(len, parts.values())) == 90
    assert 16 <= len(division.report) <= 20
    again = divide(data, choose_on, seed=0)  # type: ignore[arg-type]
    assert division.train.identity == again.train.identity
    other = divide(data, choose_on, seed=1)  # type: ignore[arg-type]
    assert division.train.identity != other.train.identity


@pytest.mark.parametrize(
    ("data", "choose_on", "words"),
    [
        (MemoryData({"val": VAL, "test": TEST}), "auto", "no train split"),
        (MemoryData({"train": TRAIN, "test": TEST}), "val", "no val split"),
        (MemoryData({"train": TRAIN, "val": VAL}), "test", "no test split"),
        (MemoryData({"train": TRAIN}), "val", "no val split"),
        (MemoryData({"train": TRAIN, "test": MemorySplit(9, num_classes=2)}), "auto", "2 and 3"),
    ],
)
def test_missing_splits_and_other_classes_are_refused(
    data: MemoryData, choose_on: str, words: str
) -> None:
    with pytest.raises(EvaluationError, match=words):
        divide(data, choose_on, seed=0)  # type: ignore[arg-type]


def _same(one: Image.Image, other: Image.Image) -> bool:
    return one.tobytes() == other.tobytes()
