"""Captions from a model, over a real HTTP connection: every clip ends captioned or recorded as failed, none twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_server import WORDS, ChatServer, error

from videowm.data.captions import Captions

ROOT = Path(__file__).parents[1]
CLIPS = 48  # of 9 frames in the recording
SMALL = ["--model", "m", "--clip-frames", 9, "--frames", 2, "--image-size", 16, "--timeout", 1.5, "--retries", 1]
CANARY = "sk-canary-5b1f0e"


def good(handler, body, question, times) -> None:
    handler.good()


@pytest.fixture
def data(dataset, tmp_path) -> Path:
    """A copy of the recording, to be captioned."""
    return shutil.copytree(dataset, tmp_path / "data")


def captioned(data: Path) -> Captions:
    return Captions.open(data, "m")


def failed(data: Path) -> list[dict]:
    return [json.loads(line) for path in data.glob("captions/*.failed.jsonl") for line in path.read_text().splitlines()]


def one_sentence(ended, *words: str) -> None:
    """Exit code 2 and a single line of error, which holds the words."""
    assert ended.code == 2, ended
    said = [line for line in ended.errors if line.startswith("videowm: ")]
    assert len(said) == 1 and not any("Traceback" in line for line in ended.errors), ended.errors
    assert all(word in said[0] for word in words), said[0]


def misbehave(handler, body, question, times) -> None:
    """Question n modulo 12 meets the n-th of twelve behaviours; "once" is mended by the second try."""
    kind, first = question % 12, times == 0
    if kind == 1 and first:
        handler.reply(error("slow down"), 429, Retry_After="1.2")
    elif kind == 2 and first or kind == 3:
        handler.reply(error(f"oops, {CANARY} broke it"), 500)
    elif kind == 4 and first or kind == 5:
        time.sleep(2.2)
        handler.close_connection = True
    elif kind == 6 and first or kind == 7:
        handler.connection.close()
    elif kind == 8:
        handler.reply(b'{"choices": [{"mess')
    elif kind == 9:
        handler.say('{"short": "A car", "deta', "length")
    elif kind == 10:
        handler.say("")
    elif kind == 11 and first:
        handler.say("I am sorry.")
    else:
        handler.say(f"```json\n{json.dumps(WORDS | {'short': f'Seen with {CANARY}.'})}\n```")


def test_a_server_that_does_everything_wrong(data, python):
    """Guards clips lost or a run ended by one bad answer, a wrong exit code, and the key in any file or word.

    429 with Retry-After, 500, silence, a closed connection, a body cut off, JSON cut off, no text, an apology: what
    passes is tried again, the rest is recorded with its reason. The server repeats the key in errors and captions.
    """
    with ChatServer(misbehave) as server:
        ended = python("-m", "videowm", "caption", data, "--base-url", server.url, *SMALL, "--concurrency", 16,
                       "--price-in", 1, OPENAI_API_KEY=CANARY)  # fmt: skip
    assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended.stderr
    captions, reasons = captioned(data), [line["reason"] for line in failed(data)]
    assert len(captions) == CLIPS // 2 == len(reasons), sorted(reasons)
    assert len({*captions, *((f["episode"], f["start"], f["frames"]) for f in failed(data))}) == CLIPS
    expected = ["HTTP 500", "no answer within 1.5 s", "no connection", "the answer is no chat completion",
                "the answer was cut off at --max-tokens", "the answer is empty"]  # fmt: skip
    assert {reason: reasons.count(reason) for reason in reasons} == dict.fromkeys(expected, CLIPS // 12)
    summary = ended.stdout.splitlines()[-1]
    assert f"{CLIPS // 2} of {CLIPS} clips captioned, {CLIPS // 2} failed (" in summary and "cost 0.0" in summary
    assert all(f"{CLIPS // 12} x {reason}" in summary for reason in expected)
    for question, when in server.asked.items():
        if question % 12 == 1:
            assert when[1] - when[0] >= 1.2, "Retry-After was not waited for"
    assert server.keys == {f"Bearer {CANARY}"}
    written = [path.read_bytes() for path in data.rglob("*") if path.is_file()]
    assert not any(CANARY.encode() in content for content in [*written, ended.stdout.encode(), ended.stderr.encode()])
    assert "Seen with [key]." in {caption.short for caption in captions.values()}
    assert "oops, [key] broke it" in {line["detail"] for line in failed(data)}


def test_failures_are_asked_again_and_nothing_else(data, videowm):
    """Guards money spent twice: a second run asks for the failed clips alone, a third one for none."""
    with ChatServer(lambda h, b, q, t: h.good() if (q + 1) % 6 else h.reply(error("oops"), 500)) as server:
        arguments = ["caption", data, "--base-url", server.url, *SMALL]
        assert videowm(*arguments, "--retries", 0).code == 1
        bad = len(failed(data))
        assert bad == CLIPS // 6
    with ChatServer(good) as server:
        arguments[3] = server.url
        ended = videowm(*arguments, "--retry-failed", "--limit", 3)
        assert ended.code == 1 and len(server.questions) == 3 and len(failed(data)) == bad - 3
        ended = videowm(*arguments)
        assert ended.code == 0 and "48 of 48 clips captioned;" in ended.out and len(server.requests) == bad
        assert videowm(*arguments).code == 0 and len(server.requests) == bad
    assert not list(data.glob("captions/*.failed.jsonl")) and len(captioned(data)) == CLIPS
    assert "48 clips of 9 frames, by m" in videowm("info", data, "--verify").out


def test_kill_and_resume(data, environment):
    """Guards answers lost or paid for twice by `kill -9`: those on disk are never asked for again, and none is missing.

    At the kill some answers are on their way; only these, at most as many as run at once, may be asked for again. A
    half-written line, as a power cut leaves it, is mended. A second process on the same file is refused meanwhile.
    """

    def slowly(handler, body, question, times) -> None:
        if question >= 12:
            server.open.wait()
        handler.good()

    with ChatServer(slowly) as server:
        command = ["caption", data, "--base-url", server.url, *SMALL, "--concurrency", 4, "--timeout", 60]
        command = [sys.executable, "-m", "videowm", *map(str, command)]
        settings = {"env": environment | {"OPENAI_API_KEY": CANARY}, "cwd": ROOT, "text": True}
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **settings)
        while len(server.answered) < 12:
            assert process.poll() is None
            time.sleep(0.01)
        second = subprocess.run(command, capture_output=True, **settings)
        assert second.returncode == 2 and "another process writes" in second.stderr, second.stderr
        assert CANARY not in Path(f"/proc/{process.pid}/cmdline").read_text()
        process.kill()
        process.wait()
        [path] = [path for path in data.glob("captions/*.jsonl") if "failed" not in path.name]
        saved = path.read_text().splitlines()
        before = len(server.requests)
        assert 12 - 4 <= len(saved) <= 12 and before <= 12 + 4
        server.open.set()
        with open(path, "a") as file:
            file.write(saved[-1][:40])
        ended = subprocess.run(command, capture_output=True, **settings)
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == CLIPS == len(captioned(data)) == len(server.questions)
    assert len(server.requests) - before == CLIPS - len(saved)
    assert sum(len(times) > 1 for times in server.asked.values()) <= 4


def test_a_server_that_dies(data, videowm):
    """Guards hours of asking a dead server: after 20 failures in a row the rest is recorded as not asked."""
    with ChatServer(lambda h, b, q, t: h.good() if q < 3 else h.reply(error("oops"), 500)) as server:
        ended = videowm("caption", data, "--base-url", server.url, *SMALL, "--retries", 0, "--concurrency", 2)
    assert ended.code == 1 and "3 of 48 clips captioned, 45 failed" in ended.out
    assert len(server.questions) <= 3 + 20 + 1 and "not sent after 20 failures in a row" in ended.out


@pytest.mark.parametrize(
    "refused", [{"response_format"}, {"max_completion_tokens"}, {"response_format", "max_completion_tokens"}]
)
def test_dialects(data, videowm, refused):
    """Guards servers that take no schema, or another name for the limit: found out once, then kept."""

    def behave(handler, body, question, times) -> None:
        wrong = refused & set(body)
        handler.reply(error(f"unknown {wrong}"), 400) if wrong else handler.good()

    with ChatServer(behave) as server:
        assert videowm("caption", data, "--base-url", server.url, *SMALL, "--limit", 6).code == 0
    assert len(captioned(data)) == 6 and len(server.requests) <= 6 + 3
    taken = server.requests[-6:]
    assert not any(refused & set(body) for body in taken)
    assert all(("response_format" in body) == ("response_format" not in refused) for body in taken)
    assert all(body.get("max_tokens") or body.get("max_completion_tokens") for body in taken)


def test_plain_words(data, videowm):
    """Guards apologies taken for captions: words that are no JSON count only where --answer text asks for them."""
    with ChatServer(lambda h, b, q, t: h.say("A car.\n\nA red car turns left.")) as server:
        given = ["caption", data, "--base-url", server.url, *SMALL, "--limit", 2]
        assert videowm(*given).code == 1 and {f["reason"] for f in failed(data)} == {
            "the answer is not the JSON asked for"
        }
        assert videowm(*given, "--answer", "text").code == 0
        assert not any("response_format" in body for body in server.requests[-2:])
    caption = captioned(data)[0, 0, 9]
    assert (caption.short, caption.detailed, caption.source) == ("A car.", "A red car turns left.", "model")


def test_what_is_asked(data, videowm):
    """Guards a question without its pictures, in another order or too small; and no estimate."""
    import base64
    import io

    import numpy as np
    from PIL import Image

    from videowm.data.dataset import Dataset

    with ChatServer(good) as server:
        given = ["--model", "m", "--clip-frames", 65, "--frames", 5, "--limit", 2, "--price-in", 2, "--price-out", 8]
        ended = videowm("caption", data, "--base-url", server.url, *given)
    assert ended.code == 0 and "2 of 6 clips captioned" in ended.out
    assert "700 + 50 tokens" in ended.out and "the 4 clips without one: about 2800 + 200 tokens, cost 0.01" in ended.out
    content = server.requests[0]["messages"][0]["content"]
    instructions = content[0]["text"]
    for word in ("scene", "objects", "move", "changes", "5 frames", "no keys, buttons", "JSON"):
        assert word in instructions
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    assert len(urls) == 5 and all(url.startswith("data:image/jpeg;base64,") for url in urls)
    shown = [Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) for url in urls]
    frames = Dataset(data).frames(0, [0, 16, 32, 48, 64])
    for picture, frame in zip(shown, frames, strict=True):
        assert picture.size == (256, 256)
        small = np.asarray(picture.resize((64, 64), Image.Resampling.BOX), np.float32)
        distances = [np.abs(small - other).mean() for other in frames]
        assert np.array_equal(frames[int(np.argmin(distances))], frame) and min(distances) < 8


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        (lambda h, b, q, t: h.reply(b"<html>Welcome</html>", kind="text/html"), ["is no chat-completions server"]),
        (lambda h, b, q, t: h.reply(error("no such model m"), 404), ["no such model m", "check --base-url", "--model"]),
        (lambda h, b, q, t: h.reply(error(f"wrong key {CANARY}"), 401),
         ["does not accept the key", "[key]", "set OPENAI_API_KEY"]),
        (lambda h, b, q, t: h.reply(error("m is not multimodal"), 400) if "image_url" in str(b) else h.good(),
         ["answers words but not pictures", "m is not multimodal", "give a model with vision"]),
        (lambda h, b, q, t: h.reply(error("no max_tokens"), 400) if "max_tokens" in b
         else h.reply(error("m is blind"), 400) if "image_url" in str(b) else h.good(),
         ["answers words but not pictures", "m is blind", "give a model with vision"]),
        (lambda h, b, q, t: h.reply(error("out of range"), 422), ["does not take the question", "out of range"]),
    ],
    ids=["html", "404", "401", "no vision", "no vision in its own dialect", "422"],
)  # fmt: skip
def test_endpoints_that_are_wrong(data, videowm, monkeypatch, behave, words):
    """Guards a traceback, or a thousand failures, where one sentence says what is wrong with server or model."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    with ChatServer(behave) as server:
        ended = videowm("caption", data, "--base-url", server.url, *SMALL)
    one_sentence(ended, server.url, *words)
    assert not (data / "captions").exists() and CANARY not in str(ended)


