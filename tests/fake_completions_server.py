"""An OpenAI-compatible server on the loopback interface that answers as a test tells it to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, bytes]


def completion(text: str, finish_reason: str = "stop") -> Answer:
    """A well-formed answer."""
    body = {"choices": [{"text": text, "finish_reason": finish_reason}]}
    return 200, json.dumps(body).encode()


@dataclass
class FakeServer:
    """What the server was asked, and where it listens."""

    url: str
    questions: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)


@contextmanager
def serve(answer: Callable[[int, dict[str, Any]], Answer]) -> Iterator[FakeServer]:
    """Serve until the block ends; `answer` gets the number of the request and its body."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply((200, json.dumps({"data": [{"id": "served"}]}).encode()))

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            question = json.loads(self.rfile.read(length))
            with lock:
                number = len(server.questions)
                server.questions.append(question)
                server.authorizations.append(self.headers["Authorization"])
            self._reply(answer(number, question))

        def _reply(self, reply: Answer) -> None:
            status, body = reply
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = FakeServer(url=f"http://127.0.0.1:{http.server_address[1]}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
