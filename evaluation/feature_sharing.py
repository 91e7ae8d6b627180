"""What the ranks of an extraction tell each other: who has which chunk, who failed, the chunks.

All ranks call each function at the same point, and wait there for each other; one rank alone has
nobody to wait for. No common disk is needed: what one rank has it sends to the others.

Shapes: N images, D features, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from evaluation.bench import Bench
from evaluation.errors import EvaluationError
from evaluation.feature_chunks import Chunk, ChunkFolder, Span
from trainer.collectives import gather_bytes


def read_kept(
    folder: ChunkFolder, spans: Sequence[Span], bench: Bench
) -> tuple[dict[int, Chunk], dict[int, int]]:
    """The chunks that this rank has read, and which rank has read which: each is read once."""
    has = gather_bytes(bytes(folder.has(span) for span in spans), bench.group)
    chunks: dict[int, Chunk] = {}
    for span in spans:
        holders = [rank for rank, there in enumerate(has) if there[span.index]]
        if holders and holders[span.index % len(holders)] == bench.rank:
            chunk = folder.read(span)
            if chunk is not None:
                chunks[span.index] = chunk
    read = gather_bytes(bytes(span.index in chunks for span in spans), bench.group)
    owners = {
        span.index: rank for rank, there in enumerate(read) for span in spans if there[span.index]
    }
    return chunks, owners


@contextmanager
def raised_by_all(bench: Bench) -> Iterator[None]:
    """An error in the block is raised on every rank: the others would wait for this one for ever.

    Waits for all ranks at the end of the block.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    told = "" if error is None else str(error) or type(error).__name__
    sentences = gather_bytes(told.encode(), bench.group)
    if error is not None:
        raise error
    for sentence in filter(None, sentences):
        raise EvaluationError(sentence.decode())


def exchange(
    chunks: dict[int, Chunk],
    spans: Sequence[Span],
    owners: Mapping[int, int],
    feature_dim: int,
    bench: Bench,
) -> tuple[torch.Tensor, torch.Tensor]:
    """All chunks from their owners, in order; `chunks`, this rank's own, is emptied."""
    num_images = spans[-1].end
    features_ND = torch.empty(num_images, feature_dim)
    # As many classes as an image's label has columns; none where it is one number.
    columns = torch.zeros(1, dtype=torch.int64)
    if owners[0] == bench.rank and chunks[0].labels.ndim == 2:
        columns[0] = chunks[0].labels.shape[1]
    _broadcast(columns, owners[0], bench)
    several = int(columns)
    labels = (
        torch.empty(num_images, several, dtype=torch.bool)
        if several
        else torch.empty(num_images, dtype=torch.int64)
    )
    for span in spans:
        features_part, labels_part = (
            features_ND[span.start : span.end],
            labels[span.start : span.end],
        )
        if owners[span.index] == bench.rank:
            chunk = chunks.pop(span.index)
            features_part.copy_(chunk.features_ND)
            labels_part.copy_(chunk.labels)
        _broadcast(features_part, owners[span.index], bench)
        _broadcast(labels_part.view(torch.uint8), owners[span.index], bench)
    return features_ND, labels


def _broadcast(tensor: torch.Tensor, source: int, bench: Bench) -> None:
    """Into `tensor`, on the CPU and contiguous, from rank `source`."""
    if bench.group is not None:
        dist.broadcast(tensor, group_src=source, group=bench.group)
