"""Settings: files with bases, overrides, and the sentence each wrong setting gets."""

from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import yaml

from online_synclr.config import Config, ConfigError, check, load_config, resolved_yaml
from online_synclr.config.schema import Section
from online_synclr.paths import CONFIGS_DIR
from online_synclr.topology import node_split

NODES_AND_RANKS = {
    "demo": (1, 2),
    "tiny_gpu": (1, 2),
    "vitb16_8gpu": (1, 8),
    "vitb16_dmd2": (1, 8),
    "vitb16_flux_schnell": (1, 8),
    "vitb16_sana_sprint": (1, 8),
    "vitb16_sdxl_turbo": (1, 8),
    "vitb16_turbo": (1, 8),
    "vitb16_sd15": (16, 8),
    "vitl14_sd15": (16, 8),
}
RUN_CONFIGS = sorted(path for path in CONFIGS_DIR.glob("*.yaml") if path.stem != "paper")


@pytest.fixture
def demo() -> Path:
    return CONFIGS_DIR / "demo.yaml"


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path: Path, tmp_path: Path) -> None:
    config = load_config(path, [f"run.dir={tmp_path}"])
    num_nodes, ranks = NODES_AND_RANKS[path.stem]
    check(config, num_trainers=num_nodes * node_split(config, ranks).trainers)


def test_the_paper_configs_carry_the_papers_numbers() -> None:
    config = load_config(CONFIGS_DIR / "vitl14_sd15.yaml")
    assert (config.trainer.steps, config.trainer.batch_groups) == (500_000, 8192)
    assert (config.images.steps, config.images.guidance, config.images.scheduler) == (
        50,
        2.5,
        "ddim",
    )
    assert (config.images.render_px, config.images.send_px, config.images.per_caption) == (
        512,
        256,
        4,
    )
    assert config.trainer.drop_path == 0.4
    assert config.trainer.optimizer.peak_lr == 1.5e-3
    assert config.trainer.contrastive.temperature == 0.08
    assert config.trainer.mim.prototypes == 65536


@pytest.mark.parametrize(
    ("name", "steps", "guidance", "scheduler"),
    [
        ("vitb16_8gpu", 4, 1.5, "lcm"),
        ("vitb16_dmd2", 4, 0.0, "lcm"),
        ("vitb16_turbo", 1, 0.0, "model"),
        ("vitb16_sdxl_turbo", 1, 0.0, "model"),
        ("vitb16_sana_sprint", 2, 4.5, "model"),
        ("vitb16_flux_schnell", 4, 0.0, "model"),
    ],
)
def test_few_step_configs_carry_their_model_cards_numbers(
    name: str, steps: int, guidance: float, scheduler: str
) -> None:
    images = load_config(CONFIGS_DIR / f"{name}.yaml").images
    assert (images.steps, images.guidance, images.scheduler) == (steps, guidance, scheduler)
    assert (images.lora is not None) == (scheduler == "lcm"), "none is left over from the base"


def test_resolved_yaml_reads_back_equal(tmp_path: Path, demo: Path) -> None:
    config = load_config(demo, ["images.steps=20", "trainer.images_per_group=2"])
    path = tmp_path / "resolved.yaml"
    path.write_text(resolved_yaml(config))
    assert load_config(path) == config


def test_base_is_read_first_and_overrides_last(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("trainer: {steps: 7, batch_groups: 16}\n")
    child = tmp_path / "child.yaml"
    child.write_text("base: base.yaml\ntrainer: {batch_groups: 32}\n")
    config = load_config(child, ["trainer.drop_path=0.2"])
    assert config.trainer.steps == 7
    assert config.trainer.batch_groups == 32
    assert config.trainer.drop_path == 0.2


def test_a_base_may_be_a_shipped_config(tmp_path: Path) -> None:
    copy = tmp_path / "mine.yaml"
    copy.write_text("base: paper.yaml\ntrainer: {steps: 3}\n")
    config = load_config(copy)
    assert (config.trainer.steps, config.trainer.batch_groups) == (3, 8192)


def test_a_base_that_is_nowhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: paperr.yaml\n")
    with pytest.raises(ConfigError, match=r"base: .*mine\.yaml names paperr\.yaml"):
        load_config(path)


def test_bases_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ConfigError, match="circle"):
        load_config(tmp_path / "a.yaml")


