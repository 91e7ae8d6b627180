"""Take the README's pictures of a run.

    python -m recipes.screenshots.take runs/demo

writes docs/images/tensorboard.png (the page of both sides' curves) and docs/images/console.png (the
console at the run's newest sample picture). Needs Chromium, its chromedriver and a monospaced
font: `apt-get install chromium chromium-driver fonts-dejavu-core`.
"""

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from online_synclr.monitor.console_state import ConsoleState
from online_synclr.monitor.console_view import draw
from recipes.screenshots.browser import Browser, free_port, get_json, open_browser, wait_until

PAGE_PX = (1500, 1620)
CONSOLE_COLUMNS = 110
WAIT_S = 300.0
_PAGE = """<!DOCTYPE html><meta charset="utf-8"><style>{stylesheet}
body {{ margin: 0; background: {background}; }}
pre {{ display: inline-block; margin: 0; padding: 12px 16px; color: {foreground};
  background: {background}; font: 14px/18px "DejaVu Sans Mono", monospace; }}
</style><pre>{code}</pre>"""
# Polymer keeps each chart in a shadow root; a drawn one holds a line's path. Every chart of an open
# category must have one, so the pause only covers the last animation.
_NUM_DRAWN = """
const find = (root) => [...root.querySelectorAll('*')].reduce(
  (sum, node) => sum + (node.shadowRoot ? find(node.shadowRoot) : 0)
    + (node.matches('path.line') ? 1 : 0), 0);
return find(document);
"""


def main() -> None:
    """Take both pictures of the run folder named on the command line."""
    parser = argparse.ArgumentParser(description="Take the README's pictures of a run.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    take_console(options.run_dir, options.out / "console.png")
    take_tensorboard(options.run_dir, options.out / "tensorboard.png")


def take_console(run_dir: Path, path: Path) -> None:
    """Draw the saved state of the console as HTML and photograph that."""
    state = ConsoleState.load(run_dir / "console.json")
    with tempfile.TemporaryDirectory() as folder, open_browser(1400, 1000, scale=2) as browser:
        page = Path(folder) / "console.html"
        page.write_text(console_html(state), encoding="utf-8")
        browser.open(page.as_uri())
        browser.picture(path, "pre")


def console_html(state: ConsoleState) -> str:
    """The console's picture as a page of its own."""
    # The name of the run folder is enough: whole paths name the machine.
    shown = replace(state, run_dir=f"runs/{Path(state.run_dir).name}")
    console = Console(record=True, width=CONSOLE_COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(draw(shown))
    return console.export_html(theme=MONOKAI, code_format=_PAGE)


def take_tensorboard(run_dir: Path, path: Path) -> None:
    """Photograph the custom scalars page of the run."""
    with serve(run_dir) as url, open_browser(*PAGE_PX) as browser:
        browser.open(url)
        # Kept by TensorBoard in the browser: the first loss and the last accuracy are no outliers.
        browser.run("localStorage.setItem('_ignoreYOutliers', 'false')")
        browser.open("about:blank")
        browser.open(f"{url}#custom_scalars&_smoothingWeight=0.3")
        wait_until_still(browser)
        browser.picture(path)


def wait_until_still(browser: Browser) -> None:
    """Wait until the page has drawn lines and draws no more of them."""
    seen = [0]

    def still() -> bool:
        before = seen[0]
        seen[0] = int(browser.run(_NUM_DRAWN))
        return seen[0] > 0 and seen[0] == before

    for _ in range(3):
        wait_until(still, "TensorBoard's charts", WAIT_S)


@contextmanager
def serve(run_dir: Path) -> Iterator[str]:
    """Serve the run's event files on a loopback port; yields the address.

    They are served under a relative path, because the page shows it.
    """
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir=tb", f"--port={port}"]
    server = subprocess.Popen(
        [*command, "--host=127.0.0.1", "--reload_interval=3600"],
        cwd=run_dir,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}/"
        layout = f"{url}data/plugin/custom_scalars/layout"
        wait_until(lambda: bool(get_json(layout)), "TensorBoard", WAIT_S)
        yield url
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
