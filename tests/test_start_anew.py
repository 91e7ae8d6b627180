"""A process that starts itself anew: the same id and command line, nothing kept open."""

import subprocess
import sys
import textwrap

from online_synclr.paths import PROJECT_DIR
from online_synclr.process_control import STARTS_IN_PLACE
from tests.torchrun import environment

PROGRAM = textwrap.dedent(
    f"""
    import os, sys
    from online_synclr.process_control import start_anew

    print(os.getpid(), sys.argv[1], os.environ.get("{STARTS_IN_PLACE}", "0"))
    if "{STARTS_IN_PLACE}" not in os.environ:
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        os.environ["WRITING"] = str(writing)
        start_anew()
    try:
        os.fstat(int(os.environ["WRITING"]))
    except OSError:
        print("closed")
    """
)


def test_a_start_in_place_is_the_same_process_with_nothing_of_the_old() -> None:
    command = [sys.executable, "-c", PROGRAM, "steps=3"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=PROJECT_DIR,
        env=environment(),
        check=False,
    )
    first, second, closed = done.stdout.splitlines()
    number = first.split()[0]
    assert first == f"{number} steps=3 0"
    assert second == f"{number} steps=3 1"
    assert closed == "closed"
