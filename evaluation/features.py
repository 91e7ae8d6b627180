"""Features of a split, extracted once, kept, and taken up where a killed run left off.

    chunks on disk --each read by one rank that has it---+
    the others --shared out: decode, crop, backbone------+--> every rank has all, in split's order

A chunk's features are the same whichever rank computes them, since its batches are, so the number
of ranks changes nothing. The ranks wait for each other (`evaluation.feature_sharing`) before and
after they compute, never between.

Shapes: N images, D features, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.errors import EvaluationError
from evaluation.feature_chunks import Chunk, ChunkFolder, Span, spans_of
from evaluation.feature_sharing import exchange, raised_by_all, read_kept
from evaluation.preprocessing import CentreCrop, centre_crop, normalise
from evaluation.progress import progress
from evaluation.reading import read_batches, workers_for
from evaluation.splits import LabelledSplit
from trainer.objective.precision import autocast, network_dtype


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """features_ND: float32. labels: int64 (N,), or bool (N, C) where images have several classes.

    Both on the CPU, in the order of the split, the same on all ranks.
    """

    features_ND: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]


def extract_features(
    backbone: FrozenBackbone, split: LabelledSplit, bench: Bench, *, image_px: int | None = None
) -> FeatureTable:
    """Features of every image: shorter side resized, centre crop, no augmentation.

    See `evaluation.preprocessing` for the view. Every rank calls it, and waits for the others.

    Args:
        image_px: side of the crop; none: the backbone's own.

    Raises:
        EvaluationError: an image cannot be read, or features are not finite; on all ranks.
    """
    if not len(split):
        raise EvaluationError(f"{split.name} has no images; name a data set that has some.")
    view = centre_crop(backbone, image_px=image_px, crop_pct=bench.crop_pct)
    spans = spans_of(len(split))
    folder = _folder(backbone, split, view, bench)
    chunks, owners = read_kept(folder, spans, bench)
    missing = [span for span in spans if span.index not in owners]
    shares = [missing[rank :: bench.num_ranks] for rank in range(bench.num_ranks)]
    _say_what_is_to_do(backbone, split, missing, bench)
    with raised_by_all(bench):
        for span, chunk in _computed(backbone, split, view, shares[bench.rank], bench):
            folder.write(span, chunk)
            chunks[span.index] = chunk
    owners |= {span.index: rank for rank, share in enumerate(shares) for span in share}
    features_ND, labels = exchange(chunks, spans, owners, backbone.feature_dim, bench)
    return FeatureTable(features_ND, labels, tuple(split.class_names))


def _folder(
    backbone: FrozenBackbone, split: LabelledSplit, view: CentreCrop, bench: Bench
) -> ChunkFolder:
    facts = {
        "backbone": backbone.identity,
        "split": split.identity,
        "num_images": len(split),
        "crop_px": view.crop_px,
        "resize_px": view.resize_px,
        "dtype": str(network_dtype(bench.precision, bench.device)),
    }
    about = {"backbone_name": backbone.name, "split_name": split.name}
    return ChunkFolder(bench.cache_dir, facts, about, bench.say)


def _say_what_is_to_do(
    backbone: FrozenBackbone, split: LabelledSplit, missing: Sequence[Span], bench: Bench
) -> None:
    num_missing = sum(map(len, missing))
    kept = len(split) - num_missing
    words = f"{num_missing} to compute" if num_missing else "none to compute"
    bench.say(
        f"features of {backbone.name} on {split.name}: {len(split)} images, {kept} kept, {words}"
    )


def _computed(
    backbone: FrozenBackbone,
    split: LabelledSplit,
    view: CentreCrop,
    spans: Sequence[Span],
    bench: Bench,
) -> Iterator[tuple[Span, Chunk]]:
    """Each of the chunks, as soon as it is whole.

    Raises:
        EvaluationError: an image cannot be read, or features are not finite.
    """
    # No batch reaches into another chunk: rounding must not depend on who computes which.
    batches = [
        range(start, min(start + bench.batch_images, span.end))
        for span in spans
        for start in range(span.start, span.end, bench.batch_images)
    ]
    read = read_batches(
        split,
        view,
        batches,
        num_workers=workers_for(bench.device, bench.cpu_threads),
        pin_memory=bench.device.type == "cuda",
    )
    title = f"{backbone.name} on {split.name}"
    if bench.num_ranks > 1:
        title += f" (rank 0 of {bench.num_ranks})"
    with progress(bench, title, sum(map(len, spans))) as advance:
        for span in spans:
            features, labels, num_done = [], [], 0
            while num_done < len(span):
                batch = next(read)
                features.append(_features(backbone, batch.images_N3PP, bench))
                labels.append(batch.labels)
                num_done += len(batch.labels)
                advance(len(batch.labels))
            yield span, Chunk(torch.cat(features), torch.cat(labels))


@torch.inference_mode()
def _features(backbone: FrozenBackbone, images_N3PP: torch.Tensor, bench: Bench) -> torch.Tensor:
    """float32 (N, D) on the CPU."""
    images_N3PP = images_N3PP.to(bench.device, non_blocking=True)
    with autocast(bench.precision, bench.device):
        normalised = normalise(images_N3PP, backbone.mean, backbone.std)
        features_ND = backbone.features(normalised).float().cpu()
    if features_ND.shape != (len(images_N3PP), backbone.feature_dim):
        raise EvaluationError(
            f"{backbone.name} gives {tuple(features_ND.shape)} for {len(images_N3PP)} images, not "
            f"{backbone.feature_dim} features each; use a model without a classifier."
        )
    if not bool(torch.isfinite(features_ND).all()):
        raise EvaluationError(
            f"{backbone.name} gives features that are not finite; use --precision fp32, or weights "
            "that have not diverged."
        )
    return features_ND
