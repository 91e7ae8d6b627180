"""Which groups the quality gate refuses, and why; and that the reasons it names are explained."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators.barren import BarrenWatch
from generators.caption_filter import REASONS
from generators.errors import GeneratorError
from generators.images.quality_gate import GateReason, QualityGate
from generators.images.renderer import Rendered
from online_synclr.refusals import MENDS, mend_of
from online_synclr.stream.group import Group
from tests.stream_helpers import make_recipe

SHAPE = (4, 3, 8, 8)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8)


def reason(images: np.ndarray, *, finite: bool = True, min_contrast: float = 2.0) -> str | None:
    rendered = Rendered(Group(make_recipe(0), images), finite)
    return QualityGate(SHAPE, min_contrast).reason(rendered)


def test_good_groups_pass() -> None:
    assert reason(noise()) is None


def test_a_picture_that_was_not_finite() -> None:
    assert reason(noise(), finite=False) == "non_finite"


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (12, 200, 77)])
def test_a_blanked_picture_is_flat_whatever_its_colour(colour: tuple[int, int, int]) -> None:
    images = noise()
    images[2] = np.array(colour, np.uint8)[:, None, None]
    assert reason(images) == "low_contrast"
    assert reason(images, min_contrast=0.0) is None


def test_contrast_is_that_of_the_channel_that_varies_most() -> None:
    images = noise()
    images[:, 1:] = 0
    assert reason(images) is None, "shades of one colour are a picture"
    assert reason(images, min_contrast=120.0) == "low_contrast"


@pytest.mark.parametrize("images", [noise()[:3], noise()[:, :1], noise()[..., :7], noise()[0]])
def test_another_shape(images: np.ndarray) -> None:
    assert reason(images) == "wrong_shape"


def test_another_type() -> None:
    assert reason(noise().astype(np.float32)) == "wrong_shape"


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 3), (0, 3)])
def test_any_two_equal_pictures(first: int, second: int) -> None:
    images = noise()
    images[second] = images[first]
    assert reason(images) == "identical"
    images[second, 0, 0, 0] ^= 1
    assert reason(images) is None, "alike is what they should be"


def test_pictures_that_lie_scattered_in_memory_are_compared_as_well() -> None:
    images = np.ascontiguousarray(noise().transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not images.flags.c_contiguous
    assert reason(images) is None
    images[3] = images[0]
    assert reason(images) == "identical"


def test_every_reason_has_a_mend() -> None:
    assert set(MENDS) == {*REASONS, *get_args(GateReason)}
    assert "captions.filter" in mend_of("a reason of a newer version")


def test_nothing_but_refusals_is_an_error_that_names_the_commonest_reason() -> None:
    watch = BarrenWatch("groups", least=8, batches=2)
    watch.batch_done(["identical", "identical", "non_finite"])
    watch.batch_done(["non_finite"] * 3)
    with pytest.raises(
        GeneratorError, match=r"last 9 groups .* 7 of them for 'non_finite'; .*images\.dtype"
    ):
        watch.batch_done(["non_finite"] * 3)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([None, "empty", "repeated"]), max_size=6), max_size=30),
    st.integers(1, 12),
    st.integers(1, 4),
)
def test_it_is_barren_exactly_when_enough_in_a_row_were_refused(
    verdicts: list[list[str | None]], least: int, batches: int
) -> None:
    watch = BarrenWatch("captions", least=least, batches=batches)
    in_a_row: list[list[str | None]] = []
    for batch in verdicts:
        in_a_row = [] if None in batch else [*in_a_row, batch]
        barren = len(in_a_row) >= batches and sum(map(len, in_a_row)) >= least
        if barren:
            with pytest.raises(GeneratorError):
                watch.batch_done(batch)
            return
        watch.batch_done(batch)
