"""A pipeline's text encoding: each caption once, the negative prompt once for all batches.

Imported by the engine child only: it needs torch.

diffusers encodes the negative prompt anew for every caption of every batch. And some pipelines
(Sana, Lumina 2) repeat embeddings by caption but attention masks by batch, so that with several
captions and several images of each most pictures would get another caption's mask
(`prompt_attention_mask.repeat(num_images_per_prompt, 1)` in diffusers 0.42). Here every output is
made for one picture a caption and repeated by caption.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from generators.images.lanes import Lanes

_GUIDED = "do_classifier_free_guidance"
_COUNT = "num_images_per_prompt"
_PROMPTS = ("prompt", "negative_prompt")
_MASK = "prompt_attention_mask"

Outputs = tuple[Any, ...]


class PromptEncoder:
    """Stands for a pipeline's `encode_prompt`: same arguments, same outputs.

    The negative prompt is encoded alone, so that its embedding does not depend on the first
    batch's size. A pipeline whose outputs are not understood keeps its own way.

    Args:
        encode: the pipeline's bound method.
        lanes: the encoder runs in their preparing lane.
    """

    def __init__(self, encode: Callable[..., Outputs], lanes: Lanes) -> None:
        self._encode = encode
        self._lanes = lanes
        self._signature = inspect.signature(encode)
        self._negatives: dict[str, dict[int, torch.Tensor]] = {}
        """By negative prompt: its embeddings by their place among the outputs, one row each."""
        names = self._signature.parameters
        self._by_caption = _COUNT in names and (_GUIDED in names or _MASK in names)

    def __call__(self, *args: Any, **kwargs: Any) -> Outputs:
        """See the pipeline's `encode_prompt`."""
        outputs: Outputs = ()
        with self._lanes.preparing(lambda: [one for one in outputs if _is_tensor(one)]):
            outputs = self._outputs(*args, **kwargs)
        return outputs

    def _outputs(self, *args: Any, **kwargs: Any) -> Outputs:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        captions = given.get("prompt")
        if not self._by_caption or not isinstance(captions, list):
            return self._encode(*args, **kwargs)
        num_images = given[_COUNT]
        guided = bool(given.get(_GUIDED, False))
        plain = self._call(bound, **{_COUNT: 1}, **({_GUIDED: False} if guided else {}))
        if guided:
            filled = _filled(plain, self._negative_rows(bound), len(captions))
            # What was not understood is encoded as the pipeline does, at the price of its time.
            plain = filled or self._call(bound, **{_COUNT: 1})
        return tuple(_by_caption(one, len(captions), num_images) for one in plain)

    def _negative_rows(self, bound: inspect.BoundArguments) -> dict[int, torch.Tensor]:
        """The embeddings of the negative prompt; empty where they cannot be told."""
        negatives = bound.arguments.get("negative_prompt")
        if isinstance(negatives, list) and len(set(negatives)) > 1:
            return {}
        key = repr(negatives[0] if isinstance(negatives, list) else negatives)
        if key not in self._negatives:
            one = {
                name: value[:1]
                for name, value in bound.arguments.items()
                if name.startswith(_PROMPTS) and isinstance(value, list)
            }
            without = self._call(bound, **one, **{_COUNT: 1, _GUIDED: False})
            with_them = self._call(bound, **one, **{_COUNT: 1})
            self._negatives[key] = {
                place: row
                for place, (row, other) in enumerate(zip(with_them, without, strict=True))
                if other is None and _is_tensor(row)
            }
        return self._negatives[key]

    def _call(self, bound: inspect.BoundArguments, **changes: Any) -> Outputs:
        given = inspect.BoundArguments(self._signature, bound.arguments | changes)
        return self._encode(*given.args, **given.kwargs)


def _filled(
    outputs: Outputs, negatives: dict[int, torch.Tensor], num_captions: int
) -> Outputs | None:
    """`outputs` with the negatives for each caption; None: they do not fit."""
    places = {place for place, one in enumerate(outputs) if one is None}
    lengths = {one.shape[1] for one in outputs if _is_tensor(one) and one.ndim == 3}
    lengths |= {one.shape[1] for one in negatives.values() if one.ndim == 3}
    if not negatives or places != set(negatives) or len(lengths) != 1:
        return None
    rows = {
        place: row.expand(num_captions, *row.shape[1:])
        for place, row in negatives.items()
        if row.shape[0] == 1
    }
    if len(rows) < len(negatives):
        return None
    return tuple(rows.get(place, one) for place, one in enumerate(outputs))


def _by_caption(one: Any, num_captions: int, num_images: int) -> Any:
    if num_images == 1 or not _is_tensor(one) or one.shape[0] != num_captions:
        return one
    return one.repeat_interleave(num_images, dim=0)


def _is_tensor(one: object) -> bool:
    return isinstance(one, torch.Tensor)


def install_prompt_encoder(pipeline: Any, lanes: Lanes) -> None:
    """Give the pipeline a `PromptEncoder`, where it has something to encode prompts with."""
    encode = getattr(pipeline, "encode_prompt", None)
    if callable(encode):
        pipeline.encode_prompt = PromptEncoder(encode, lanes)
