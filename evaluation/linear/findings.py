"""What a probe found out, as metrics and as details for the JSON file."""

import math
from dataclasses import dataclass
from typing import Any

from evaluation.bench import Bench
from evaluation.linear.accuracy import Accuracy
from evaluation.linear.division import Division
from evaluation.linear.probe import Probe
from evaluation.linear.protocol import MOMENTUM, Protocol
from online_synclr.monitor.formats import percent


@dataclass(frozen=True)
class Findings:
    """best: the head with the highest top-1 in `chosen_on`."""

    division: Division
    protocol: Protocol
    probe: Probe
    chosen_on: Accuracy
    reported: Accuracy
    best: int

    def metrics(self) -> dict[str, float]:
        """The best head's: top1, and top5 where there are more than five classes."""
        found = {"top1": self.reported.top1[self.best]}
        if self.reported.top5 is not None:
            found["top5"] = self.reported.top5[self.best]
        # A head that diverged is never the best.
        return {name: share for name, share in found.items() if share is not None}

    def details(self, bench: Bench) -> dict[str, Any]:
        """Every head's accuracy, what chose the best one, and the settings."""
        division, protocol = self.division, self.protocol
        return {
            "note": division.note,
            "best_learning_rate": protocol.learning_rates[self.best],
            "best_is_at_the_edge": bool(self._hint()),
            "learning_rates": self._heads(),
            "trained_on": {"name": division.train.name, "num_images": len(division.train)},
            "chosen_on": {"name": division.choose.name, "num_images": len(division.choose)},
            "reported_on": {"name": division.report.name, "num_images": len(division.report)},
            "num_classes": len(division.train.class_names),
            "batch_norm": "exact" if self.probe.norm.exact else "batch statistics",
            "epochs": protocol.epochs,
            "batch_images": protocol.batch_images,
            "momentum": MOMENTUM,
            "seed": bench.seed,
        }

    def sentence(self) -> str:
        """All learning rates for people, and whether others might be better."""
        rates = self.protocol.learning_rates
        shares = [
            f"{rate:g}: {percent(share, 1)}"
            for rate, share in zip(rates, self.reported.top1, strict=True)
        ]
        return (
            f"top-1 on {self.division.report.name} by learning rate: {', '.join(shares)}; best on "
            f"{self.division.choose.name}: {rates[self.best]:g}{self._hint()}"
        )

    def _hint(self) -> str:
        """What to do where the best rate has a neighbour on one side only."""
        last = len(self.protocol.learning_rates) - 1
        if last > 0 and self.best == 0:
            return ", the lowest: try lower ones"
        if last > 0 and self.best == last:
            return ", the highest: try higher ones"
        return ""

    def _heads(self) -> list[dict[str, float | None]]:
        """One object a head; null for a head that diverged."""
        losses = self.probe.loss_H.tolist()
        heads: list[dict[str, float | None]] = []
        for head, base in enumerate(self.protocol.learning_rates):
            found: dict[str, float | None] = {
                "base": base,
                "peak": self.protocol.peak_learning_rates[head],
                "top1": self.reported.top1[head],
                "top1_where_chosen": self.chosen_on.top1[head],
                "train_loss": losses[head] if math.isfinite(losses[head]) else None,
            }
            if self.reported.top5 is not None:
                found["top5"] = self.reported.top5[head]
            heads.append(found)
        return heads
