"""A real HTTP server on 127.0.0.1 that speaks the chat-completions protocol, well or badly, and counts."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = {"short": "A red car turns left.", "detailed": "A red car turns left on a grey road between green meadows."}


def error(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "error", "code": None}}).encode()


def pictures(messages: list[dict]) -> int:
    return json.dumps(messages).count("data:image")


class ChatServer:
    """`behave(server, request, question, time)` serves the n-th `time` (from 0) that question number n is asked.

    Questions are numbered in the order in which they come. One that was asked with pictures and comes without them is
    a check of the client's and is none of them; a model without eyes (`sees=False`) counts the same tokens for it.
    """

    def __init__(self, behave: Callable[[Any, dict, int, int], None], *, sees: bool = True) -> None:
        self.checks, self.texts = 0, set()
        self.questions: dict[str, int] = {}
        self.asked: dict[int, list[float]] = defaultdict(list)  # when each question came
        self.answered: dict[int, int] = defaultdict(int)  # how often each was answered well
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.lock, self.open = threading.Lock(), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.pictures = pictures(body["messages"]) if sees else 0
                words = str([part for part in body["messages"][0]["content"] if part["type"] == "text"])
                if not pictures(body["messages"]) and words in outer.texts:
                    outer.checks += 1
                    self.question = -1
                    self.good()
                    return
                if pictures(body["messages"]):
                    outer.texts.add(words)
                asked = hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()
                with outer.lock:
                    question = outer.questions.setdefault(asked, len(outer.questions))
                    outer.asked[question].append(time.monotonic())
                    outer.requests.append(body)
                    outer.keys.add(self.headers["Authorization"])
                    times = len(outer.asked[question]) - 1
                self.question = question
                behave(self, body, question, times)

            def good(self) -> None:
                self.say(json.dumps(WORDS))

            def say(self, content: str, finish: str = "stop") -> None:
                """A chat completion of 200 tokens for the words asked and 100 for each picture that is seen."""
                message, asked = {"role": "assistant", "content": content}, 200 + 100 * self.pictures
                usage = {"prompt_tokens": asked, "completion_tokens": 50, "total_tokens": asked + 50}
                choices = [{"index": 0, "message": message, "finish_reason": finish}]
                self.reply(json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m",
                                       "choices": choices, "usage": usage}).encode())  # fmt: skip

            def reply(self, body: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> None:
                self.send_response(status)
                for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)
                if status == 200 and self.question >= 0:
                    with outer.lock:
                        outer.answered[self.question] += 1

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 128

            def handle_error(self, *_: Any) -> None:  # a client that was killed
                pass

        self.http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.open.set()
        self.http.shutdown()
        self.http.server_close()
