"""What a backbone's name on the command line means."""

from evaluation.backbone import FrozenBackbone


def load_backbone(name: str, *, image_px: int | None = None) -> FrozenBackbone:
    """The backbone that a command line names, on the CPU.

        runs/demo, runs/demo:student     a run's newest checkpoint; the teacher if not said
        runs/demo/checkpoints/step_N     that checkpoint's (:student, too)
        DIR                              an export
        NAME, random:NAME                a timm model with its weights, or with random ones
        synclr:FILE                      the authors' released weights

    Args:
        image_px: side of its input; none: what it was trained with.

    Raises:
        EvaluationError: there is none of that name, or its weights cannot be read.
    """
    raise NotImplementedError
