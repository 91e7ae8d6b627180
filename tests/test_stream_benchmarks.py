"""What the benchmarks of the stream rest on: figures of fairness, tars read back, sealed groups."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bare_ring import bare_ring_rate
from benchmarks.bare_socket import Bare, bare_rate
from benchmarks.fan_in import Figures, Window, jain_index
from benchmarks.rival_transports import TarGroups, check, write_tar
from benchmarks.synthetic_pictures import make_images
from benchmarks.two_processes import SenderProcess

SHAPE = (2, 3, 16, 16)


def test_jain_index_of_equal_shares_and_of_one_for_all() -> None:
    assert jain_index(np.array([5.0, 5.0, 5.0])) == pytest.approx(1.0)
    assert jain_index(np.array([9.0, 0.0, 0.0])) == pytest.approx(1 / 3)


def test_shares_are_of_all_trainers_together() -> None:
    figures = Figures()
    rate = figures.add(
        [Window(2.0, {"g0": 30, "g1": 10}, 4.0), Window(1.0, {"g0": 0, "g1": 20}, 8.0)]
    )
    assert rate == pytest.approx(40.0)
    assert figures.held == [6.0]
    assert (figures.least, figures.most, figures.jain) == ([1.0], [1.0], [1.0])


@pytest.mark.parametrize("jpeg", [False, True])
def test_a_tar_gives_back_what_its_checksums_say(tmp_path: Path, jpeg: bool) -> None:
    path = tmp_path / "groups.tar"
    write_tar(path, SHAPE, jpeg=jpeg)
    for number, (recipe, images, digest) in enumerate(islice(TarGroups(path, SHAPE), 70)):
        check(images.numpy(), digest)
        assert recipe["num_images"] == SHAPE[0]
        original = make_images(SHAPE, number % 64)
        error = np.abs(images.numpy().astype(int) - original).max()
        assert (0 < error < 40) if jpeg else error == 0
    with pytest.raises(ValueError, match="changed"):
        check(images.numpy() ^ 1, digest)


@pytest.mark.parametrize("bare", [Bare(checked=True), Bare(aes_key=bytes(range(32)))])
def test_bare_sockets_move_groups_between_processes(bare: Bare) -> None:
    with SenderProcess("") as sender:
        moved = bare_rate(sender, bare, SHAPE, 8, "127.0.0.1")
    assert moved.groups_per_s > 0
    assert moved.receiver_us > 0
    assert moved.sender_us > 0


def test_a_bare_ring_moves_groups_between_two_processes() -> None:
    assert bare_ring_rate(SHAPE, num_groups=100, num_slots=4, pool_bytes=2**20) > 0
