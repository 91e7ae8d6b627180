"""A last phase at another size: settings, resampled checkpoints, the switch, whole runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from torch.nn import functional

from generators.sizes import SizeError, sized
from online_synclr.config import Config, ConfigError
from online_synclr.config.schema import TrainerConfig
from online_synclr.process_control import GOES_ON, STARTS_IN_PLACE
from online_synclr.rendezvous import Rendezvous
from online_synclr.topology import RankEnv
from tests.test_checkpoint import make_config, make_intake, save
from tests.test_trainer_run import ThreadGenerator, checkpoints, make_role
from tests.test_trainer_run import make_config as make_run_config
from tests.tiny_step import ALONE, tiny_batch, tiny_step
from tests.torchrun import SYNTHETIC, assert_accounts_balance, torchrun
from trainer import checkpoint, checkpoint_files
from trainer.main import run_trainer
from trainer.step import TrainStep

POSITIONS = "backbone.vit.pos_embed"
LARGER = {"global_px": 24, "local_px": 8}


def phased(**sizes: int) -> Config:
    images = {"send_px": 64, "render_px": 128}
    phase = {"steps": 4, **sizes}
    return Config.model_validate(
        {"images": images, "trainer": {"steps": 10, "high_resolution": phase}}
    )


def test_only_what_is_set_changes_and_only_in_the_phase() -> None:
    config = phased(global_px=448, send_px=128, micro_batches=2)
    assert config.at_step(0) == config.at_step(5) == config
    late = config.at_step(6)
    assert late == config.at_step(10) == late.at_step(6)
    assert (late.trainer.crops.global_px, late.trainer.crops.local_px) == (448, 96)
    assert (late.images.send_px, late.images.render_px) == (128, 128)
    assert late.trainer.micro_batches == 2
    changed = {"crops", "micro_batches"}
    before, after = config.trainer.model_dump(), late.trainer.model_dump()
    assert {key for key in before if before[key] != after[key]} == changed
    assert (config.trainer.part_end(0), config.trainer.part_end(6)) == (6, 10)
    whole = TrainerConfig(steps=10)
    assert (whole.part_end(0), whole.in_high_resolution(10)) == (10, False)


def test_a_generator_from_outside_takes_the_runs_size() -> None:
    said: list[str] = []
    config = phased(send_px=256, render_px=512)
    late = sized(config, (4, 3, 256, 256), said.append)
    assert (late.images.send_px, late.images.render_px) == (256, 512)
    assert sized(config, (4, 3, 64, 64), said.append) == config
    assert said == []
    other = sized(config, (4, 3, 100, 100), said.append)
    assert (other.images.send_px, other.images.render_px) == (100, 128)
    assert "pictures of 100 px" in said[0]
    with pytest.raises(SizeError, match=r"images\.render_px=600 or more"):
        sized(config, (4, 3, 600, 600), said.append)
    with pytest.raises(SizeError, match="no squares"):
        sized(config, (4, 3, 64, 32), said.append)


def test_a_start_in_place_has_keys_of_its_own() -> None:
    store = dist.HashStore()
    environments = [{}, {STARTS_IN_PLACE: "1"}, {"TORCHELASTIC_RESTART_COUNT": "1"}]
    envs = [RankEnv.from_environ({"RANK": "0", "WORLD_SIZE": "1", **e}) for e in environments]
    assert [env.attempt for env in envs] == [0, 1, 1]
    first, second, restarted = (
        Rendezvous(dist.PrefixStore(env.attempt_name, store), env, timeout_s=60) for env in envs
    )
    first.publish_start(6)
    assert first.await_start() == 6
    assert not first.goes_on
    first.publish_going_on()
    assert (first.goes_on, second.goes_on, restarted.goes_on) == (True, False, False)


def saved_then_larger(folder: Path, **trainer: Any) -> Config:
    """Settings of 24 px crops, beside a checkpoint of 16 px ones after three steps."""
    config = make_config(folder)
    save(folder, config, 3, tiny_step(config), make_intake(config))
    return make_config(folder, crops=LARGER, **trainer)


def restore(config: Config, said: list[str] | None = None) -> TrainStep:
    train = tiny_step(config)
    checkpoint.restore(
        checkpoint.choose(config),
        config=config,
        train=train,
        intake=make_intake(config),
        trainers=ALONE,
        say=[].append if said is None else said.append,
    )
    return train


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_checkpoint_goes_on_at_a_larger_size(tmp_path: Path, optimizer: str) -> None:
    how = {"optimizer": {"name": optimizer}}
    config = make_config(tmp_path, **how)
    small = tiny_step(config)
    for number in range(3):
        small(tiny_batch(config, number), number)
    save(tmp_path, config, 3, small, make_intake(config))
    said: list[str] = []
    config = make_config(tmp_path, crops=LARGER, resample_on_resume=True, **how)
    large = restore(config, said)
    for network in ("student", "teacher"):
        old, new = (getattr(one.model, network).state_dict() for one in (small, large))
        grid = old[POSITIONS][:, 1:].reshape(1, 4, 4, 16).permute(0, 3, 1, 2)
        wanted = functional.interpolate(grid, size=(6, 6), mode="bicubic", antialias=True)
        torch.testing.assert_close(new[POSITIONS][:, 1:], wanted.flatten(2).mT)
        assert torch.equal(new[POSITIONS][:, :1], old[POSITIONS][:, :1])
        assert all(torch.equal(new[key], old[key]) for key in old if key != POSITIONS)
    assert said == ["the checkpoint's positions are resampled from 4 x 4 to 6 x 6 patches"]

    moments = moments_of(large)
    assert POSITIONS not in moments
    others = moments_of(small)
    del others[POSITIONS]
    assert moments.keys() == others.keys()
    for name, values in others.items():
        for key, value in values.items():
            assert torch.equal(moments[name][key], value), name
    large(tiny_batch(config, 3), 3)
    assert moments_of(large)[POSITIONS]["step"] == 1


def moments_of(train: TrainStep) -> dict[str, dict[str, torch.Tensor]]:
    """By the parameter's name."""
    named = {id(p): name for name, p in train.model.student.named_parameters()}
    found = {}
    for part, state in train.optimizer.state_dict().items():
        groups = train.optimizer._parts[part].param_groups
        every = [p for group in groups for p in group["params"]]
        found |= {named[id(every[index])]: values for index, values in state["state"].items()}
    return found


