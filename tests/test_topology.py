"""Which rank plays which role."""

import pytest

from online_synclr.config import Config, ConfigError
from online_synclr.config.schema import TopologyConfig, TrainerConfig
from online_synclr.topology import (
    Member,
    RankEnv,
    Roster,
    Split,
    check_gpus,
    check_roster,
    gpu_of,
    node_split,
    planned_roster,
)


def config_with(generators: int | None, trainers: int | None, batch_groups: int = 8) -> Config:
    return Config(
        topology=TopologyConfig(generators=generators, trainers=trainers),
        trainer=TrainerConfig(batch_groups=batch_groups),
    )


@pytest.mark.parametrize(
    ("generators", "trainers", "ranks", "expected"),
    [
        (6, 2, 8, Split(trainers=2, generators=6)),
        (6, None, 8, Split(trainers=2, generators=6)),
        (None, 3, 4, Split(trainers=3, generators=1)),
        (4, 0, 4, Split(trainers=0, generators=4)),
        (None, None, 2, Split(trainers=1, generators=1)),
        (None, None, 8, Split(trainers=2, generators=6)),
        (None, None, 12, Split(trainers=2, generators=10)),
    ],
)
def test_split(generators: int | None, trainers: int | None, ranks: int, expected: Split) -> None:
    assert node_split(config_with(generators, trainers), ranks) == expected


@pytest.mark.parametrize(
    ("generators", "trainers", "ranks"), [(1, 1, 1), (3, 2, 4), (1, 1, 4), (5, None, 4)]
)
def test_roles_must_add_up_to_the_ranks(generators: int, trainers: int | None, ranks: int) -> None:
    with pytest.raises(ConfigError, match="--nproc_per_node"):
        node_split(config_with(generators, trainers), ranks)


def test_one_rank_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="--nproc_per_node=2"):
        node_split(config_with(None, None), 1)


def test_lowest_local_ranks_train() -> None:
    split = Split(trainers=2, generators=2)
    assert [split.role_of(rank) for rank in range(4)] == ["trainer"] * 2 + ["generator"] * 2


def test_gpus_wrap_round_and_two_trainers_never_share() -> None:
    assert [gpu_of(rank, 2) for rank in range(4)] == [0, 1, 0, 1]
    assert gpu_of(3, 0) is None
    check_gpus(Config(), Split(trainers=1, generators=3), num_gpus=1)
    with pytest.raises(ConfigError, match="cannot share"):
        check_gpus(Config(), Split(trainers=2, generators=1), num_gpus=1)


@pytest.mark.parametrize(("server_device", "num_gpus"), [(7, 8), (None, 8), (9, 0)])
def test_a_server_may_have_any_gpu_of_its_node(server_device: int | None, num_gpus: int) -> None:
    split = Split(trainers=1, generators=1)
    check_gpus(config_with_server(server_device), split, num_gpus)
    check_gpus(config_with_server(99), Split(trainers=1, generators=0), num_gpus)


def test_a_server_on_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"server_device=8 .*GPUs are 0 to 7"):
        check_gpus(config_with_server(8), Split(trainers=1, generators=1), num_gpus=8)


def config_with_server(server_device: int | None) -> Config:
    captions = {"server": "per_node", "vllm": {"server_device": server_device}}
    return Config.model_validate({"captions": captions})


def test_roster_indices_follow_rank_order_over_nodes() -> None:
    roster = planned_roster(config_with(1, 1), num_nodes=2, local_world_size=2, num_gpus=0)
    assert [member.rank for member in roster.trainers] == [0, 2]
    assert [member.rank for member in roster.generators] == [1, 3]
    assert roster.one_host
    assert "trainer" in roster.table()


def make_member(rank: int, role: str, host: str = "a") -> Member:
    return Member(rank=rank, local_rank=rank, node=0, host=host, role=role, gpu=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("roles", "sentence"),
    [
        (["generator", "generator"], "no rank is a trainer"),
        (["trainer", "trainer"], "topology.await_joiners"),
        (["trainer", "trainer", "trainer", "generator"], "multiple of 3"),
    ],
)
def test_the_roster_as_a_whole_is_checked(roles: list[str], sentence: str) -> None:
    roster = Roster([make_member(rank, role) for rank, role in enumerate(roles)])
    with pytest.raises(ConfigError, match=sentence):
        check_roster(roster, config_with(1, 1))


def test_a_trainer_that_no_generator_serves_is_refused() -> None:
    roles = ["trainer", "trainer", "trainer", "generator", "generator"]
    roster = Roster([make_member(rank, role) for rank, role in enumerate(roles)])
    config = config_with(2, 3, batch_groups=9)

    def serving(fan_out: int) -> Config:
        stream = config.stream.model_copy(update={"fan_out": fan_out})
        return config.model_copy(update={"stream": stream})

    check_roster(roster, serving(0))
    check_roster(roster, serving(2))
    with pytest.raises(ConfigError, match=r"stream\.fan_out=1 with 2 generators .* at least 2"):
        check_roster(roster, serving(1))


def test_ranks_on_several_hosts_are_refused() -> None:
    roster = Roster([make_member(0, "trainer", "a"), make_member(1, "generator", "b")])
    with pytest.raises(ConfigError, match=r"2 hosts \(a, b\)"):
        check_roster(roster, config_with(1, 1))


def test_a_pool_too_small_for_the_trainers_there_are_is_refused() -> None:
    roster = Roster([make_member(0, "trainer"), make_member(1, "generator")])
    check_roster(roster, config_with(1, 1))
    with pytest.raises(ConfigError, match=r"pool\.max_bytes"):
        check_roster(roster, config_with(1, 1, batch_groups=8192))


def test_torchruns_variables_are_read() -> None:
    env = RankEnv.from_environ(
        {
            "RANK": "5",
            "LOCAL_RANK": "1",
            "WORLD_SIZE": "8",
            "LOCAL_WORLD_SIZE": "4",
            "GROUP_RANK": "1",
            "GROUP_WORLD_SIZE": "2",
            "TORCHELASTIC_RESTART_COUNT": "2",
        }
    )
    assert (env.rank, env.local_rank, env.node, env.num_nodes) == (5, 1, 1, 2)
    assert env.restart_count == 2
    assert env.under_torchrun
    assert not RankEnv.from_environ({}).under_torchrun
