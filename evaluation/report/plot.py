"""Results as bars: a panel a task, a group of bars a data set, a bar a backbone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from evaluation.report.records import Record, is_share
from evaluation.report.table import TaskTable, shown, tables_of

_WIDTH_INCHES = 8.0
_BAR_INCHES = 0.22
_GAP_BARS = 0.8
"""Between two groups, in bars."""
_PANEL_INCHES = 0.9
"""Of a panel's title and axis."""


def draw(records: Sequence[Record], path: Path) -> bool:
    """Write the picture: the first metric of each data set, where it is a share.

    Returns whether there was anything to draw.

    Raises:
        OSError: it cannot be written.
    """
    tables = [
        table
        for table in tables_of(records, first_metric_only=True)
        if any(is_share(metric) for _, metric in table.columns)
    ]
    if not tables:
        return False
    backbones = list(dict.fromkeys(name for table in tables for name in table.backbones))
    heights = [_PANEL_INCHES + _BAR_INCHES * _num_bars(table) for table in tables]
    legend_inches = 0.3 + 0.2 * len(backbones)
    figure = Figure((_WIDTH_INCHES, sum(heights) + legend_inches), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(tables), squeeze=False, height_ratios=heights)[:, 0]
    palette = colormaps["tab10" if len(backbones) <= 10 else "tab20"]
    colours = {name: palette(index % palette.N) for index, name in enumerate(backbones)}
    for panel, table in zip(panels, tables, strict=True):
        _draw_table(panel, table, colours)
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower left", frameon=False, fontsize=9)
    figure.savefig(path, dpi=150, format="png")
    return True


def _num_bars(table: TaskTable) -> float:
    return len(table.columns) * (len(table.backbones) + _GAP_BARS)


def _draw_table(panel: Axes, table: TaskTable, colours: Mapping[str, object]) -> None:
    """Groups from above, in the order of the table."""
    columns = [column for column in table.columns if is_share(column[1])]
    pitch = len(table.backbones) + _GAP_BARS
    middles = []
    for index, column in enumerate(columns):
        top = index * pitch
        middles.append(top + (len(table.backbones) - 1) / 2)
        for place, backbone in enumerate(table.backbones):
            value = table.value(backbone, column)
            if value is None:
                continue
            panel.barh(top + place, 100 * value, height=0.85, color=colours[backbone])
            label = f" {shown(value, column[1])}"
            panel.text(100 * value, top + place, label, va="center", fontsize=8)
    panel.set_yticks(middles, [f"{data}\n{metric}" for data, metric in columns], fontsize=9)
    panel.set_ylim(len(columns) * pitch - _GAP_BARS / 2, -1)
    panel.set_xlim(0, 100)
    panel.set_xlabel("per cent", fontsize=9)
    panel.set_title(table.task, loc="left", fontsize=11, fontweight="bold")
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.tick_params(axis="y", length=0)
