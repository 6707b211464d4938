"""The server as its own process: who may play, what is refused, that one client cannot hurt another, and its end."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import time
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from videowm.play import messages as m
from videowm.play.access import Access
from videowm.types import UserError

STEP = [[0.0, 0.4, 0.0]] * 4


class Client:
    """A page without a browser."""

    def __init__(self, port: int, query: str = "", **more) -> None:
        self.stack, self.heard = ExitStack(), []
        self.web = self.stack.enter_context(connect(f"ws://127.0.0.1:{port}/play{query}", open_timeout=20, **more))

    def send(self, **message) -> None:
        self.web.send(json.dumps(message))

    def close(self) -> None:
        self.stack.close()

    def answer(self, timeout: float = 30):
        """The next answer: the header of a picture, or what another message says."""
        if self.heard:
            return self.heard.pop()
        got = self.web.recv(timeout)
        return m.unpack(got)[0] if isinstance(got, bytes) else json.loads(got)

    def until(self, wanted) -> dict | m.Shown:
        """The next answer that `wanted` takes."""
        while not wanted(answer := self.answer()):
            pass
        return answer

    def begin(self) -> None:
        self.send(type="real", on=False)
        self.send(type="start", episode=4, frame=20)
        self.until(lambda a: isinstance(a, m.Shown))

    def step(self, number: int) -> m.Shown:
        self.send(type="step", number=number, actions=STEP)
        return self.until(lambda a: isinstance(a, m.Shown) and a.number == number)

    def refusal(self) -> str:
        """The sentence with which the last message was refused."""
        return self.until(lambda a: isinstance(a, dict) and a.get("refused"))["text"]


def admitted(port: int, **more) -> Client:
    """A client that is let in; the session of one that has just left may take a while to end."""
    for _ in range(300):
        client = Client(port, **more)
        if (first := client.answer())["type"] == "hello":
            client.heard.append(first)
            return client
        client.close()
        time.sleep(0.1)
    raise AssertionError("nobody leaves")


def started(process) -> str:
    """The address that a server prints when it listens."""
    for _ in range(400):
        if found := re.search(r"play at (\S+)", process.said[0].read()):
            return found[1]
        assert process.poll() is None, process.said[1].read()
        process.said[0].seek(0)
        time.sleep(0.1)
    raise AssertionError("the server has not begun")


@pytest.fixture(scope="module")
def server(fork, world_run, dataset, tmp_path_factory):
    """A server for two players, on this machine only."""
    out = tmp_path_factory.mktemp("saved")
    return fork("play", world_run, "--from", dataset, "--port", "0", "--out", out, "--sessions", "2")


@pytest.fixture(scope="module")
def port(server) -> int:
    return int(started(server).rstrip("/").rpartition(":")[2])


@pytest.fixture
def client(port):
    client = admitted(port)
    yield client
    client.close()


def get(port: int, path: str, method: str = "GET", **headers) -> tuple[int, bytes]:
    """Status and body; the path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_a_page_and_a_player(port, client):
    """Guards a server without its page, and a player who gets no frames."""
    status, page = get(port, "/")
    assert status == 200 and b"play.js" in page and b"http" not in page.replace(b"http-equiv", b"")
    assert get(port, "/play.js")[0] == get(port, "/play.css")[0] == 200
    hello = client.answer()
    assert hello["type"] == "hello" and hello["world"] == "carracing" and hello["frames"] == 4
    assert hello["controls"][0]["name"] == "coast" and hello["episodes"] == [69] * 6
    client.begin()
    shown = client.step(0)
    assert shown.frames == 4 and shown.at == 4 and {"queue", "model", "pack"} <= set(shown.ms)


