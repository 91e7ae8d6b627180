"""`python -m recipes.screenshots.groups RUN`: the newest sample picture, in two columns."""

import argparse
from pathlib import Path

from PIL import Image

PAPER = (255, 255, 255)


def two_columns(picture: Image.Image, rows: int) -> Image.Image:
    """Put the lower half of the rows beside the upper half."""
    row_px = picture.height // rows
    split_px = row_px * ((rows + 1) // 2)
    sheet = Image.new("RGB", (2 * picture.width, split_px), PAPER)
    sheet.paste(picture.crop((0, 0, picture.width, split_px)), (0, 0))
    sheet.paste(picture.crop((0, split_px, picture.width, picture.height)), (picture.width, 0))
    return sheet


def main() -> None:
    """Write docs/images/groups.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("docs/images/groups.png"))
    arguments = parser.parse_args()
    newest = max((arguments.run / "samples").glob("*.png"))
    with Image.open(newest) as picture:
        sheet = two_columns(picture.convert("RGB"), arguments.rows)
    sheet.quantize(256).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
