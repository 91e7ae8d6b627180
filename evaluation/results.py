"""What a task found out about a backbone."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Result:
    """One backbone, one task, one data set.

    metrics: by name, the one that counts first; shares from 0 to 1 unless the name says otherwise.
    details: whatever else belongs into the JSON file (every learning rate's accuracy, the chosen
    regularisation, the number of images, settings), plain JSON values.
    """

    backbone: str
    task: str
    data: str
    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
