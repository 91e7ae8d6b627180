"""`torchrun -m online_synclr finetune RUN --data DIR --out RUN2`: a phase on labelled images."""

from collections.abc import Sequence
from pathlib import Path

from online_synclr.commands.parser import Parser
from online_synclr.topology import RankEnv


def finetune(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        ConfigError: the run, the pictures or a setting cannot be used.
    """
    parser = Parser(
        prog="torchrun --nproc_per_node=N -m online_synclr finetune",
        description="Train a run's backbone on with labelled images (cross-entropy on the class "
        "token) and write checkpoints that evaluation and export read like a run's. All ranks "
        "train; without torchrun there is one.",
        epilog="Settings are the run's; trainer.supervised is read on top of them, and any can be "
        "given as section.key=value. The same command goes on where it stopped.",
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="run folder, or one of its checkpoints"
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="<class>/<image>, or so below train/ and val/; `check_set`: the bundled pictures "
        "(sets trainer.supervised.folder)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RUN2", help="is made (sets run.dir)"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_intermixed_args(argv)
    overrides = [*arguments.overrides, f"run.dir={arguments.out}"]
    if arguments.data is not None:
        overrides.append(f"trainer.supervised.folder={arguments.data}")
    # Imported here: the command line must answer without torch.
    from trainer.supervised.main import run_phase

    return run_phase(arguments.run, overrides, RankEnv.from_environ())
