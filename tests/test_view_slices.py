"""Slices cover all samples once, and views do not depend on how many are made at a time."""

import pytest
import torch

from online_synclr.config.schema import AugmentConfig, CropsConfig
from trainer.objective import view_slices
from trainer.objective.rng import step_generator
from trainer.objective.view_slices import SLICE_BYTES, slices
from trainer.objective.views import ViewMaker, Views

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


@pytest.mark.parametrize("num", [0, 1, 3, 4, 5, 8])
def test_slices_cover_all_once(num: int) -> None:
    parts = list(slices(num, sample_bytes=SLICE_BYTES // 4, device=CPU))
    assert [sample for part in parts for sample in range(num)[part]] == list(range(num))
    assert len(parts) == -(-num // 4)


def test_a_slice_has_a_sample_however_large_and_more_for_more_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(list(slices(3, sample_bytes=2 * SLICE_BYTES, device=CPU))) == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    assert len(list(slices(3, sample_bytes=2 * SLICE_BYTES, device=CPU))) == 1


def test_a_gpu_takes_all_at_once() -> None:
    assert list(slices(9, sample_bytes=SLICE_BYTES, device=torch.device("cuda"))) == [slice(0, 9)]


@pytest.mark.parametrize("in_a_slice", [1, 2, 4])
def test_views_are_those_of_the_whole_batch(
    in_a_slice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_views()
    monkeypatch.setattr(view_slices, "SLICE_BYTES", in_a_slice * 12 * 24 * 24)
    sliced = make_views()
    torch.testing.assert_close(sliced.globals_, whole.globals_, atol=1e-5, rtol=0)
    torch.testing.assert_close(sliced.locals_, whole.locals_, atol=1e-5, rtol=0)


def make_views() -> Views:
    crops = CropsConfig(global_px=24, local_px=16, globals_per_image=2, locals_per_image=3)
    augment = AugmentConfig(downsample=0.5, downsample_px=(8, 12), grey=0.5, solarise=0.5)
    pixels = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (9, 3, 40, 48), generator=pixels, dtype=torch.uint8)
    drawn = step_generator("views", run_seed=7, incarnation=1, rank=0, step=0)
    return ViewMaker(crops, augment)(images, drawn)
