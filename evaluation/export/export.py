"""One export: read, convert, write, check, and only then be there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.errors import EvaluationError
from evaluation.export.folder import check_place, written_whole
from evaluation.export.model_card import CARD_NAME, NO_LICENCE, CardFacts, model_card
from evaluation.export.onnx_file import check_onnx_installed, write_onnx
from evaluation.export.results_table import read_results
from evaluation.export.round_trip import check_round_trip
from evaluation.export.timm_files import write_timm
from evaluation.load import split_network
from evaluation.results import Result
from evaluation.sources.checkpoint import (
    Checkpoint,
    Network,
    find_checkpoint,
    is_checkpoint,
    is_run,
    read_checkpoint,
)


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is asked for.

    source: a run's or a checkpoint's folder. step: of the checkpoint; none: the newest. results:
    files of `evaluate`. licence: a hub licence id, for the weights. force: replace an export.
    """

    source: Path
    out: Path
    network: Network = "teacher"
    step: int | None = None
    onnx: bool = False
    results: Sequence[Path] = ()
    title: str = ""
    licence: str = NO_LICENCE
    force: bool = False


def export(asked: Export, say: Callable[[str], None] = lambda text: None) -> Checkpoint:
    """Write the folder `asked.out`; returns the checkpoint that it was made from.

    Raises:
        EvaluationError: something asked for is not there or cannot be done; nothing is written.
    """
    if asked.onnx:
        check_onnx_installed()
    check_place(asked.out, force=asked.force)
    if not (is_run(asked.source) or is_checkpoint(asked.source)):
        raise EvaluationError(f"{asked.source} is no run's folder, and no checkpoint's; name one.")
    results = read_results(asked.results)
    checkpoint = read_checkpoint(find_checkpoint(asked.source, asked.step))
    vit = checkpoint.vit(asked.network)
    say(f"{asked.network} of {checkpoint.folder}: {vit.architecture} at {vit.image_px} px")
    facts = CardFacts(
        title=asked.title or _title(asked, checkpoint),
        checkpoint=checkpoint,
        network=asked.network,
        vit=vit,
        results=results,
        own=[one for one in results if _is_of(one, checkpoint, asked.network)],
        licence=asked.licence,
        onnx=asked.onnx,
    )
    try:
        with written_whole(asked.out, force=asked.force) as folder:
            write_timm(vit, folder)
            apart = check_round_trip(folder, checkpoint, asked.network, vit.image_px)
            say(f"timm loads it; features as trained, to {apart:.0e} in float64")
            if asked.onnx:
                apart = write_onnx(vit, folder)
                say(f"ONNX Runtime runs it; features as torch's, to {apart:.0e} in float32")
            (folder / CARD_NAME).write_text(model_card(facts), encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"--out={asked.out} cannot be written ({error}).") from None
    return checkpoint


def _title(asked: Export, checkpoint: Checkpoint) -> str:
    folder = checkpoint.run if is_checkpoint(asked.source) else asked.source
    return f"{folder.resolve().name}-{asked.network}"


def _is_of(result: Result, checkpoint: Checkpoint, network: Network) -> bool:
    """Whether a result is of this very backbone, by the name that `evaluate` was given."""
    folder, said = split_network(result.backbone)
    if (said or "teacher") != network or not (is_run(folder) or is_checkpoint(folder)):
        return False
    try:
        return find_checkpoint(folder).resolve() == checkpoint.folder.resolve()
    except EvaluationError:
        return False