def test_a_server_that_drops_pictures(data, videowm):
    """Guards captions made up by a model that never saw a frame: some servers leave pictures out without a word."""
    with ChatServer(good, sees=False) as server:
        ended = videowm("caption", data, "--base-url", server.url, *SMALL)
    one_sentence(ended, "does not see pictures", "200 tokens with and without", "give a model with vision")
    assert len(server.questions) == 1 == server.checks and not (data / "captions").exists()


def test_arguments_that_are_wrong(data, videowm, tmp_path, monkeypatch):
    """Guards what a user may mistype: no server, no key, too many frames, another folder; a key is never repeated."""
    monkeypatch.setenv("BAD_KEY", "two words")
    url = ["--base-url", "http://127.0.0.1:9/v1"]
    one_sentence(videowm("caption", data, *url, *SMALL, "--retries", 0), "127.0.0.1:9", "no connection")
    one_sentence(videowm("caption", data), "no --base-url and --model")
    one_sentence(
        videowm("caption", data, *SMALL, "--base-url", f"http://user:{CANARY}@x/v1"), "--base-url is no address"
    )
    ended = videowm("caption", data, *url, *SMALL, "--key-env", CANARY)
    one_sentence(ended, "--key-env names no environment variable")
    assert CANARY not in str(ended)
    one_sentence(videowm("caption", data, *url, *SMALL, "--key-env", "BAD_KEY"), "BAD_KEY holds blanks")
    one_sentence(videowm("caption", data, *url, *SMALL, "--frames", 10), "10 frames of clips of 9")
    one_sentence(videowm("caption", data, *url, *SMALL, "--clip-frames", 70), "no clip of 70 frames", "has 69")
    one_sentence(videowm("caption", data, *url, *SMALL, "--concurrency", 0), "--concurrency: 0 is out of range")
    one_sentence(videowm("caption", tmp_path, *url, *SMALL), "no finished dataset")
    assert not (data / "captions").exists()


