"""The server of one page: three files and a WebSocket for every player."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse

from videowm.play import messages as m
from videowm.play.access import Access, Guard
from videowm.play.session import Session
from videowm.play.stage import Stage
from videowm.play.worker import Worker
from videowm.types import UserError

PAGE = Path(__file__).with_name("page")
FILES = {"/": "index.html", "/play.js": "play.js", "/play.css": "play.css"}
SESSIONS = 4  # players at the same time
PICTURES = 4  # that may wait for a slow client; the newest win
FAREWELL = 2.0  # seconds that a session has to end
BUSY, POLICY, WENT_WRONG = 1013, 1008, 1011  # WebSocket close codes (RFC 6455, section 7.4)


class Outbox:
    """Answers on their way to a client, of bounded number: of pictures the newest win."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.answers = loop, deque()
        self.changed = asyncio.Event()

    def put_from_thread(self, answer: bytes | m.Message | None) -> None:
        """Add an answer from the session's thread."""
        with suppress(RuntimeError):  # the server has ended
            self.loop.call_soon_threadsafe(self.put, answer)

    def put(self, answer: bytes | m.Message | None) -> None:
        """Add an answer; the oldest pictures give way to new ones."""
        pictures = [old for old in self.answers if isinstance(old, bytes)]
        if isinstance(answer, bytes) and len(pictures) >= PICTURES:
            self.answers.remove(pictures[0])
        self.answers.append(answer)
        self.changed.set()

    async def get(self) -> bytes | m.Message | None:
        """The next answer; None at the session's end."""
        while not self.answers:
            self.changed.clear()
            await self.changed.wait()
        return self.answers.popleft()


class Players:
    """The sessions that are being played."""

    def __init__(self, stage: Stage, limit: int = SESSIONS) -> None:
        self.stage, self.limit, self.playing = stage, limit, 0

    async def welcome(self, web: WebSocket, form: m.Format) -> None:
        """Play with whoever opened a WebSocket, until either side closes it."""
        await web.accept()
        if self.playing >= self.limit:
            text = f"{self.limit} people play already: try again when one has left"
            await web.send_text(m.Said(text=text, refused=True).model_dump_json())
            await web.close(BUSY, "full")
            return
        self.playing += 1
        outbox = Outbox(asyncio.get_running_loop())
        worker = Worker(lambda: Session(self.stage, form=form), outbox.put_from_thread)
        worker.start()
        tasks = [asyncio.create_task(hear(web, worker, outbox)), asyncio.create_task(tell(web, outbox))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            worker.inbox.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(worker.join, FAREWELL)
            self.playing -= 1


async def hear(web: WebSocket, worker: Worker, outbox: Outbox) -> None:
    """Pass the client's messages on; what is no message is answered with a sentence."""
    while True:
        received = await web.receive()
        if received["type"] == "websocket.disconnect":
            return
        try:
            if received.get("text") is None:
                raise UserError("binary messages are not understood: send JSON text")
            worker.inbox.put(m.read(received["text"]))
        except UserError as error:
            outbox.put(m.Said(text=str(error), refused=True))


async def tell(web: WebSocket, outbox: Outbox) -> None:
    """Send answers as fast as the client takes them."""
    with suppress(WebSocketDisconnect, RuntimeError):
        while (answer := await outbox.get()) is not None:
            if isinstance(answer, bytes):
                await web.send_bytes(answer)
            else:
                await web.send_text(answer.model_dump_json())
        await web.close(WENT_WRONG)


def make_app(stage: Stage, access: Access, *, sessions: int = SESSIONS) -> Guard:
    """The application: the page, and a WebSocket at /play."""
    app, players = FastAPI(docs_url=None, redoc_url=None, openapi_url=None), Players(stage, sessions)

    def serving(name: str):
        async def serve() -> FileResponse:
            return FileResponse(PAGE / name)

        return serve

    for path, name in FILES.items():
        app.get(path)(serving(name))

    @app.websocket("/play")
    async def play(web: WebSocket) -> None:
        form = web.query_params.get("format", "raw")
        await players.welcome(web, "jpeg" if form == "jpeg" else "raw")

    return Guard(app, access)


def listen(host: str, port: int) -> socket.socket:
    """A socket that waits for players.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{host} port {port} cannot be listened on ({reason}): give another --port or --host") from None


def address(access: Access, port: int) -> str:
    """What a person opens, token included."""
    host = socket.gethostname() if access.host in ("0.0.0.0", "::") else access.host
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}/" + (f"?token={access.token}" if access.token else "")


def serve(stage: Stage, access: Access, port: int, *, sessions: int = SESSIONS) -> None:
    """Serve until Ctrl-C.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    waiting = listen(access.host, port)
    _ = stage.hello  # found once, before anyone waits for it
    print(f"play at {address(access, waiting.getsockname()[1])}   (Ctrl-C ends it)", flush=True)
    config = uvicorn.Config(
        make_app(stage, access, sessions=sessions), log_level="warning", lifespan="off", ws_max_size=m.MOST_BYTES,
        ws_max_queue=16, ws_per_message_deflate=False, server_header=False, timeout_graceful_shutdown=3,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[waiting])