def test_a_bank_beside_the_file_comes_before_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "concepts").mkdir()
    mine = tmp_path / "concepts" / "paper.yaml"
    mine.write_text("sources: {}\n")
    path = tmp_path / "run.yaml"
    path.write_text("captions: {bank: concepts/paper.yaml}\n")
    assert load_config(path).captions.bank == mine.resolve()
    assert load_config(None).captions.bank == CONFIGS_DIR / "concepts" / "paper.yaml"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("topology.generater=3", "did you mean topology.generators"),
        ("topolgy.generators=3", "did you mean topology"),
        ("trainer.temperature=0.1", "did you mean trainer.contrastive.temperature"),
        ("steps=3", "did you mean"),
        ("trainer.steps=many", "trainer.steps"),
        ("trainer.steps=0", "trainer.steps"),
        ("trainer.steps", "section.key=value"),
        ("run.seed=[1", "not a YAML value"),
        ("captions.backend=llamacpp", "captions.backend"),
        ("captions.top_p=0", "captions.top_p"),
        ("run.seed=2020-99-99", "not a YAML value"),
    ],
)
def test_wrong_settings_are_named(override: str, sentence: str, demo: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(demo, [override])
    message = str(caught.value)
    assert sentence in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["images.model=/no/such/model"], "images.model: there is no folder"),
        (["captions.model=./no-such-model"], "captions.model: there is no folder"),
        (["captions.bank=nowhere.yaml"], "captions.bank"),
        (["captions.backend=openai"], "captions.url"),
        (["captions.backend=vllm", "captions.server=per_node"], "captions.backend"),
        (["captions.url=http://127.0.0.1:1/v1", "captions.server=per_node"], "captions.url"),
        (["captions.backend=ledger"], "needs captions.ledger"),
        (["captions.backend=ledger", "captions.ledger=/no/such/run"], "there is no ledger in /no"),
        (["captions.ledger=/no/such/run"], "set captions.backend=ledger"),
        (
            ["captions.backend=ledger", "captions.ledger=/a", "captions.server=per_node"],
            "captions.server=per_node",
        ),
        (["images.lora=./no-such-lora"], "images.lora: there is no folder"),
        (["images.vae=embedded"], "images.vae: there is no folder"),
        (["images.lora_file=weights.safetensors"], "images.lora_file=weights.safetensors is a"),
        (["images.call_args={guidance_scale: 2.0}"], "set images.guidance"),
        (["images.call_args={generator: 1}"], "leave it out"),
        (["images.call_args={timesteps: [999, 499]}"], "images.steps=8; make them agree"),
        (["images.render_px=68"], "images.render_px=68 is not a multiple of 8"),
        (["images.send_px=128"], "images.render_px"),
        (["stream.max_group_bytes=1000"], "stream.max_group_bytes"),
        (["stream.host=0.0.0.0"], "online_synclr keys DIR"),
        (["stream.host=example.org"], "in figures"),
        (["stream.keys=/no/such/folder"], "keys /no/such/folder"),
        (["stream.silence_s=1"], "stream.heartbeat_s"),
        (["trainer.images_per_group=5"], "trainer.images_per_group"),
        (["trainer.images_per_group=1"], "positive"),
        (["trainer.contrastive.positives=image"], "positive"),
        (["pool.max_reuse=2"], "pool.max_reuse"),
        (["pool.min_groups=4"], "pool.min_groups"),
        (["pool.max_bytes=100000"], "pool.max_bytes"),
        (["pool.error_buffer=0.5"], "pool.error_buffer"),
        (["trainer.crops.global_px=60"], "trainer.crops.global_px"),
        (
            ["trainer.blocks.registers=4", "trainer.backbone_args.reg_tokens=4"],
            "trainer.blocks.registers and trainer.backbone_args.reg_tokens say the same",
        ),
        (["trainer.pretrained=true", "trainer.init_from=x"], "short for trainer.init_from=vit_"),
        (["trainer.high_resolution.send_px=96"], "trainer.high_resolution.steps=0 leaves"),
        (["trainer.high_resolution.steps=9"], "but no size is set for them"),
        (
            ["trainer.high_resolution={steps: 140, global_px: 96}"],
            "trainer.high_resolution.steps=140 are the last ones of trainer.steps=140",
        ),
        (
            ["trainer.high_resolution={steps: 9, global_px: 90}"],
            "in the last phase, with the values of trainer.high_resolution: trainer.crops.global_px"
            "=90 is not a multiple",
        ),
        (["trainer.high_resolution={steps: 9, send_px: 96}"], "larger than images.render_px=64"),
        (
            [
                "trainer.high_resolution={steps: 9, send_px: 512, render_px: 512}",
                "pool.max_bytes=100000000",
            ],
            "in the last phase",
        ),
        (["run.grace_s=30"], "run.grace_s=30 is not below the 30 s"),
    ],
)
def test_contradictions_are_refused(
    overrides: list[str], sentence: str, demo: Path, tmp_path: Path
) -> None:
    config = load_config(demo, [f"run.dir={tmp_path}", *overrides])
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_may_not_train_from_its_own_ledger(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "000001-t0.ledger").touch()
    settings = ["captions.backend=ledger", "captions.model=/no/such/model"]
    own = load_config(demo, [f"run.dir={tmp_path}", f"captions.ledger={tmp_path}", *settings])
    with pytest.raises(ConfigError, match="this run's own ledger"):
        check(own)
    another = load_config(
        demo, [f"run.dir={tmp_path / 'b'}", f"captions.ledger={tmp_path}", *settings]
    )
    check(another)


