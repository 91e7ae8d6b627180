"""Training from a ledger: every group once, whoever dies, and the pixels of the first run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from generators.counters import Counters
from generators.errors import SetupError
from generators.images.synthetic_renderer import SyntheticRenderer
from generators.ledger_captions import (
    LedgerCaptions,
    ReplayedRecipes,
    Taken,
    build_ledger_captions,
    part_of,
    trained_on,
)
from generators.role import GeneratorRole
from generators.spec import EngineSpec
from online_synclr.config.schema import Config
from online_synclr.ledger.facts import LedgerError
from online_synclr.ledger.reading import read_ledger
from online_synclr.ledger.seed_keys import SeedKeys
from online_synclr.stream.group import Recipe
from online_synclr.stream.peers import LEDGER_USED_UP
from tests.generator_runs import generator_run
from tests.ledger_files import IMAGES, make_header, open_writer, recipes, write_attempt
from tests.stream_helpers import with_origin
from tests.test_generator_rank import engines_of

WAIT_S = 120.0


def counters_of(part: Iterator[Recipe]) -> list[int]:
    return [recipe.counter for recipe in part]


def replayed(given: list[Recipe]) -> list[Recipe]:
    """As a second run enters them: its own numbers, and where they come from."""
    return [
        with_origin(
            msgspec.structs.replace(recipe, run_seed=99, counter=index),
            run_seed=recipe.run_seed,
            incarnation=recipe.incarnation,
            stream=recipe.stream,
            counter=recipe.counter,
        )
        for index, recipe in enumerate(given)
    ]


@pytest.mark.parametrize("num_generators", [1, 2, 3, 7])
def test_generators_share_a_ledger_without_gap_or_overlap(
    num_generators: int, tmp_path: Path
) -> None:
    write_attempt(tmp_path, make_header(), [recipes(0, 5), recipes(5, 10)])
    source = read_ledger(tmp_path)
    parts = [
        counters_of(part_of(source, SeedKeys(), index, num_generators))
        for index in range(num_generators)
    ]
    assert sorted(counter for part in parts for counter in part) == list(range(10))
    assert all(part == sorted(part) for part in parts), "in the order of first training"


def test_a_run_that_goes_on_renders_what_its_kept_training_lacks(tmp_path: Path) -> None:
    """Attempt 1 trains on six of ten and is continued from step 2, by more generators."""
    given = recipes(0, 10)
    write_attempt(tmp_path / "a", make_header(), [given])
    steps = [replayed(given)[:2], replayed(given)[4:6], replayed(given)[2:4]]
    mine = msgspec.structs.replace(make_header(), run_id="run-2")
    write_attempt(tmp_path / "b", mine, steps)
    later = msgspec.structs.replace(make_header(2, resumed_step=2), run_id="run-2")
    write_attempt(tmp_path / "b", later, [])
    trained = trained_on(tmp_path / "b", 2, patience_s=0.0)
    source = read_ledger(tmp_path / "a")
    parts = [counters_of(part_of(source, trained, index, 3)) for index in range(3)]
    assert sorted(counter for part in parts for counter in part) == [2, 3, 6, 7, 8, 9]


def test_what_an_engine_took_is_not_taken_again(tmp_path: Path) -> None:
    def start() -> LedgerCaptions:
        return LedgerCaptions(iter(recipes(0, 7)), Taken(tmp_path / "g0.taken"), Counters())

    first = start()
    assert [one.recipe.counter for one in first.take(3, 0.0)] == [0, 1, 2]
    second = start()
    taken = second.take(3, 0.0)
    assert [(one.recipe.counter, one.counter) for one in taken] == [(3, 0), (4, 1), (5, 2)]
    assert [one.recipe.counter for one in second.take(3, 0.0)] == [6]
    assert not second.used_up
    assert second.take(3, 0.0) == []
    assert second.used_up


class Clock:
    """Passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s


def test_the_trainers_ledger_is_waited_for_and_not_for_ever(tmp_path: Path) -> None:
    write_attempt(tmp_path, make_header(1), [replayed(recipes(0, 4))])
    clock = Clock()
    with pytest.raises(LedgerError, match=r"000002-t0\.ledger after 5 s.*run\.dir must be on"):
        trained_on(tmp_path, 2, patience_s=5.0, clock=clock, sleep=clock.sleep)

    def begin_after_a_second(duration_s: float) -> None:
        clock.sleep(duration_s)
        if clock.now_s > 1.0 and not list(tmp_path.glob("ledger/000002*")):
            open_writer(tmp_path, make_header(2, resumed_step=0)).close()

    clock.now_s = 0.0
    trained = trained_on(tmp_path, 2, patience_s=5.0, clock=clock, sleep=begin_after_a_second)
    assert recipes(0, 1)[0].own_key not in trained, "the resume threw all of it away"
    assert 1.0 < clock.now_s < 2.0


