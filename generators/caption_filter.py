"""Decides which of the language model's texts become captions. Pure: no model, no clock.

A text is cleaned, then refused for the first reason that holds:

    empty            nothing with a letter is left
    garbled          it holds a broken character, or symbols make up too much of it
    prompt_echo      it continues or repeats the prompt (instruction, example, query)
    too_short        fewer than `min_words` words
    too_long         more than `max_words` words or `max_chars` characters
    repetitive       it goes round in circles: few of its words are different
    concept_missing  it does not name what was asked for (tolerantly, see `names_concept`)
    repeated         the same caption is among the last `history_size` different ones

The history holds 128-bit identities in the order they were last seen, about 140 bytes each
(measured with tracemalloc): 36 MB at the default of 2**18. It is this engine's own: it starts empty
with every start, and another generator may write the same caption; both are then one class.
"""

import re
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, get_args

from generators.concept_names import names_concept
from generators.concepts import Draw
from generators.prompts import ARROW, PromptBook, query_inputs
from online_synclr.caption_identity import caption_id, normalise_caption

Reason = Literal[
    "empty",
    "garbled",
    "prompt_echo",
    "too_short",
    "too_long",
    "repetitive",
    "concept_missing",
    "repeated",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
# A runaway text is cut before any work is done on it.
_MAX_RAW_CHARS = 4096
# What a tokeniser puts where a model's bytes are no text.
_BROKEN_CHAR = "\ufffd"
_LEAST_LETTERS = 0.7
_LEAST_DISTINCT = 0.4
_CIRCLE_WORDS = 8
_INSTRUCTION_WORDS = 5
_BULLET = re.compile(r"^(?:[-*\u2022\u2013\u2014>#]+\s*|\(?\d{1,2}[.)]\s+)+")
_QUOTES = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"
_CLOSING = {
    '"': '"',
    "'": "'",
    "`": "`",
    "\u201c": "\u201d",
    "\u2018": "\u2019",
    "\u00ab": "\u00bb",
}
_SENTENCE_END = re.compile(r"[.!?][\"'\u201d\u2019)]*(?=\s|$)")
_TITLE = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Mt|No|vs|approx)\.$")


@dataclass(frozen=True)
class Accepted:
    """A text that became a caption, cleaned."""

    caption: str


@dataclass(frozen=True)
class Rejected:
    """A text that did not, and why."""

    reason: Reason


class CaptionFilter:
    """Cleans and judges texts; remembers what it accepted, in bounded memory.

    `counts` holds how many texts were accepted ("accepted") and refused, by reason.
    """

    def __init__(
        self,
        *,
        max_words: int = 40,
        min_words: int = 3,
        max_chars: int = 400,
        require_concept: bool = True,
        history_size: int = 2**18,
        book: PromptBook | None = None,
    ) -> None:
        """Set the limits; with `book`, its instructions and examples count as echoes.

        Raises:
            ValueError: a limit is not positive, or min_words exceeds max_words.
        """
        if not 1 <= min_words <= max_words or max_chars < 1 or history_size < 0:
            raise ValueError(
                "the caption filter needs 1 <= min_words <= max_words, max_chars >= 1 and "
                f"history_size >= 0, not {min_words}, {max_words}, {max_chars}, {history_size}"
            )
        self.counts: dict[str, int] = dict.fromkeys(["accepted", *REASONS], 0)
        self._min_words = min_words
        self._max_words = max_words
        self._max_chars = max_chars
        self._require_concept = require_concept
        self._history = _RecentIds(history_size)
        self._prompt_ids = _prompt_ids(book)
        self._instructions = _instruction_heads(book)

    def check(self, text: str, draw: Draw, *, finished: bool = True) -> Accepted | Rejected:
        """Clean `text`, judge it as an answer to `draw`, count the verdict.

        `finished` is False where the model was cut off by its token limit: then a trailing
        unfinished sentence is removed, unless a line break shows that the answer was complete.
        """
        caption = clean(text, finished=finished)
        reason = self._reason_against(caption, draw)
        if reason is None and not self._history.add(caption_id(caption)):
            reason = "repeated"
        self.counts[reason or "accepted"] += 1
        return Accepted(caption) if reason is None else Rejected(reason)

    def _reason_against(self, caption: str, draw: Draw) -> Reason | None:
        if not any(char.isalpha() for char in caption):
            return "empty"
        if _is_garbled(caption):
            return "garbled"
        if ARROW in caption:
            return "prompt_echo"
        num_words = len(caption.split())
        if num_words < self._min_words:
            return "too_short"
        if self._is_echo(caption, draw):
            return "prompt_echo"
        if num_words > self._max_words or len(caption) > self._max_chars:
            return "too_long"
        if _is_repetitive(caption):
            return "repetitive"
        if self._require_concept and not names_concept(caption, draw.concept):
            return "concept_missing"
        return None

    def _is_echo(self, caption: str, draw: Draw) -> bool:
        same = caption_id(caption)
        if same in self._prompt_ids or same == caption_id(query_inputs(draw)):
            return True
        return f"{normalise_caption(caption)} ".startswith(self._instructions)


