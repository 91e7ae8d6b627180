"""From a backbone and a divided data set to what a linear probe found.

train split --features, or augmented images--> heads --+--> accuracy where it is chosen
choose, report splits --features-----------------------+--> accuracy that is reported
"""

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.errors import EvaluationError
from evaluation.features import FeatureTable, extract_features
from evaluation.linear.accuracy import measure_accuracy
from evaluation.linear.division import Division
from evaluation.linear.findings import Findings
from evaluation.linear.norm import FeatureNorm
from evaluation.linear.probe import Probe
from evaluation.linear.probe_file import ProbeFile, probe_key
from evaluation.linear.protocol import Protocol
from evaluation.linear.source import CachedSource, FeatureSource
from evaluation.linear.streamed import StreamedSource
from evaluation.linear.training import train_probe
from evaluation.preprocessing import centre_crop
from evaluation.splits import LabelledSplit
from trainer.objective.precision import network_dtype

SAVE_EVERY_S = 30.0
"""On cached features, where epochs take seconds. With augmentation every epoch is saved."""


def judge(
    backbone: FrozenBackbone,
    division: Division,
    protocol: Protocol,
    bench: Bench,
    *,
    augment: bool,
) -> Findings:
    """Train a probe, or go on with one that was begun, and measure all its heads. On every rank.

    Raises:
        EvaluationError: an image cannot be read or has several classes, there are too few images
            for the ranks, or every head diverged.
    """
    fitted = protocol.fitted(len(division.train), bench.num_ranks)
    # Before training: what is wrong with these images is not found out hours later.
    report = _features(backbone, division.report, bench)
    choose = report
    if division.choose is not division.report:
        choose = _features(backbone, division.choose, bench)
    source, norm = _source(backbone, division.train, fitted, bench, augment=augment)
    probe = Probe(norm, len(division.train.class_names), fitted, bench)
    file = _file(backbone, division.train, fitted, bench, augment=augment)
    file.load(probe)
    train_probe(probe, source, fitted, bench, file)
    reported = measure_accuracy(probe, report, bench)
    chosen_on = reported if choose is report else measure_accuracy(probe, choose, bench)
    best = chosen_on.best()
    if best is None:
        raise EvaluationError(
            "every head of the linear probe diverged; give lower --learning-rates."
        )
    return Findings(division, fitted, probe, chosen_on, reported, best)


def _features(backbone: FrozenBackbone, split: LabelledSplit, bench: Bench) -> FeatureTable:
    table = extract_features(backbone, split, bench)
    if table.labels.ndim != 1:
        raise EvaluationError(
            f"{split.name} gives an image several classes, but a linear probe takes one; use "
            "--task finegrained."
        )
    return table


def _source(
    backbone: FrozenBackbone,
    split: LabelledSplit,
    protocol: Protocol,
    bench: Bench,
    *,
    augment: bool,
) -> tuple[FeatureSource, FeatureNorm]:
    """Where training features come from, and the norm that suits them."""
    if augment:
        norm = FeatureNorm(backbone.feature_dim, exact=False)
        return StreamedSource(backbone, split, protocol, bench), norm
    table = _features(backbone, split, bench)
    return CachedSource(table, protocol, bench), FeatureNorm.of(table.features_ND)


def _file(
    backbone: FrozenBackbone,
    split: LabelledSplit,
    protocol: Protocol,
    bench: Bench,
    *,
    augment: bool,
) -> ProbeFile:
    key = probe_key(
        backbone=backbone.identity,
        split=split.identity,
        image_px=backbone.image_px,
        view="augmented" if augment else str(centre_crop(backbone, crop_pct=bench.crop_pct)),
        dtype=str(network_dtype(bench.precision, bench.device)),
        learning_rates=protocol.learning_rates,
        epochs=protocol.epochs,
        batch_images=protocol.batch_images,
        seed=bench.seed,
    )
    return ProbeFile(key, bench, every_s=0.0 if augment else SAVE_EVERY_S)
