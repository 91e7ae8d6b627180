"""The icon packages: fetching them from the npm registry, and reading their SVG bodies."""

from __future__ import annotations

import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Source:
    """One icon package, pinned, with what its licence asks us to say."""

    package: str
    version: str
    artist: str
    licence: str
    home: str

    @property
    def key(self) -> str:
        """Short name: the package without its scope."""
        return self.package.split("/")[-1]


SOURCES: tuple[Source, ...] = (
    Source(
        package="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        artist="Fluent Emoji, (c) Microsoft Corporation",
        licence="MIT",
        home="https://github.com/microsoft/fluentui-emoji",
    ),
    Source(
        package="@iconify-json/noto",
        version="1.2.9",
        artist="Noto Emoji, (c) Google Inc.",
        licence="Apache-2.0",
        home="https://github.com/googlefonts/noto-emoji",
    ),
    Source(
        package="@iconify-json/twemoji",
        version="1.2.5",
        artist="Twemoji, (c) Twitter, Inc. and other contributors, continued by jdecked",
        licence="CC-BY-4.0",
        home="https://github.com/jdecked/twemoji",
    ),
)


def fetch(source: Source, folder: Path) -> Path:
    """Return the package's `icons.json`, fetching the pinned version with npm when missing.

    Waits for the npm client, which needs the network only the first time.
    """
    target = folder / f"{source.key}-{source.version}.json"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    spec = f"{source.package}@{source.version}"
    done = subprocess.run(
        ["npm", "pack", "--silent", spec], cwd=folder, check=True, capture_output=True, text=True
    )
    archive = folder / done.stdout.strip().splitlines()[-1]
    with tarfile.open(archive) as tar:
        member = tar.extractfile("package/icons.json")
        if member is None:
            raise FileNotFoundError(f"{spec} holds no package/icons.json")
        target.write_bytes(member.read())
    archive.unlink()
    return target


class IconPack:
    """The icons of one package, as SVG documents."""

    def __init__(self, icons_json: Path) -> None:
        self._data: dict[str, Any] = json.loads(icons_json.read_text(encoding="utf-8"))

    def svg(self, name: str, *, size_px: int) -> str | None:
        """SVG document of icon `name`, drawn at `size_px`; None when the package lacks it."""
        seen = name
        while seen in self._data.get("aliases", {}):
            seen = self._data["aliases"][seen]["parent"]
        icon = self._data["icons"].get(seen)
        if icon is None:
            return None
        width = icon.get("width", self._data.get("width", 16))
        height = icon.get("height", self._data.get("height", 16))
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box}" width="{size_px}" height="{size_px}">{icon["body"]}</svg>'
        )
