"""A data set as a table of its splits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evaluation.errors import EvaluationError
from evaluation.splits import LabelledSplit, SplitName

ORDER: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class SplitsByName:
    """`evaluation.splits.LabelledData` of a table. A split is read when it is asked for.

    readers: by split, what reads it.
    """

    name: str
    readers: Mapping[SplitName, Callable[[], LabelledSplit]]

    @property
    def split_names(self) -> Sequence[SplitName]:
        """Those it has, in the order of `ORDER`."""
        return tuple(name for name in ORDER if name in self.readers)

    def split(self, name: SplitName) -> LabelledSplit:
        """One of them.

        Raises:
            EvaluationError: it has none of that name, or it cannot be read.
        """
        if name not in self.readers:
            there = ", ".join(self.split_names)
            raise EvaluationError(
                f"{self.name} has no {name} split, only {there}; name a data set that has one."
            )
        return self.readers[name]()
