"""Distillation from a frozen teacher: what it sees, what is learned from it, what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from benchmarks.flops import step_flops
from online_synclr.config import Config, ConfigError, resolved_yaml
from online_synclr.config.objective_checks import check_objective
from online_synclr.config.schema import DistillationConfig
from tests.rank_pool import RankPool
from tests.test_checkpoint import make_config, make_intake, run_steps, save
from tests.test_micro_batches import check_same, two_steps
from tests.tiny_objective import NUM_GROUPS, tiny_config, tiny_ids, tiny_views
from tests.tiny_step import ALONE, CPU, tiny_batch, tiny_step, weights
from tests.tiny_teachers import MEAN, STD, VIT, save_teacher
from trainer import checkpoint, checkpoint_files
from trainer.assembly import _check_same_teacher
from trainer.distillation.head import Features, distillation_loss
from trainer.distillation.teacher import FrozenTeacher, build_frozen_teacher
from trainer.distributed import Trainers
from trainer.objective.augment_apply import IMAGENET_MEAN, IMAGENET_STD
from trainer.objective.model import build_model
from trainer.objective.objective import LossParts, Objective
from trainer.step import TrainStep

ALONE_WITH_IT: dict[str, Any] = {
    "contrastive": {"global_weight": 0.0, "local_weight": 0.0},
    "mim": {"weight": 0.0},
}
"""The EMA teacher teaches nothing then."""


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_teacher(tmp_path_factory.mktemp("teacher") / "vit")


def frozen_of(config: Config) -> FrozenTeacher:
    frozen = build_frozen_teacher(config.trainer, patch_px=4)
    assert frozen is not None
    return frozen


def losses(model_seed: int = 0, **trainer: Any) -> tuple[LossParts, Any]:
    config = tiny_config(**trainer)
    model = build_model(config.trainer, run_seed=model_seed)
    objective = Objective(config, model.student, model.teacher, frozen=model.frozen)
    return objective.losses(tiny_views(config), *tiny_ids(config), 0), model


# --- the teacher and its input ---


@pytest.mark.parametrize("teacher_px", [None, 12, 18])
def test_it_sees_the_crops_at_its_own_size_and_normalisation(
    vit: str, teacher_px: int | None
) -> None:
    """Against timm's model and torchvision's transforms, from the pixels on."""
    settings = {"teacher": vit, "teacher_px": teacher_px}
    frozen = frozen_of(tiny_config(distillation=settings))
    px = teacher_px or 12
    assert frozen.image_px == px
    pixels = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    seen = v2.Resize(px, v2.InterpolationMode.BICUBIC, antialias=True)(pixels)
    plain = timm.create_model(vit, pretrained=True, num_classes=0, img_size=px).eval()
    with torch.no_grad():
        tokens = plain.forward_features(v2.Normalize(MEAN, STD)(seen))
        expected_class = plain.forward_head(tokens, pre_logits=True)
    features = frozen(v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)(pixels))
    torch.testing.assert_close(features.class_KC, expected_class, atol=1e-4, rtol=1e-4)
    maps = tokens[:, 1:].unflatten(1, (px // 3, px // 3)).movedim(-1, 1)
    if px != 12:
        maps = v2.Resize(4, antialias=True)(maps)
    expected = maps.flatten(2).transpose(1, 2)
    torch.testing.assert_close(features.patches_KTD, expected, atol=1e-4, rtol=1e-4)


def test_networks_without_tokens_teach_from_their_last_map(tmp_path: Path) -> None:
    args = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
    name = save_teacher(tmp_path / "resnet", "resnet18", **args)
    frozen = frozen_of(tiny_config(distillation={"teacher": name, "teacher_px": 64}))
    features = frozen(torch.randn(2, 3, 16, 16))
    assert features.class_KC is not None
    assert features.patches_KTD is not None
    assert features.class_KC.shape == (2, 16)
    assert features.patches_KTD.shape == (2, 16, 16)


def test_a_run_teaches_with_its_ema_teacher_or_its_student(tmp_path: Path) -> None:
    config = tiny_config(backbone_args={**VIT, "patch_size": 4, "img_size": 16, "embed_dim": 32})
    step = tiny_step(config)
    for parameter in step.model.teacher.parameters():
        parameter.mul_(1.5)
    networks = {"student": step.model.student.state_dict()}
    networks["teacher"] = step.model.teacher.state_dict()
    checkpoint_files.write_checkpoint(
        tmp_path / "checkpoints", 3, networks, {"config.yaml": resolved_yaml(config)}
    )
    images = torch.randn(2, 3, 16, 16)
    for name, network in {
        str(tmp_path): step.model.teacher,
        f"{tmp_path}:student": step.model.student,
        f"{tmp_path}/checkpoints/step_00000003:teacher": step.model.teacher,
    }.items():
        features = frozen_of(tiny_config(distillation={"teacher": name}))(images)
        with torch.no_grad():
            expected = network.backbone.eval().forward_tokens(images)
        torch.testing.assert_close(tuple(features), expected)


def test_identities_tell_weights_and_input_apart(tmp_path: Path, vit: str) -> None:
    other = save_teacher(tmp_path / "other", seed=8)
    settings = [
        {"teacher": vit},
        {"teacher": vit},
        {"teacher": vit, "teacher_px": 24},
        {"teacher": other},
    ]
    first, again, larger, others = (
        frozen_of(tiny_config(distillation=one)).identity for one in settings
    )
    assert first == again
    assert len({first, larger, others}) == 3


# --- the loss ---


def test_the_loss_is_the_mean_cosine_distance() -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = ((3, 5), (3, 4, 6))
    mine, theirs = (
        Features(*(torch.randn(shape, generator=generator) for shape in shapes)) for _ in range(2)
    )
    expected = 0.0
    for weight, one, other in zip((0.5, 2.0), mine, theirs, strict=True):
        assert one is not None
        assert other is not None
        rows = list(zip(one.flatten(0, -2), other.flatten(0, -2), strict=True))
        cosines = [float(a @ b / (a @ a).sqrt() / (b @ b).sqrt()) for a, b in rows]
        expected += weight * (1.0 - sum(cosines) / len(cosines))
    settings = DistillationConfig(teacher="x", class_weight=0.5, patch_weight=2.0)
    assert distillation_loss(mine, theirs, settings).item() == pytest.approx(expected, rel=1e-5)


def test_it_is_added_to_the_other_losses_and_leaves_them_as_they_are(vit: str) -> None:
    plain, _ = losses()
    parts, model = losses(distillation={"teacher": vit})
    assert plain.distillation is None
    assert parts.distillation is not None
    for name in ("global_", "local", "mim"):
        torch.testing.assert_close(getattr(parts, name), getattr(plain, name))
    torch.testing.assert_close(parts.total, plain.total + parts.distillation)
    assert 0.1 < parts.distillation.item() < 4.0
    parts.total.backward()
    missing = [name for name, p in model.student.named_parameters() if p.grad is None]
    assert not missing


@pytest.mark.parametrize("off", ["class_weight", "patch_weight"])
def test_what_has_no_weight_costs_nothing(vit: str, off: str) -> None:
    parts, model = losses(distillation={"teacher": vit, off: 0.0})
    assert parts.distillation is not None
    assert parts.distillation.item() > 0.1
    names = {name.split(".")[1] for name, _ in model.student.distillation_head.named_parameters()}
    assert names == {"weight", "bias"}
    assert len(list(model.student.distillation_head.parameters())) == 2


def test_alone_the_ema_teacher_looks_at_nothing(vit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the EMA teacher was asked")

    monkeypatch.setattr(Objective, "teach", refuse)
    config = tiny_config(distillation={"teacher": vit}, **ALONE_WITH_IT)
    step = tiny_step(config)
    before = weights(step)
    step(tiny_batch(config, 0), 0)
    reading = step.meter.read().means
    assert reading["total"] == pytest.approx(reading["distillation"])
    assert reading["global"] == reading["local"] == reading["mim"] == 0.0
    after = weights(step)
    key = "backbone.vit.blocks.0.attn.qkv.weight"
    assert not torch.equal(before[f"student.{key}"], after[f"student.{key}"])
    assert not torch.equal(before[f"teacher.{key}"], after[f"teacher.{key}"]), "the spare average"


def test_the_student_learns_the_teachers_features_and_the_teacher_stays(vit: str) -> None:
    optimizer = {"peak_lr": 3e-3, "warmup_steps": 1, "lr_reference_groups": NUM_GROUPS}
    config = tiny_config(
        steps=40, distillation={"teacher": vit}, optimizer=optimizer, **ALONE_WITH_IT
    )
    step = tiny_step(config)
    assert step.model.frozen is not None
    before = {name: value.clone() for name, value in step.model.frozen.state_dict().items()}
    batch = tiny_batch(config, 0)
    history = []
    for number in range(30):
        step(batch, number)
        history.append(step.meter.read().means["distillation"])
        step.meter.start_window()
    assert history[-1] < 0.75 * history[0]
    for name, value in step.model.frozen.state_dict().items():
        assert torch.equal(value, before[name]), name
    trained = {id(p) for group in step.optimizer.param_groups for p in group["params"]}
    assert not trained & {id(p) for p in step.model.frozen.parameters()}


def test_bf16_changes_little(vit: str) -> None:
    exact, _ = losses(distillation={"teacher": vit})
    rough, _ = losses(distillation={"teacher": vit}, precision="bf16")
    assert exact.distillation is not None
    assert rough.distillation is not None
    assert rough.distillation.dtype == torch.float32
    assert rough.distillation.item() == pytest.approx(exact.distillation.item(), rel=0.05)
    assert rough.distillation.item() != exact.distillation.item()


def test_the_flops_formula_counts_it_and_not_the_idle_teacher(vit: str) -> None:
    config = tiny_config(distillation={"teacher": vit}, **ALONE_WITH_IT)
    model = build_model(config.trainer, run_seed=0)
    assert model.frozen is not None
    networks = (model.student.backbone.vit, model.teacher.backbone.vit, model.frozen.model)
    for network in networks:
        for block in network.blocks:  # type: ignore[union-attr]
            block.attn.fused_attn = False  # whose scores are computed twice in the backward pass
    objective = Objective(config, model.student, model.teacher, frozen=model.frozen)
    with FlopCounterMode(display=False) as counter:
        objective.losses(tiny_views(config), *tiny_ids(config), 0).total.backward()
    assert step_flops(config, model) == pytest.approx(counter.get_total_flops(), rel=1e-9)


# --- in parts, and on two ranks ---


def settings_in_parts(vit: str, micro_batches: int, **trainer: Any) -> Config:
    optimizer = {"peak_lr": 3e-3, "warmup_steps": 0, "lr_reference_groups": NUM_GROUPS}
    fixed = {"optimizer": optimizer, "distillation": {"teacher": vit}}
    return tiny_config(**{**fixed, "micro_batches": micro_batches, **trainer})


@pytest.mark.parametrize("others", [{}, ALONE_WITH_IT], ids=["added", "alone"])
def test_parts_give_the_step_of_the_whole_batch(vit: str, others: dict[str, Any]) -> None:
    whole = two_steps(settings_in_parts(vit, 1, **others), ALONE)
    check_same(whole, two_steps(settings_in_parts(vit, 3, **others), ALONE))


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    with RankPool(2) as pool:
        yield pool


def trainers_of_rank() -> Trainers:
    group = dist.group.WORLD
    return Trainers(index=dist.get_rank(), size=2, device=CPU, device_group=group, cpu_group=group)


def two_steps_of_rank(vit: str, micro_batches: int, trainer: dict[str, Any]) -> dict[str, Any]:
    return two_steps(settings_in_parts(vit, micro_batches, **trainer), trainers_of_rank())


def test_sharded_networks_take_the_step_of_whole_ones(ranks: RankPool, vit: str) -> None:
    """And all ranks have the same gradients, averaged over them."""
    whole = ranks.run(two_steps_of_rank, vit, 1, {})
    for name, gradient in whole[0]["gradients"].items():
        assert torch.equal(gradient, whole[1]["gradients"][name]), name
    sharded = ranks.run(two_steps_of_rank, vit, 2, {"parallel": "fsdp"})
    for expected, found in zip(whole, sharded, strict=True):
        check_same(expected, found)


def share_of_rank(vit: str) -> float:
    """How much of the frozen teacher this rank holds."""
    step = tiny_step(settings_in_parts(vit, 1, parallel="fsdp"), trainers_of_rank())
    assert step.model.frozen is not None
    parameters = list(step.model.frozen.parameters())
    held = sum(p.to_local().numel() for p in parameters)  # type: ignore[attr-defined]
    return held / sum(p.numel() for p in parameters)


def test_the_frozen_teacher_is_sharded_as_well(ranks: RankPool, vit: str) -> None:
    assert ranks.run(share_of_rank, vit) == [pytest.approx(0.5, abs=0.1)] * 2


def compare_on_rank(names: list[str]) -> str:
    config = tiny_config(distillation={"teacher": names[dist.get_rank()]})
    try:
        _check_same_teacher(frozen_of(config), trainers_of_rank())
    except ConfigError as error:
        return str(error)
    return ""


def test_trainers_that_found_other_weights_do_not_start(
    ranks: RankPool, vit: str, tmp_path: Path
) -> None:
    other = save_teacher(tmp_path / "other", seed=8)
    assert ranks.run(compare_on_rank, [vit, vit]) == ["", ""]
    for said in ranks.run(compare_on_rank, [vit, other]):
        assert "trainers 0 and 1 found different weights" in said


# --- checkpoints ---


def restore(path: Path, config: Config, train: TrainStep) -> int:
    intake = make_intake(config)
    restored = checkpoint.restore(path, config=config, train=train, intake=intake, trainers=ALONE)
    return restored.step


def test_a_resumed_run_has_the_same_teacher_or_none_at_all(tmp_path: Path, vit: str) -> None:
    config = make_config(tmp_path, distillation={"teacher": vit})
    whole = tiny_step(config)
    torch.manual_seed(1)
    run_steps(whole, config, 0, 2, ALONE)
    save(tmp_path, config, 2, whole, make_intake(config))
    run_steps(whole, config, 2, 4, ALONE)
    path = checkpoint_files.latest(tmp_path)
    assert path is not None
    state = checkpoint_files.parse_file(path / checkpoint_files.FILE_NAME)
    assert state["frozen_teacher"] == whole.model.frozen.identity  # type: ignore[union-attr]
    assert set(state["student"]) == set(whole.model.student.state_dict())

    again = tiny_step(config)
    assert restore(path, config, again) == 2
    run_steps(again, config, 2, 4, ALONE)
    expected = weights(whole)
    for name, value in weights(again).items():
        assert torch.equal(value, expected[name]), name

    other = save_teacher(tmp_path / "other", seed=8)
    for settings, said in (
        ({"teacher": other}, r"teacher=local-dir:.*/vit, and .* is another model"),
        ({"teacher": vit, "teacher_px": 24}, "sees another size"),
        ({}, "set trainer.distillation back"),
    ):
        changed = make_config(tmp_path, distillation=settings)
        with pytest.raises(ConfigError, match=said):
            restore(path, changed, tiny_step(changed))


# --- what is refused ---


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_colossal", "neither a run's folder nor a model of timm"),
        ("coatnet_0_224", "timm has no weights for coatnet_0_224"),
        ("nowhere:student", "there is no run in nowhere"),
    ],
)
def test_names_that_teach_nothing(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        frozen_of(tiny_config(distillation={"teacher": name}))


def test_folders_that_teach_nothing(tmp_path: Path, vit: str) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="no complete checkpoint"):
        frozen_of(tiny_config(distillation={"teacher": str(tmp_path)}))
    with pytest.raises(ConfigError, match=r"no config\.json in"):
        frozen_of(tiny_config(distillation={"teacher": f"local-dir:{tmp_path}"}))
    broken = save_teacher(tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"weights of local-dir:.* cannot be had"):
        frozen_of(tiny_config(distillation={"teacher": broken}))
    with pytest.raises(ConfigError, match="not a multiple of the teacher's patch of 3; set it to"):
        frozen_of(tiny_config(distillation={"teacher": vit, "teacher_px": 20}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"distillation": {"class_weight": 0, "patch_weight": 0}}, "teaches nothing"),
        ({"distillation": {"teacher": "local-dir:/nowhere"}}, "no folder /nowhere"),
        ({"distillation": {"teacher": "./nowhere:student"}}, r"no folder \./nowhere;"),
        ({"shuffle_positives": True}, "control experiment"),
    ],
)
def test_settings_that_contradict_are_refused_before_anything_loads(
    settings: dict[str, Any], said: str
) -> None:
    distillation = {"teacher": "vit_base_patch14_dinov2", **settings.pop("distillation", {})}
    with pytest.raises(ConfigError, match=said):
        check_objective(tiny_config(distillation=distillation, **settings))