def clean(text: str, *, finished: bool = True) -> str:
    """Return the first line of `text` as a plain sentence; may be empty.

    Drops an echoed query up to its arrow, bullets, enclosing quotes, unprintable characters and
    repeated spaces.
    """
    line, was_line_broken = _first_line(text)
    line = line.split(ARROW, 1)[1] if _starts_with_echo(line) else line
    line = _strip_marks(line)
    return line if finished or was_line_broken else _without_unfinished_sentence(line)


def _first_line(text: str) -> tuple[str, bool]:
    lines = text[:_MAX_RAW_CHARS].lstrip().splitlines()
    if not lines:
        return "", False
    return " ".join(_printable(lines[0]).split()), len(lines) > 1 or text.endswith("\n")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _starts_with_echo(line: str) -> bool:
    # An echoed query is short; an arrow later on means that the model went on to another query.
    head, arrow, _ = line.partition(ARROW)
    return bool(arrow) and len(head.split()) <= 8 and not _SENTENCE_END.search(head)


def _strip_marks(line: str) -> str:
    previous = None
    while line != previous:
        previous = line
        line = _BULLET.sub("", line).strip()
        line = _unquoted(line)
    return line


def _unquoted(line: str) -> str:
    if len(line) > 1 and _CLOSING.get(line[0]) == line[-1] and line[0] not in line[1:-1]:
        return line[1:-1]
    # An unpaired quotation mark at the start is the model opening a quote it never closed.
    if line and line[0] in _QUOTES and not any(quote in line[1:] for quote in _QUOTES):
        return line[1:]
    return line


def _without_unfinished_sentence(line: str) -> str:
    ends = [m.end() for m in _SENTENCE_END.finditer(line) if not _TITLE.search(line[: m.end()])]
    # Without any finished sentence the cut text is no caption at all.
    return line[: ends[-1]] if ends else ""


def _prompt_ids(book: PromptBook | None) -> frozenset[bytes]:
    if book is None:
        return frozenset()
    templates = book.templates.values()
    texts = [template.instruction for template in templates]
    texts += [example.caption for template in templates for example in template.examples]
    return frozenset(caption_id(text) for text in texts)


def _instruction_heads(book: PromptBook | None) -> tuple[str, ...]:
    """How captions begin that repeat an instruction, perhaps with the thing filled in."""
    templates = [] if book is None else book.templates.values()
    words = [normalise_caption(template.instruction).split() for template in templates]
    return tuple(f"{' '.join(head[:_INSTRUCTION_WORDS])} " for head in words)


def _is_garbled(caption: str) -> bool:
    marks = [char for char in caption if not char.isspace()]
    # Vowel signs and accents written on their own belong to words.
    letters = sum(char.isalnum() or unicodedata.category(char).startswith("M") for char in marks)
    return _BROKEN_CHAR in caption or letters < _LEAST_LETTERS * len(marks)


def _is_repetitive(caption: str) -> bool:
    """Small models fall into circles; of a plain sentence's words some 80 % are different."""
    words = normalise_caption(caption).split()
    return len(words) >= _CIRCLE_WORDS and len(set(words)) < _LEAST_DISTINCT * len(words)


class _RecentIds:
    """The last `size` distinct ids, most recently seen last; see the module for its bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ids: OrderedDict[bytes, None] = OrderedDict()

    def add(self, new_id: bytes) -> bool:
        """Remember an id; return whether it was new."""
        is_new = new_id not in self._ids
        self._ids[new_id] = None
        self._ids.move_to_end(new_id)
        if len(self._ids) > self._size:
            self._ids.popitem(last=False)
        return is_new
