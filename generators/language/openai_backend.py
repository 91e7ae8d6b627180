"""Captions from a server that speaks OpenAI's completions protocol.

A thread pool keeps up to `concurrency` requests under way. Each waits for the server, at most
`timeout_s`, and is tried again with back-off; `close` ends the waiting.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx

from generators.errors import GeneratorError
from generators.fingerprint import fingerprint
from generators.language.base import STOP, Completion, Sampling, first_line

T = TypeVar("T")

_MAX_ANSWER_BYTES = 2**20
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_TRY_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}


class OpenAIModel:
    """Client of one server, asked for one completion a prompt, with that prompt's seed.

    Args:
        url: Base address up to and including the version, e.g. http://127.0.0.1:8000/v1.
        model: Name the server knows the model by; empty: the first that it lists.
        concurrency: Requests under way at once.
        timeout_s: Of one try.
        retries: Tries after the first.
    """

    def __init__(
        self,
        url: str,
        *,
        sampling: Sampling,
        model: str = "",
        api_key: str = "",
        concurrency: int = 16,
        timeout_s: float = 60.0,
        retries: int = 5,
        first_pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        self._url = url.rstrip("/")
        self._sampling = sampling
        self._retries = retries
        self._first_pause_s = first_pause_s
        self._closed = threading.Event()
        self._client = httpx.Client(
            timeout=timeout_s,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            limits=httpx.Limits(max_connections=concurrency),
            trust_env=False,
        )
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="captions")
        self._model = model or self._first_model()
        parts = {"model": self._model, "sampling": vars(sampling)}
        self.fingerprint = f"openai:{fingerprint(parts)}"

    def complete(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Completion]:
        """See `LanguageModel.complete`."""
        return list(self._pool.map(self._complete_one, prompts, seeds))

    def close(self) -> None:
        """End retries and give the connections back; requests under way end by their time-out."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _complete_one(self, prompt: str, seed: int) -> Completion:
        question = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": self._sampling.max_tokens,
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "stop": [STOP],
            "seed": seed,
        }
        return self._ask(_completion_of, "POST", "/completions", question)

    def _first_model(self) -> str:
        return self._ask(_model_of, "GET", "/models", None)

    def _ask(
        self, read: Callable[[Any], T], method: str, path: str, question: dict[str, Any] | None
    ) -> T:
        """What `read` finds in the answer, after as many tries as allowed.

        Raises:
            GeneratorError: refused, or no good answer after the last try.
        """
        problem = ""
        for attempt in range(self._retries + 1):
            if attempt:
                self._pause(attempt)
            try:
                return read(_fetch(self._client, method, self._url + path, question))
            except _RefusedError as refused:
                raise GeneratorError(
                    f"captions.url={self._url}: the server refused the request ({refused}); "
                    "correct captions.model, captions.url or the key"
                ) from None
            except (httpx.HTTPError, _BadAnswerError) as error:
                problem = str(error) or type(error).__name__
        raise GeneratorError(
            f"captions.url={self._url}: no usable answer after {self._retries + 1} tries "
            f"({problem}); start the server or correct captions.url"
        )

    def _pause(self, attempt: int) -> None:
        pause_s = min(self._first_pause_s * 2 ** (attempt - 1), _LONGEST_PAUSE_S)
        if self._closed.wait(pause_s):
            raise GeneratorError("captions were stopped while waiting for the server; start again")


class _RefusedError(Exception):
    """The server will not answer this request, however often it is tried."""


class _BadAnswerError(Exception):
    """An answer that is not what the protocol says, or a server that is busy."""


def _fetch(client: httpx.Client, method: str, url: str, question: dict[str, Any] | None) -> Any:
    with client.stream(method, url, json=question) as response:
        body = _bounded_body(response)
    if response.status_code in _TRY_AGAIN:
        raise _BadAnswerError(f"status {response.status_code}")
    if not response.is_success:
        raise _RefusedError(
            f"status {response.status_code}: {body[:200].decode(errors='replace')!r}"
        )
    try:
        return httpx.Response(200, content=body).json()
    except ValueError:
        raise _BadAnswerError("the answer is no JSON") from None


def _bounded_body(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES:
            raise _BadAnswerError(f"the answer is longer than {_MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _completion_of(answer: Any) -> Completion:
    try:
        choice = answer["choices"][0]
        text, finish_reason = choice["text"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        text, finish_reason = None, None
    if not isinstance(text, str):
        raise _BadAnswerError("the answer has no choices[0].text")
    return Completion(first_line(text), finished=finish_reason != "length")


def _model_of(answer: Any) -> str:
    try:
        return str(answer["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise _BadAnswerError("the server lists no model") from None
