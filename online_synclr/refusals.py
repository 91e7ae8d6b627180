"""Why captions and groups are refused before they are sent, and what to do about each reason.

The generators judge and count (`generators.caption_filter`, `generators.images.quality_gate`); both
sides name the same mend.
"""

from typing import Final

MENDS: Final = {
    # captions
    "empty": "the model says nothing; change captions.model",
    "garbled": "the model writes no language; change captions.model or its dtype",
    "prompt_echo": "the model repeats its prompt; change captions.model or the bank's prompts",
    "too_short": "lower captions.filter.min_words or change captions.model",
    "too_long": "raise captions.filter.max_words, lower captions.max_tokens or change "
    "captions.model",
    "repetitive": "the model goes round in circles; raise captions.temperature or change "
    "captions.model",
    "concept_missing": "change captions.model, or set captions.filter.require_concept=false",
    "repeated": "the model has little more to say; raise captions.temperature, give it a larger "
    "captions.bank, or lower captions.filter.history",
    # groups
    "wrong_shape": "the image model gives other sizes than asked for; change images.model",
    "non_finite": "the image model overflows; set images.dtype=bfloat16 or float32, or change "
    "images.model",
    "low_contrast": "pictures are flat, as a safety checker blanks them; look at images.model and "
    "images.safety_checker, or lower images.min_contrast",
    "identical": "the image model ignores its seeds; change images.model",
}
"""What to change, by reason."""


def mend_of(reason: str) -> str:
    """What to do about a reason; something general for one that is not known here."""
    return MENDS.get(reason, "look at the models and at captions.filter")