def test_a_trainers_file_that_is_not_here_is_named(tmp_path: Path) -> None:
    """What that trainer trained on would silently be rendered again."""
    header = msgspec.structs.replace(make_header(1), num_trainers=2)
    write_attempt(tmp_path, header, [replayed(recipes(0, 4))])
    open_writer(tmp_path, make_header(2, resumed_step=1)).close()
    with pytest.raises(LedgerError, match=r"has no 000001-t1\.ledger"):
        trained_on(tmp_path, 2, patience_s=5.0)


def make_spec(folder: Path, ledger: Path, **role: Any) -> EngineSpec:
    config = Config.model_validate(
        {
            "run": {"seed": 5},
            "captions": {"backend": "ledger", "ledger": str(ledger)},
            "images": {"backend": "synthetic", "send_px": 16, "per_caption": 2},
        }
    )
    place = {"run_id": "run-2", "run_dir": folder, "incarnation": 1, "generator_index": 0}
    place |= {"node_index": 0, "local_generator_index": 0, "trainer_addresses": ()}
    place |= {"gpu": None, "cpu_threads": 1, "num_generators": 1} | role
    return EngineSpec(config=config, role=GeneratorRole(**place), stream=65536, server_url="")


def test_a_new_rendering_has_its_own_numbers_and_the_first_ones_noise(tmp_path: Path) -> None:
    (original,) = recipes(3, 4)
    write_attempt(tmp_path / "a", make_header(), [[original]])
    spec, said = make_spec(tmp_path / "b", tmp_path / "a"), list[str]()
    (recorded,) = build_ledger_captions(spec, Counters()).take(4, 0.0)
    again = ReplayedRecipes(spec, said.append)(recorded, "another model")
    assert again.own_key == (5, 1, 65536, 0)
    assert again.noise_seeds() == original.noise_seeds()
    assert again.caption == original.caption
    assert again.llm_fingerprint == original.llm_fingerprint
    assert len(said) == 1
    assert "captions and noise are the same" in said[0]
    # Of a ledger of a run that was itself fed by a ledger, still the first rendering's noise.
    write_attempt(tmp_path / "c", make_header(), [[again]])
    (recorded,) = build_ledger_captions(make_spec(tmp_path / "d", tmp_path / "c"), Counters()).take(
        4, 0.0
    )
    third = ReplayedRecipes(spec, said.append)(recorded, "another model")
    assert third.noise_key == original.own_key


def test_a_generator_that_joined_on_its_own_is_refused(tmp_path: Path) -> None:
    write_attempt(tmp_path, make_header(), [recipes(0, 1)])
    spec = make_spec(tmp_path / "b", tmp_path, num_generators=None)
    with pytest.raises(SetupError, match="joins on its own"):
        build_ledger_captions(spec, Counters())


# --- a real generator rank -----------------------------------------------------------------------


def rank_config(ledger: Path) -> dict[str, Any]:
    return {
        "run": {"seed": 5},
        "captions": {"backend": "ledger", "ledger": str(ledger)},
        "images": IMAGES.model_dump(mode="json"),
        "generators": {"backoff_s": 0.1, "queue_groups": 2},
        "stream": {"heartbeat_s": 0.2},
    }


def test_a_rank_renders_the_ledgers_groups_and_idles_when_it_is_used_up(tmp_path: Path) -> None:
    given = recipes(0, 30)
    write_attempt(tmp_path / "a", make_header(), [given])
    renderer = SyntheticRenderer(IMAGES)
    with generator_run(tmp_path, rank_config(tmp_path / "a")) as run:
        view = run.wait_for_peer(
            lambda peer: peer.state == "idle" and LEDGER_USED_UP in peer.counters, WAIT_S
        )
        assert run.end() == 0, "nothing failed"
    groups = run.pool.groups
    assert view.first_error is None
    assert [group.recipe.noise_key for group in groups] == [recipe.own_key for recipe in given]
    assert len({group.recipe.own_key for group in groups}) == 30
    for group, recipe in zip(groups, given, strict=True):
        (first,) = renderer.render([recipe])
        assert np.array_equal(group.images_mchw, first.group.images_mchw)


def test_a_killed_engine_repeats_nothing_and_loses_only_what_it_held(tmp_path: Path) -> None:
    num = 400
    write_attempt(tmp_path / "a", make_header(), [recipes(0, num)])
    config = rank_config(tmp_path / "a")
    config["images"]["rate_images_per_s"] = 200.0
    with generator_run(tmp_path, config) as run:
        assert run.pool.wait_for(20, WAIT_S), run.logs()
        (engine,) = engines_of(run.rank.pid)
        engine.kill()
        run.wait_for_peer(lambda peer: peer.state == "idle", WAIT_S)
        assert run.end() == 0, run.logs()
    numbers = [group.recipe.noise_key[3] for group in run.pool.groups]
    assert len(set(numbers)) == len(numbers), "nothing twice"
    assert len({group.recipe.own_key for group in run.pool.groups}) == len(numbers)
    # One batch being rendered, the queue with the group in hand, and credits in flight.
    assert num - len(numbers) <= IMAGES.batch_groups + 3 + 4
    assert max(numbers) == num - 1
