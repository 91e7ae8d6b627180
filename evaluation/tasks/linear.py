"""`--task linear`: the paper's linear probe, nine learning rates trained together."""

import argparse
from collections.abc import Sequence

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.data import load_data
from evaluation.errors import EvaluationError
from evaluation.linear.division import CHOOSE_ON, divide
from evaluation.linear.judge import judge
from evaluation.linear.protocol import BASE_LEARNING_RATES, Protocol
from evaluation.results import Result


class LinearTask:
    """See docs/linear-probe.md."""

    name = "linear"
    help = "linear probe: SGD, nine learning rates trained together, the best reported"

    def add_options(self, group: "argparse._ArgumentGroup") -> None:
        """The protocol's settings."""
        default = Protocol()
        group.add_argument(
            "--epochs",
            type=int,
            default=default.epochs,
            metavar="N",
            help=f"passes over the training images (default {default.epochs})",
        )
        group.add_argument(
            "--train-batch",
            type=int,
            default=default.batch_images,
            metavar="IMAGES",
            help=f"images of one step, over all ranks (default {default.batch_images}, or all "
            "training images where they are fewer)",
        )
        rates = " ".join(f"{rate:g}" for rate in BASE_LEARNING_RATES)
        group.add_argument(
            "--learning-rates",
            type=float,
            nargs="+",
            default=list(BASE_LEARNING_RATES),
            metavar="RATE",
            help=f"of 256 images; they scale with the batch (default {rates})",
        )
        group.add_argument(
            "--choose-on",
            choices=CHOOSE_ON,
            default="auto",
            help="what chooses the learning rate: auto is val where test is reported and val is "
            "there, else what is reported; train-holdout is a tenth of the training images, which "
            "are then not trained on (default auto)",
        )
        group.add_argument(
            "--augment",
            action="store_true",
            help="train on random crops and flips, computed anew in each epoch, instead of on "
            "features that are extracted once: slower by about the number of epochs",
        )

    def run(
        self, backbone: FrozenBackbone, options: argparse.Namespace, bench: Bench
    ) -> Sequence[Result]:
        """Train a probe and judge it.

        Raises:
            EvaluationError: the data or an option cannot be used, or all heads diverged.
        """
        protocol = Protocol(
            learning_rates=tuple(sorted(options.learning_rates)),
            epochs=options.epochs,
            batch_images=options.train_batch,
        )
        if options.data is None:
            raise EvaluationError("--task linear needs --data; give a folder of <class>/<image>.")
        data = load_data(options.data)
        division = divide(data, options.choose_on, bench.seed)
        found = judge(backbone, division, protocol, bench, augment=options.augment)
        bench.say(f"linear probe: {found.sentence()}")
        # Another name, so that one's result does not take the other's place.
        name = f"{self.name}, augmented" if options.augment else self.name
        return [Result(backbone.name, name, data.name, found.metrics(), found.details(bench))]


TASK = LinearTask()
