"""The licence texts that travel with the weights."""

from __future__ import annotations

from pathlib import Path

from recipes.embedded_image_model.sources import SOURCES

APACHE = Path(__file__).parents[2] / "LICENSE"
"""This project's own licence is the same."""

MIT = """MIT License

Copyright (c) Microsoft Corporation.

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""

NOTICE = """{artist}
{home}
Licence: {licence} ({url})
Taken from the npm package {package}, version {version}.
Changes: rasterised, recoloured, turned, mirrored, scaled and composed into training pictures.
"""

URLS = {
    "MIT": "https://opensource.org/license/mit",
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/legalcode",
}


def write(folder: Path) -> None:
    """One notice a source; MIT and Apache-2.0 ask for their texts as well."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Apache-2.0.txt").write_bytes(APACHE.read_bytes())
    for source in SOURCES:
        notice = NOTICE.format(
            artist=source.artist, home=source.home, licence=source.licence,
            url=URLS[source.licence], package=source.package, version=source.version,
        )  # fmt: skip
        if source.licence == "MIT":
            notice += f"\n{MIT}"
        (folder / f"{source.key}.txt").write_text(notice, encoding="utf-8")