FORGED = {
    "no JSON": ("{", "Invalid JSON"),
    "a list": ("[]", "message"),
    "no type": ("{}", "message"),
    "unknown type": ('{"type": "exec"}', "message"),
    "unknown field": ('{"type": "save", "path": "/etc/passwd"}', "save.path"),
    "text for a number": ('{"type": "start", "episode": "0", "frame": 0}', "start.episode"),
    "below zero": ('{"type": "start", "episode": -1, "frame": 0}', "start.episode"),
    "beyond the recording": ('{"type": "start", "episode": 99, "frame": 0}', "no episode 99"),
    "a frame that is not there": ('{"type": "look", "episode": 0, "frame": 4000}', "no frame 4000"),
    "NaN": ('{"type": "step", "number": 1, "actions": [[NaN, 0, 0]]}', "step"),
    "infinity": ('{"type": "step", "number": 1, "actions": [[1e999, 0, 0]]}', "step"),
    "a huge action": ('{"type": "step", "number": 1, "actions": [[1e30, 0, 0]]}', "step"),
    "too few actions": ('{"type": "step", "number": 1, "actions": [[0, 0, 0]]}', "expected (4, 3)"),
    "too many steps": ('{"type": "tune", "steps": 1000000}', "tune.steps"),
    "a path for a direction": ('{"type": "move", "where": "frame", "values": {"../0": 1}}', "move.values"),
    "a future that is not there": ('{"type": "pick", "row": 3}', "no such future"),
    "deep": ("[" * 5000 + "]" * 5000, "message"),
    "binary": (b"\x00\x01", "binary"),
}


def test_forged_messages(client):
    """Guards a session that a message can end, or take where it should not go: each is refused in a sentence, and the
    game goes on."""
    client.begin()
    for number, (name, (message, words)) in enumerate(FORGED.items()):
        client.web.send(message)
        assert words in client.refusal(), name
        assert client.step(number).at == 4 * (number + 1), name
    assert len(FORGED) >= 15


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        ("/", {"Host": "evil.example"}, 403),
        ("/", {"Host": "evil.example:8000"}, 403),
        ("/", {"Origin": "http://evil.example"}, 403),
        ("/../../etc/passwd", {}, 404),
        ("/%2e%2e/%2e%2e/etc/passwd", {}, 404),
        ("/play.js/../../session.py", {}, 404),
        ("/play.js%00", {}, 404),
        ("/docs", {}, 404),
        ("/openapi.json", {}, 404),
    ],
)
def test_forged_requests(port, path, more, status):
    """Guards names of other machines (DNS rebinding), pages of other sites, and files beside the page."""
    assert get(port, path, **more)[0] == status
    assert get(port, "/", "POST")[0] == 405 and get(port, "/")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "http://localhost:1"])
def test_foreign_pages_cannot_play(port, origin):
    """Guards cross-site WebSockets, which browsers send whatever page asks for them."""
    with pytest.raises(InvalidStatus, match="403"):
        Client(port, additional_headers={"Origin": origin})
    with pytest.raises(InvalidStatus, match="403"):
        Client(port, additional_headers={"Host": "evil.example", "Origin": "http://evil.example"})
    own = admitted(port, additional_headers={"Origin": f"http://127.0.0.1:{port}"})
    assert own.answer()["type"] == "hello"
    own.close()


def test_a_huge_message_ends_its_own_session_only(port, client):
    """Guards memory that a stranger fills: the message is refused unread, the others play on."""
    other = admitted(port)
    client.begin()
    with pytest.raises(ConnectionClosed) as closed:
        other.web.send("x" * 10_000_000)
        for _ in range(9):
            other.web.recv(10)
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    assert client.step(0).at == 4


def test_players_who_are_too_many_wait(port):
    """Guards a machine that all the world shares: the third of two is told so, and may come when one has left."""
    players = [admitted(port) for _ in range(2)]
    for player in players:
        assert player.answer()["type"] == "hello"
    late = Client(port)
    assert "2 people play already" in late.refusal()
    with pytest.raises(ConnectionClosed):
        late.answer()
    assert late.web.close_code == 1013
    players[0].close()
    again = admitted(port)
    again.begin()
    assert again.step(0).at == 4
    for player in (again, players[1]):
        player.close()


def test_a_slow_client_stalls_nobody(port, client):
    """Guards a queue without end and a loop that waits for a client: one that never reads, the other plays on, and the
    newest pictures are what the slow one finds."""
    client.begin()
    slow = socket.create_connection(("127.0.0.1", port))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    host = f"GET /play HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    slow.sendall(f"{host}{key}\r\n".encode())
    asked = ['{"type": "real", "on": false}', '{"type": "start", "episode": 4, "frame": 20}']
    asked += [json.dumps({"type": "step", "number": i, "actions": STEP}) for i in range(60)]
    slow.settimeout(2)
    for text in asked:
        slow.sendall(masked(text.encode()))
    took = []
    for number in range(20):
        began = time.perf_counter()
        client.step(number)
        took.append(time.perf_counter() - began)
    slow.close()
    assert sorted(took)[10] < 0.5, took


