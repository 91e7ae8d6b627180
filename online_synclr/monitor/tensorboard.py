"""What a run shows in TensorBoard.

The folder's own run holds everything under the metrics' names. Two runs beside it, `generators`
and `trainers`, repeat the curves whose comparison tells whether the split of ranks fits:
TensorBoard colours by run, so the two sides can be told apart in one chart.
"""

from collections.abc import Mapping
from pathlib import Path

from online_synclr.monitor import metrics
from online_synclr.monitor.event_file import EventFile
from online_synclr.monitor.layout import serialised_layout


class TensorBoardLog:
    """Scalars with tooltips, pictures, texts and the page of curves that belong together.

    Continuing at `resume_step` makes readers drop the later steps of earlier attempts; the fast
    loader drops them curve by curve, once the new attempt writes to a curve.
    Every method raises OSError where something cannot be written.
    """

    def __init__(self, folder: Path, resume_step: int, time_s: float) -> None:
        purge_step = resume_step + 1 if resume_step else 0
        self._events = EventFile(folder, purge_step, time_s)
        self._events.custom_scalars(time_s, serialised_layout())
        self._sides = {side: EventFile(folder / side, purge_step, time_s) for side in metrics.SIDES}

    def scalars(self, step: int, time_s: float, values: Mapping[str, float]) -> None:
        """Write all values of a step."""
        described = {name: metrics.describe(name) for name in values}
        help_of = {name: item.description for name, item in described.items() if item}
        self._events.scalars(step, time_s, values, help_of)
        for side, events in self._sides.items():
            repeated, help_of_repeated = _repeated(side, values)
            if repeated:
                events.scalars(step, time_s, repeated, help_of_repeated)

    def picture(
        self, step: int, time_s: float, tag: str, encoded: bytes, size: tuple[int, int]
    ) -> None:
        """Write a PNG or JPEG of `size` (width, height) in pixels."""
        self._events.image(step, time_s, tag, encoded, size)

    def text(self, step: int, time_s: float, tag: str, markdown: str) -> None:
        """Write a Markdown panel; a later text of the same tag stands beside the earlier ones."""
        self._events.text(step, time_s, tag, markdown)

    def close(self) -> None:
        """Close the event files."""
        for events in (self._events, *self._sides.values()):
            events.close()


def _repeated(side: str, values: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """The side's curves of the comparison, and their tooltips."""
    sources = {tag: of_side[side] for tag, of_side in metrics.BALANCE.items()}
    repeated = {tag: values[source] for tag, source in sources.items() if source in values}
    return repeated, {tag: f"{side}: {sources[tag]}" for tag in repeated}
