"""The paper's nine fine-grained data sets: what reads each, and what is reported of it.

All nine lie below one folder, where torchvision puts them when it is told to download them there;
`evaluation.sources` has their places and splits.
"""

from dataclasses import dataclass
from pathlib import Path

from evaluation.finegrained.metrics import METRICS, Metric


@dataclass(frozen=True)
class SuiteSet:
    """name: on the command line and in tables. source: as `torchvision:SOURCE:DIR` names it."""

    name: str
    source: str
    metric: Metric

    def data_name(self, root: Path) -> str:
        """As --data names it (`evaluation.data.load_data`)."""
        return f"torchvision:{self.source}:{root}"


MEAN_PER_CLASS, TOP1, MAP = (METRICS[n] for n in ("mean_per_class", "top1", "map_11point"))

NINE = (
    SuiteSet("aircraft", "FGVCAircraft", MEAN_PER_CLASS),
    SuiteSet("cars", "StanfordCars", TOP1),
    SuiteSet("dtd", "DTD", TOP1),
    SuiteSet("flowers", "Flowers102", MEAN_PER_CLASS),
    SuiteSet("pets", "OxfordIIITPet", MEAN_PER_CLASS),
    SuiteSet("sun397", "SUN397", TOP1),
    SuiteSet("caltech101", "Caltech101", MEAN_PER_CLASS),
    SuiteSet("food101", "Food101", TOP1),
    SuiteSet("voc2007", "VOC2007", MAP),
)
"""In the paper's order."""

BY_NAME = {one.name: one for one in NINE}