def masked(text: bytes) -> bytes:
    """A WebSocket frame from a client, its mask all zeros."""
    length = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
    return b"\x81" + length + b"\0\0\0\0" + text


def test_newest_win():
    """Guards a queue in which a player's newest keys wait behind old ones, and one that fills memory."""
    from videowm.play.worker import STEPS, WAITING, Inbox

    inbox = Inbox()
    for number in range(50):
        inbox.put(m.Step(number=number, actions=STEP))
        inbox.put(m.Look(episode=0, frame=number))
    waiting = [inbox.get()[0] for _ in range(len(inbox.messages))]
    assert [x.number for x in waiting if isinstance(x, m.Step)] == list(range(50 - STEPS, 50))
    assert [x.frame for x in waiting if isinstance(x, m.Look)] == [49]
    for _ in range(WAITING):
        inbox.put(m.Save())
    with pytest.raises(UserError, match="send fewer"):
        inbox.put(m.Save())
    inbox.close()
    assert inbox.get() is None


def test_tokens():
    """Guards a server that the network can reach without one, and a token that is guessed, doubled or cut."""
    assert Access.of("127.0.0.1", None).token is None
    access = Access.of("0.0.0.0", None)
    assert len(access.token) >= 20 and access.token != Access.of("0.0.0.0", None).token

    def refused(query: str, path: str = "/play", host: str = "192.168.1.5:8000") -> str | None:
        scope = {"path": path, "query_string": query.encode(), "headers": [(b"host", host.encode())]}
        return access.refusal(scope)

    good = f"token={access.token}"
    for query in ("", "token=", f"{good[:-1]}", f"{good}x", f"{good}&{good}", "token=%00", "token=ü"):
        assert "token is needed" in refused(query) and "token is needed" in refused(query, "/")
    assert refused(good) is None and refused("", "/play.css") is None
    for host in ("evil.example", "192.168.1.5.evil.example", "", "[::1"):
        assert "by that name" in refused(good, host=host)
    local = Access.of("127.0.0.1", None)
    for host in ("0.0.0.0", "192.168.1.5", "127.0.0.1.evil.example"):
        assert local.refusal({"path": "/", "query_string": b"", "headers": [(b"host", host.encode())]})
    twice = [(b"host", b"localhost"), (b"host", b"localhost")]
    assert local.refusal({"path": "/", "query_string": b"", "headers": twice})


def test_ctrl_c_ends_it_cleanly(server, port):
    """Guards a server that hangs while somebody plays, or ends in a traceback. Last here, since it ends the server."""
    player = admitted(port)
    player.begin()
    server.send_signal(signal.SIGINT)
    out, err = server.communicate(20)
    assert server.returncode == 130, err
    assert "stopped; what was saved is kept" in err and "Traceback" not in err + out
    with pytest.raises((ConnectionClosed, OSError)):
        player.step(0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], "--port: 70000 is out of range"),
        (["--host", "203.0.113.7", "--port", "0"], "cannot be listened on"),
        (["--device", "tpu"], "--device 'tpu' is not here"),
        (["--from", "nowhere"], "nowhere holds no finished dataset"),
    ],
)
def test_what_the_command_refuses(videowm, world_run, arguments, words):
    """Guards a traceback for an address, a device or data that are not there."""
    ended = videowm("play", world_run, *arguments)
    assert ended.code == 2 and words in ended.errors[-1]


def test_runs_that_do_not_fit_each_other(videowm, world_run, vae_run, dataset, tiny_package, tmp_path):
    """Guards a page of models whose keys mean other things, and a run that is no world model."""
    from videowm.data.recording import record_episodes

    other = record_episodes("tiny", tmp_path / "tiny", episodes=2, frames=20)
    ended = videowm("play", world_run, "--from", other)
    assert ended.code == 2 and "across, down" in ended.errors[-1] and "give --from" in ended.errors[-1]
    assert "no finished world model" in videowm("play", vae_run, "--from", dataset).errors[-1]


def test_without_the_extra(python):
    """Guards a traceback of an import where videowm[play] is not installed."""
    code = (
        "import sys; sys.modules['fastapi'] = None\nfrom videowm.cli import main\n"
        "sys.argv[1:] = ['play', 'nothing']\nmain()"
    )
    ended = python("-c", code)
    assert ended.returncode == 2 and "pip install 'videowm[play]'" in ended.stderr, ended.stderr