def test_a_new_size_is_refused_unless_asked_for(tmp_path: Path) -> None:
    larger = saved_then_larger(tmp_path)
    with pytest.raises(ConfigError, match=r"set trainer\.resample_on_resume=true"):
        restore(larger)


def test_the_phase_itself_may_resample_but_not_before_it_begins(tmp_path: Path) -> None:
    phase = saved_then_larger(tmp_path, high_resolution={"steps": 7, "global_px": 24})
    restore(phase)
    early = saved_then_larger(tmp_path, high_resolution={"steps": 6, "global_px": 24})
    with pytest.raises(ConfigError, match=r"run\.resume"):
        restore(early)


def test_a_trainer_goes_on_at_the_larger_size(tmp_path: Path) -> None:
    """Two parts of a run over the real stream, the second in a start of its own; then a restart."""
    config = make_run_config(tmp_path / "run", steps=6)
    phase = {"steps": 3, "global_px": 24, "local_px": 8}
    trainer = TrainerConfig.model_validate(config.trainer.model_dump() | {"high_resolution": phase})
    config = config.model_copy(update={"trainer": trainer})

    def play(incarnation: int) -> tuple[int, bool]:
        role = make_role(config.run.dir, incarnation)
        generator = ThreadGenerator(config, role)
        code = run_trainer(config, role)
        generator.join()
        return code, role.rendezvous.goes_on

    assert play(1) == (GOES_ON, True)
    assert checkpoints(config) == ["step_00000002", "step_00000003"]
    assert play(2) == (0, False)
    sides = {path.name: side_of(path) for path in (config.run.dir / "checkpoints").iterdir()}
    assert sides == {"step_00000004": (24, 37), "step_00000006": (24, 37)}
    # A start within the phase: nothing is resampled, moments are kept.
    (config.run.dir / "checkpoints" / "step_00000006" / "checkpoint.pt").unlink()
    (config.run.dir / "checkpoints" / "step_00000006").rename(tmp_path / "gone")
    assert play(3) == (0, False)
    state = checkpoint_files.parse_file(
        config.run.dir / "checkpoints" / "step_00000006" / "checkpoint.pt"
    )
    steps = [int(one["step"]) for one in state["optimizer"]["adamw"]["state"].values()]
    assert sorted(set(steps)) == [3, 6]
    assert steps.count(3) == 1


def side_of(folder: Path) -> tuple[int, int]:
    """Side of the global crops in a checkpoint's settings, and its number of positions."""
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    state = checkpoint_files.parse_file(folder / "checkpoint.pt")
    positions = state["teacher"][POSITIONS].shape[1]
    return settings["trainer"]["crops"]["global_px"], positions


@pytest.mark.slow
def test_a_whole_run_with_a_last_phase(tmp_path: Path) -> None:
    """One command: two trainers and two generators change the size together."""
    phase = "{steps: 4, global_px: 96, local_px: 48, send_px: 96, render_px: 96, micro_batches: 2}"
    run = torchrun(
        tmp_path / "run",
        *SYNTHETIC,
        "topology.trainers=2",
        "topology.generators=2",
        "trainer.steps=10",
        f"trainer.high_resolution={phase}",
        "trainer.checkpoint={every_steps: 3, keep: 9}",
        nproc=4,
    )
    assert run.code == 0, run.output
    summary = run.summary
    assert (summary["steps"], summary["attempts"], summary["incarnation"]) == (10, 2, 2)
    assert summary["group_uses"] == 10 * 12
    assert summary["thrown_away_steps"] == summary["groups_lost"] == 0
    assert_accounts_balance(summary)
    assert [row["step"] for row in run.metrics if "loss/total" in row] == list(range(1, 11))
    folders = sorted((run.run_dir / "checkpoints").iterdir())
    sides = {checkpoint_files.step_of(folder): side_of(folder) for folder in folders}
    small, large = (64, 1 + 64), (96, 1 + 144)
    assert sides == {3: small, 6: small, 9: large, 10: large}
    assert "resampled from 8 x 8 to 12 x 12 patches" in run.output
