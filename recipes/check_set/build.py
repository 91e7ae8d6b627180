"""Writes the bundled check set: OpenMoji colour icons as small labelled PNG images.

    npm pack openmoji@17.0.0 && tar xzf openmoji-17.0.0.tgz
    npm pack @iconify-json/openmoji@1.2.29 && tar xzf iconify-json-openmoji-1.2.29.tgz
    python recipes/check_set/build.py --openmoji <folder of openmoji> \
        --iconify <folder of @iconify-json/openmoji> --out trainer/check_set

`openmoji` says what each icon shows, `@iconify-json/openmoji` holds its drawing; `labels.tsv` here
says which icons make up which label. Needs resvg-py and Pillow. The same inputs give the same
files.
"""

import argparse
import colorsys
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

HERE = Path(__file__).parent
SIZE_PX = 64
# The icons' own canvas is 72 units wide; a small margin is already in the drawings.
_CANVAS = 72
_NUM_COLOURS = 64


@dataclass(frozen=True)
class Icon:
    """One icon of the check set."""

    label: str
    name: str
    body: str
    canvas: int = _CANVAS
    """Side of the drawing's own square, in its units."""


def main() -> None:
    """Write `<out>/<label>/<name>.png`, replacing what was there, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--openmoji", type=Path, required=True)
    parser.add_argument("--iconify", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    icons = select(
        entries=json.loads((args.openmoji / "data" / "openmoji.json").read_text("utf-8")),
        drawings=load_drawings(args.iconify),
    )
    for label in {icon.label for icon in icons}:
        shutil.rmtree(args.out / label, ignore_errors=True)
        (args.out / label).mkdir(parents=True)
    for icon in icons:
        (args.out / icon.label / f"{icon.name}.png").write_bytes(render(icon))
    print(len(icons), dict(Counter(icon.label for icon in icons)))


def load_drawings(iconify: Path) -> dict[str, str]:
    """Return {hexcode in lower case: SVG body}, aliases resolved."""
    icons = json.loads((iconify / "icons.json").read_text("utf-8"))
    hexcodes = json.loads((iconify / "chars.json").read_text("utf-8"))
    bodies = {name: icon["body"] for name, icon in icons["icons"].items()}
    parents = {name: alias["parent"] for name, alias in icons["aliases"].items()}
    found = {}
    for hexcode, name in hexcodes.items():
        body = bodies.get(name) or bodies.get(parents.get(name, ""))
        if body:
            found[hexcode.lower()] = body
    return found


def select(entries: list[dict[str, Any]], drawings: dict[str, str]) -> list[Icon]:
    """Return the icons that `labels.tsv` names, in its order, each drawing once.

    Raises:
        ValueError: labels.tsv names an icon that OpenMoji does not have.
    """
    by_subgroup: dict[str, dict[str, str]] = {}
    for entry in entries:
        if not entry["skintone"]:
            names = by_subgroup.setdefault(f"{entry['group']}/{entry['subgroups']}", {})
            names.setdefault(entry["annotation"], entry["hexcode"])
    icons: dict[str, Icon] = {}
    for label, subgroup, listed in label_rows():
        names = by_subgroup.get(subgroup, {})
        unknown = [name for name in listed if name not in names]
        if unknown:
            raise ValueError(f"labels.tsv: {subgroup} has no icon '{unknown[0]}'; correct it")
        for name in listed:
            body = drawings.get(_plain(names[name]))
            if body:
                icons.setdefault(body, Icon(label, file_name(name), body))
    return list(icons.values())


def render(icon: Icon) -> bytes:
    """Return the icon over its pale background as a small PNG."""
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {icon.canvas} {icon.canvas}">'
        f'<rect width="{icon.canvas}" height="{icon.canvas}" fill="{pale_colour(icon)}"/>'
        f"{icon.body}</svg>"
    )
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=SIZE_PX, height=SIZE_PX, skip_system_fonts=True
    )
    image = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    # Flat drawings lose nothing visible with a palette, and take a third of the bytes.
    palette = image.quantize(colors=_NUM_COLOURS, dither=Image.Dither.NONE)
    out = io.BytesIO()
    palette.save(out, format="PNG", optimize=True)
    return out.getvalue()


def pale_colour(icon: Icon) -> str:
    """A pale colour drawn from the icon's name alone, so that it says nothing of the label."""
    digest = hashlib.blake2b(icon.name.encode(), digest_size=3).digest()
    hue, saturation, light = digest[0] / 256, digest[1] / 256, digest[2] / 256
    rgb = colorsys.hls_to_rgb(hue, 0.82 + 0.14 * light, 0.15 + 0.45 * saturation)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in rgb)


def label_rows() -> list[tuple[str, str, list[str]]]:
    """Rows of `labels.tsv`: label, OpenMoji's group and subgroup, names of the icons."""
    lines = (HERE / "labels.tsv").read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(label, subgroup, names.split("|")) for label, subgroup, names in rows]


def _plain(hexcode: str) -> str:
    # Iconify leaves out the variation selector.
    return hexcode.lower().removesuffix("-fe0f").replace("-fe0f-", "-")


def file_name(annotation: str) -> str:
    """An annotation as a file's name, as Iconify's names are written too."""
    return re.sub(r"[^a-z0-9]+", "-", annotation.lower()).strip("-")


if __name__ == "__main__":
    main()
