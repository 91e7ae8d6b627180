"""The parameters of all crops of a step, and those of some of its images.

Everything random about the views is drawn for the whole batch; views can then be made of a few
images at a time and are the same.

Shapes: N images of the batch, n of them in a part; index tensors name the samples of a subset.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch

from trainer.objective.augment_params import CropParams, JitterStep, Subset


@dataclass(frozen=True, slots=True)
class ViewParams:
    """Parameters of every global and local crop of the same images, on the CPU."""

    globals_: tuple[CropParams, ...]
    locals_: tuple[CropParams, ...]

    def of_images(self, images_n: torch.Tensor) -> "ViewParams":
        """Those of some images, int64 (n,) in rising order, on the CPU."""
        return ViewParams(_all_of(self.globals_, images_n), _all_of(self.locals_, images_n))

    def only_globals(self) -> "ViewParams":
        """Without the local crops."""
        return replace(self, locals_=())


def params_of(params: CropParams, part: slice, *, num: int) -> CropParams:
    """Those of consecutive samples of the `num` that `params` has, on the CPU."""
    if part.stop - part.start == num:
        return params
    return _chosen(params, lambda values_N: values_N[part], partial(_within, part))


def _all_of(crops: Iterable[CropParams], images_n: torch.Tensor) -> tuple[CropParams, ...]:
    return tuple(_of_images(params, images_n) for params in crops)


def _of_images(params: CropParams, images_n: torch.Tensor) -> CropParams:
    # Where each image of the batch lies within the part; -1: elsewhere.
    place_N = torch.full((len(params.flips_N),), -1)
    place_N[images_n] = torch.arange(len(images_n))
    return _chosen(params, lambda values_N: values_N[images_n], partial(_placed, place_N))


def _placed(place_N: torch.Tensor, subset: Subset) -> Subset:
    places_K = place_N[subset.index_K]
    here_K = places_K >= 0
    return Subset(places_K[here_K], subset.values_K[here_K])


def _within(part: slice, subset: Subset) -> Subset:
    # There are many parts of few samples, and a view takes a fifth of the time of an indexing.
    samples = subset.index_K.tolist()
    here = slice(bisect_left(samples, part.start), bisect_left(samples, part.stop))
    index_k = subset.index_K[here]
    return Subset(index_k.sub(part.start) if part.start else index_k, subset.values_K[here])


def _chosen(
    params: CropParams,
    take: Callable[[torch.Tensor], torch.Tensor],
    keep: Callable[[Subset], Subset],
) -> CropParams:
    """`take` takes some samples out of all; `keep` keeps them of a subset, as counted in those."""

    def index(index_K: torch.Tensor) -> torch.Tensor:
        return keep(Subset(index_K, index_K)).index_K

    return CropParams(
        boxes_N4=take(params.boxes_N4),
        flips_N=take(params.flips_N),
        downsample={px: index(index_K) for px, index_K in params.downsample.items()},
        jitter=tuple(
            JitterStep(step.blend and step.blend.map(take).without_idle(), keep(step.hue))
            for step in params.jitter
        ),
        grey_K=index(params.grey_K),
        blur=keep(params.blur),
        solarise_K=index(params.solarise_K),
    )
