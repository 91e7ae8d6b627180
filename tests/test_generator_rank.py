"""A whole generator rank with stand-in engines: groups, END, death and replacement, signals."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from generators.images.synthetic_renderer import SyntheticRenderer
from online_synclr.config.schema import Config
from tests.concept_banks import write_bank
from tests.generator_runs import generator_run

WAIT_S = 120.0


def stand_ins(folder: Path, **generators: Any) -> dict[str, Any]:
    return {
        "captions": {"backend": "template", "bank": str(write_bank(folder))},
        "images": {"backend": "synthetic", "send_px": 16, "per_caption": 2},
        "generators": {"backoff_s": 0.1, **generators},
        "stream": {"heartbeat_s": 0.2},
    }


def engines_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children()


def test_groups_arrive_with_recipes_that_render_them_again(tmp_path: Path) -> None:
    config = stand_ins(tmp_path)
    with generator_run(tmp_path, config) as run:
        assert run.pool.wait_for(20, WAIT_S), run.logs()
        assert run.end() == 0
        (view,) = run.receiver.peers()
    counters = view.counters
    assert view.connection == "ended"
    assert counters["groups_sent"] == len(run.pool.groups) == view.received
    assert counters["groups_rendered"] == counters["groups_sent"] + counters["groups_unsent"]
    assert counters["images_rendered"] == 2 * counters["groups_rendered"]
    assert counters["restarts"] == 0
    renderer = SyntheticRenderer(Config.model_validate(config).images)
    for group in run.pool.groups[:5]:
        assert group.recipe.image_fingerprint == renderer.fingerprint
        again = renderer.render([group.recipe])[0].group
        assert np.array_equal(again.images_mchw, group.images_mchw)


def test_a_killed_engine_is_replaced_and_never_repeats_noise(tmp_path: Path) -> None:
    with generator_run(tmp_path, stand_ins(tmp_path)) as run:
        assert run.pool.wait_for(8, WAIT_S), run.logs()
        (engine,) = engines_of(run.rank.pid)
        engine.kill()
        before = len(run.pool.groups)
        assert run.pool.wait_for(before + 30, WAIT_S), run.logs()
        assert run.end() == 0
        (view,) = run.receiver.peers()
    assert view.counters["restarts"] == 1
    assert "SIGKILL" in (view.first_error or "")
    assert {group.recipe.stream for group in run.pool.groups} == {0, 65536}
    seeds = [seed for group in run.pool.groups for seed in group.recipe.noise_seeds()]
    assert len(set(seeds)) == len(seeds)


def test_an_engine_that_cannot_start_is_named_and_the_rank_idles(tmp_path: Path) -> None:
    config = stand_ins(tmp_path)
    config["captions"]["bank"] = str(tmp_path / "nowhere.yaml")
    with generator_run(tmp_path, config) as run:
        view = run.wait_for_peer(lambda peer: peer.state == "failed", WAIT_S)
        assert "nowhere.yaml does not exist" in (view.first_error or "")
        assert run.rank.poll() is None
        assert run.end() == 0


def test_a_signal_ends_rank_and_engine_in_order(tmp_path: Path) -> None:
    with generator_run(tmp_path, stand_ins(tmp_path)) as run:
        assert run.pool.wait_for(4, WAIT_S), run.logs()
        (engine,) = engines_of(run.rank.pid)
        run.rank.send_signal(signal.SIGTERM)
        assert run.rank.wait(60) == 128 + signal.SIGTERM
        assert not engine.is_running()
        (view,) = run.receiver.peers()
    assert view.connection == "ended"
    assert view.sent == view.received
