"""What a model card says of a run: what its backbone saw, and the settings that made it so."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from evaluation.sources.checkpoint import Checkpoint
from online_synclr.config import Config
from online_synclr.config.schema import TrainerConfig
from online_synclr.monitor.summary import Summary
from online_synclr.run_folder import RunFolder
from trainer.checkpoint import RankState
from trainer.checkpoint_reading import as_bytes
from trainer.distinct import MAX_HASHES, DistinctCounter
from trainer.totals import Totals

Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class Seen:
    """Until the checkpoint: groups trained on and their uses, different captions, images rendered.

    ledger_groups: how many of the groups the run's ledger has; with it each can be rendered again.
    captions are an estimate beyond `MAX_HASHES`.
    """

    groups: int
    group_uses: int
    captions: int
    images_rendered: int
    ledger_groups: int


def seen_until(checkpoint: Checkpoint) -> Seen | None:
    """From the checkpoint's own counts; None where it has none."""
    ranks, totals = checkpoint.state.get("ranks"), checkpoint.state.get("totals")
    if not ranks or totals is None:
        return None
    try:
        intakes = [msgspec.msgpack.decode(as_bytes(rank), type=RankState).intake for rank in ranks]
        counted = Totals.decode(as_bytes(totals))
        captions = DistinctCounter.from_bytes(counted.captions).count()
    except (msgspec.MsgspecError, ValueError):
        return None
    return Seen(
        groups=sum(intake["trained"] for intake in intakes),
        group_uses=sum(intake["group_uses"] for intake in intakes),
        captions=captions,
        images_rendered=counted.images_rendered,
        ledger_groups=counted.ledger_groups - counted.ledger_lost,
    )


def summary_of(checkpoint: Checkpoint) -> Summary | None:
    """The run's summary, if it has ended with this checkpoint as its last one."""
    try:
        summary = Summary.read(RunFolder(checkpoint.run).summary)
    except (OSError, ValueError):
        return None
    return summary if summary.steps == checkpoint.step else None


def seen_rows(checkpoint: Checkpoint, seen: Seen | None, summary: Summary | None) -> Rows:
    """What it saw, most telling first."""
    config = checkpoint.config
    rows: Rows = [("steps", _count(checkpoint.step))]
    if seen is not None:
        about = "about " if seen.captions > MAX_HASHES else ""
        used = seen.group_uses * config.images_per_group
        rows += [
            ("captions", f"{about}{_count(seen.captions)}, each a class of its own"),
            ("groups", f"{_count(seen.groups)} of {config.images.per_caption} images"),
            (
                "images",
                f"{_count(seen.groups * config.images.per_caption)}; with reuse {_count(used)}",
            ),
        ]
        if seen.ledger_groups:
            recorded = f"{_count(seen.ledger_groups)} groups"
            rows.append(("ledger", f"{recorded}, which can be rendered again"))
    if summary is not None:
        rows.append(("time", f"{summary.wall_s / 3600:.2f} hours, {summary.attempts} starts"))
    return rows


def recipe_rows(config: Config) -> Rows:
    """The settings that decide what is learned; machine, folders and addresses are left out."""
    trainer, images = config.trainer, config.images
    rows = [
        ("backbone", _with(trainer.backbone, trainer.backbone_args)),
        ("images", _images(config)),
        ("crops", _crops(trainer)),
        ("batch", f"{_count(trainer.batch_groups)} captions x {config.images_per_group} images"),
        ("loss", _loss(trainer)),
        ("optimiser", _optimiser(trainer)),
        ("teacher", "moving average, momentum {} to {}".format(*trainer.optimizer.ema)),
        ("drop path", f"{trainer.drop_path:g}"),
        ("concepts", Path(config.captions.bank).name),
        (
            "captions",
            f"temperature {config.captions.temperature:g}, top-p {config.captions.top_p:g}",
        ),
        ("seed", str(config.run.seed)),
    ]
    start, extra = _start(trainer), _changed_sections(trainer)
    rows += [("starts from", start)] if start else []
    rows += [("beyond the paper", extra)] if extra else []
    if images.backend == "synthetic":
        rows = [row for row in rows if row[0] != "images"]
    return rows


def has_outside_sources(trainer: TrainerConfig) -> bool:
    """Whether it may have learned from more than its own captions and images."""
    return bool(_start(trainer) or _changed_sections(trainer))


def _start(trainer: TrainerConfig) -> str:
    """Weights of others that the training began with; empty: random ones."""
    if trainer.pretrained:
        return f"timm's weights of {trainer.backbone}"
    named = str(getattr(trainer, "init_from", ""))
    return Path(named).name if _is_place(named) else named


def _images(config: Config) -> str:
    images = config.images
    return (
        f"{images.per_caption} for each caption, {images.steps} steps at guidance "
        f"{images.guidance:g}, {images.render_px} px, {images.send_px} px sent"
    )


def _crops(trainer: TrainerConfig) -> str:
    crops = trainer.crops
    local = f", {crops.locals_per_image} of {crops.local_px} px" if crops.locals_per_image else ""
    return f"{crops.globals_per_image} of {crops.global_px} px{local} for each image"


def _loss(trainer: TrainerConfig) -> str:
    contrastive, mim = trainer.contrastive, trainer.mim
    text = (
        f"multi-positive contrastive at temperature {contrastive.temperature:g}, positives by "
        f"{contrastive.positives}"
    )
    if mim.weight:
        text += f"; masked images at weight {mim.weight:g}, {_count(mim.prototypes)} prototypes"
    return text


def _optimiser(trainer: TrainerConfig) -> str:
    optimizer = trainer.optimizer
    decay = " to ".join(f"{value:g}" for value in optimizer.weight_decay)
    return (
        f"{optimizer.name}, peak rate {optimizer.peak_lr:g} after {_count(optimizer.warmup_steps)} "
        f"steps, weight decay {decay}"
    )


def _changed_sections(trainer: TrainerConfig) -> str:
    """Sections of settings that this module does not know by name, where they are not default."""
    known = {"crops", "augment", "contrastive", "mim", "optimizer", "checkpoint", "backbone_args"}
    changed = []
    for name in type(trainer).model_fields:
        value = getattr(trainer, name)
        if name in known or not hasattr(value, "model_dump"):
            continue
        differing = value.model_dump(exclude_defaults=True, mode="json")
        plain = {key: one for key, one in differing.items() if not _is_place(one)}
        if plain:
            changed.append(_with(name, plain))
    return "; ".join(changed)


def _is_place(value: object) -> bool:
    return isinstance(value, str) and "/" in value


def _with(name: str, arguments: Mapping[str, Any]) -> str:
    return name + "".join(f", {key} {value}" for key, value in arguments.items())


def _count(number: int) -> str:
    return f"{number:,}"