def test_expand(data, videowm, tmp_path):
    """Guards a prompt that is paid for twice, and a cache that mixes up prompts, models or first frames."""
    with ChatServer(good) as server:
        given = ["expand", "a red car", "--base-url", server.url, "--cache", tmp_path / "cache"]
        for _ in range(2):
            ended = videowm(*given, "--model", "m")
            assert ended.code == 0 and ended.out == WORDS["detailed"] + "\n"
        assert (
            len(server.requests) == 1
            and "a red car" in str(server.requests[0])
            and "image_url" not in str(server.requests)
        )
        for more in (
            ["--model", "n"],
            ["--model", "m", "--from", data],
            ["--model", "m", "--from", data, "--start", 9],
        ):
            assert videowm(*given, *more).code == 0
        assert len(server.requests) == 4 and server.checks == 2 and str(server.requests[-1]).count("data:image") == 1
        one_sentence(videowm(*given[:1], " ", *given[2:], "--model", "m"), "the prompt is empty")
        for broken in ('{"detai', "[]", "{}", '{"detailed": null}'):
            for cached in (tmp_path / "cache").glob("*.json"):
                cached.write_text(broken)
            one_sentence(videowm(*given, "--model", "m"), "is damaged", "remove it")
        assert len(server.requests) == 4
    with ChatServer(lambda h, b, q, t: h.say("no")) as server:
        given[3] = server.url
        one_sentence(videowm(*given[:1], "a car", *given[2:], "--model", "m"), "was not expanded", "is not the JSON")
