"""Pictures of whole groups, for people.

One row is one group: its caption in the margin above its images, in letters that stay readable in
TensorBoard's small cards. Pictures are small on purpose: they are for a glance, and TensorBoard's
checksum costs half a second for each megabyte.
"""

import html
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from online_synclr.stream.group import Group

MIN_WIDTH_PX = 520
MIN_CELL_PX, MAX_CELL_PX = 128, 176
GAP_PX = 6
FONT_PX = 22
CAPTION_LINES = 2
JPEG_QUALITY = 88
_LINE_PX = FONT_PX + 5
_CAPTION_PX = CAPTION_LINES * _LINE_PX
_PAPER, _INK = (255, 255, 255), (20, 20, 20)

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def groups_picture(groups: Sequence[Group]) -> Image.Image:
    """Draw one row a group; rows may differ in their number of images.

    Raises:
        ValueError: there is no group.
    """
    if not groups:
        raise ValueError("a picture of groups needs at least one group")
    side_px = max(group.images_mchw.shape[-1] for group in groups)
    cell_px = min(max(side_px, MIN_CELL_PX), MAX_CELL_PX)
    columns = max(len(group.images_mchw) for group in groups)
    width_px = max(MIN_WIDTH_PX, columns * (cell_px + GAP_PX) + GAP_PX)
    row_px = _CAPTION_PX + cell_px + 2 * GAP_PX
    canvas = Image.new("RGB", (width_px, len(groups) * row_px + GAP_PX), _PAPER)
    for row, group in enumerate(groups):
        _draw_row(canvas, group, GAP_PX + row * row_px, cell_px)
    return canvas


def captions_markdown(groups: Sequence[Group]) -> str:
    """The rows of a picture as a Markdown list: captions, concepts and where they come from."""
    rows = []
    for group in groups:
        recipe = group.recipe
        key = f"{recipe.run_seed}/{recipe.incarnation}/{recipe.stream}/{recipe.counter}"
        rows.append(
            f"1. {_escape(recipe.caption)} — **{_escape(recipe.concept)}** "
            f"({_escape(recipe.source)}), seeds `{key}`"
        )
    rows.append("\n*Seeds: run / incarnation / stream / counter of the group's recipe.*")
    return "\n".join(rows)


def encode_jpeg(picture: Image.Image) -> bytes:
    """The picture as TensorBoard gets it."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


class SampleFolder:
    """Keeps the newest few pictures of a run as PNG files; a file is complete or not there."""

    def __init__(self, folder: Path, keep: int = 5) -> None:
        self._folder = folder
        self._keep = keep

    def save(self, step: int, picture: Image.Image) -> Path:
        """Write `groups_<step>.png` and drop the oldest ones beyond the number kept.

        Raises:
            OSError: the file cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"groups_{step:09d}.png"
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            picture.save(temporary, "PNG")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        for old in sorted(self._folder.glob("groups_*.png"))[: -self._keep]:
            old.unlink(missing_ok=True)
        return path


def _cell(image_chw: np.ndarray, cell_px: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(image_chw.transpose(1, 2, 0)))
    if image.size == (cell_px, cell_px):
        return image
    return image.resize((cell_px, cell_px), Image.Resampling.LANCZOS)


def _draw_row(canvas: Image.Image, group: Group, top_px: int, cell_px: int) -> None:
    _draw_caption(canvas, group.recipe.caption, top_px)
    for column, image_chw in enumerate(group.images_mchw):
        left_px = GAP_PX + column * (cell_px + GAP_PX)
        canvas.paste(_cell(image_chw, cell_px), (left_px, top_px + _CAPTION_PX))


def _draw_caption(canvas: Image.Image, caption: str, top_px: int) -> None:
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=FONT_PX)
    lines = _wrap(_printable(caption), font, canvas.width - 4 * GAP_PX)
    if len(lines) > CAPTION_LINES:
        lines = [*lines[: CAPTION_LINES - 1], lines[CAPTION_LINES - 1] + " ..."]
    # A caption of one line stands next to its images, not next to those of the row above.
    top_px += _CAPTION_PX - len(lines) * _LINE_PX
    for line in lines:
        draw.text((GAP_PX, top_px), line, fill=_INK, font=font)
        top_px += _LINE_PX


def _wrap(text: str, font: _Font, width_px: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width_px:
            lines[-1] = joined
        else:
            lines.append(_cut(word, font, width_px))
    return lines


def _cut(word: str, font: _Font, width_px: int) -> str:
    while len(word) > 1 and font.getlength(word) > width_px:
        word = word[:-1]
    return word


def _printable(text: str) -> str:
    # Pillow's bitmap fallback font, used where FreeType is missing, knows Latin-1 alone.
    return " ".join(text.split()).encode("latin-1", "replace").decode("latin-1")


def _escape(text: str) -> str:
    flat = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{char}" if char in "\\`*_[]" else char for char in flat)
