"""Captions from a server that speaks OpenAI's completions protocol.

A thread pool keeps up to `concurrency` requests under way. Each waits for the server, at most
`timeout_s`, and is tried again with back-off; `close` ends the waiting.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

import httpx

from generators.errors import GeneratorError, ServerAbsentError
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
        patience_s: Time that must be over as well before an answer is given up; the pauses between
            tries alone may be shorter than a restart of the server.

    Raises:
        ServerAbsentError: nobody answered.
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
        patience_s: float = 0.0,
        first_pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        self._url = url.rstrip("/")
        self._sampling = sampling
        self._retries = retries
        self._patience_s = patience_s
        self._first_pause_s = first_pause_s
        self._closed = threading.Event()
        self._client = httpx.Client(
            timeout=timeout_s,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            limits=httpx.Limits(max_connections=concurrency),
            trust_env=False,
        )
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="captions")
        # Asked even where the name is known: a server that is not there shows before models load.
        try:
            self._model = self._first_model(model)
        except _NoAnswerError as error:
            raise ServerAbsentError(str(error)) from None
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

    def _first_model(self, configured: str) -> str:
        if not configured:
            return self._ask(_model_of, "GET", "/models", None)
        with suppress(_RefusedError):  # some servers list nothing; that they answer is enough
            self._try(_anything, "GET", "/models", None)
        return configured

    def _ask(
        self, read: Callable[[Any], T], method: str, path: str, question: dict[str, Any] | None
    ) -> T:
        """What `read` finds in the answer, after as many tries as allowed.

        Raises:
            GeneratorError: refused, or no good answer after as many tries and as long as allowed.
        """
        try:
            return self._try(read, method, path, question)
        except _RefusedError as refused:
            raise GeneratorError(
                f"captions.url={self._url}: the server refused the request ({refused}); "
                "correct captions.model, captions.url or the key"
            ) from None

    def _try(
        self, read: Callable[[Any], T], method: str, path: str, question: dict[str, Any] | None
    ) -> T:
        give_up_s = time.monotonic() + self._patience_s
        for attempt in count(1):
            try:
                return read(_fetch(self._client, method, self._url + path, question))
            except (httpx.HTTPError, _BadAnswerError) as error:
                if attempt > self._retries and time.monotonic() >= give_up_s:
                    problem = str(error) or type(error).__name__
                    raise _NoAnswerError(
                        f"captions.url={self._url}: no usable answer after {attempt} tries "
                        f"({problem}); start the server or correct captions.url"
                    ) from None
            self._pause(attempt)
        raise AssertionError("the loop ends by an answer or an error")

    def _pause(self, attempt: int) -> None:
        pause_s = min(self._first_pause_s * 2 ** (attempt - 1), _LONGEST_PAUSE_S)
        if self._closed.wait(pause_s):
            raise GeneratorError("captions were stopped while waiting for the server; start again")


class _NoAnswerError(GeneratorError):
    """Nobody answered as the protocol says, however often and long it was tried."""


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


def _anything(answer: Any) -> Any:
    return answer


def _model_of(answer: Any) -> str:
    try:
        return str(answer["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise _BadAnswerError("the server lists no model") from None