def test_a_ledger_is_not_trained_on_from_another_runs_checkpoint(
    demo: Path, tmp_path: Path
) -> None:
    (tmp_path / "a" / "ledger").mkdir(parents=True)
    (tmp_path / "a" / "ledger" / "000001-t0.ledger").touch()
    source = ["captions.backend=ledger", f"captions.ledger={tmp_path / 'a'}"]

    def resumed_from(checkpoint: object) -> Config:
        settings = [f"run.dir={tmp_path / 'b'}", f"run.resume={checkpoint}"]
        return load_config(demo, [*settings, *source])

    for own in ("auto", "never", tmp_path / "b" / "checkpoints" / "step_00000004"):
        check(resumed_from(own))
    for folder in ("a", "c"):
        with pytest.raises(ConfigError, match=r"run\.resume=.* is another run's") as caught:
            check(resumed_from(tmp_path / folder / "checkpoints" / "step_00000004"))
        assert "\n" not in str(caught.value)


def test_a_batch_must_divide_over_the_trainers(demo: Path, tmp_path: Path) -> None:
    config = load_config(demo, [f"run.dir={tmp_path}", "trainer.batch_groups=8"])
    with pytest.raises(ConfigError, match=r"trainer\.batch_groups=8 does not divide over 3"):
        check(config, num_trainers=3)


def test_a_batch_is_not_divided_while_the_trainers_are_not_known(
    demo: Path, tmp_path: Path
) -> None:
    check(load_config(demo, [f"run.dir={tmp_path}", "trainer.batch_groups=9"]), num_trainers=None)


def test_a_server_knows_its_model_by_any_name(demo: Path, tmp_path: Path) -> None:
    url = "captions.url=http://127.0.0.1:1/v1"
    check(load_config(demo, [f"run.dir={tmp_path}", url, "captions.model=qwen2.5:7b"]))


def test_a_home_folder_is_spelt_out(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load_config(demo, ["run.dir=~/run", "run.resume=~/old", "images.model=~/model"])
    assert config.run.dir == Path("/home/somebody/run")
    assert config.run.resume == Path("/home/somebody/old")
    assert config.images.model == "/home/somebody/model"


@pytest.mark.parametrize("base", ["base: 5", "base:", "base: [1]"])
def test_a_base_that_names_no_file_is_refused(base: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(base)
    with pytest.raises(ConfigError, match="base"):
        load_config(path)


def test_a_run_folder_with_an_endless_name_is_no_traceback(demo: Path, tmp_path: Path) -> None:
    check(load_config(demo, [f"run.dir={tmp_path / ('x' * 300)}"]))


def test_a_run_folder_that_is_a_file_is_refused(demo: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    with pytest.raises(ConfigError, match=r"run\.dir"):
        check(load_config(demo, [f"run.dir={taken / 'run'}"]))


def test_all_defaults_are_valid_yaml() -> None:
    assert Config.model_validate(yaml.safe_load(resolved_yaml(Config()))) == Config()


def _choices(model: type[Section], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found += _choices(kind, f"{prefix}{name}.")
        elif get_origin(kind) is Literal:
            found += [(f"{prefix}{name}", one) for one in get_args(kind) if isinstance(one, str)]
    return found


@pytest.mark.parametrize(("key", "choice"), _choices(Config))
def test_every_choice_can_be_given_on_the_command_line(key: str, choice: str) -> None:
    """YAML takes some words, `off` among them, for something else than text."""
    assert yaml.safe_load(choice) == choice, key
