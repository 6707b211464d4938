"""`videowm generate` with a prompt, as the user wrote it or as a real server expanded it."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from chat_server import WORDS, ChatServer


def good(handler, body, question, times) -> None:
    handler.good()


@pytest.fixture
def generate(videowm, worded, tmp_path):
    """Generate `tmp_path/NAME.mp4` from a run with further options."""

    def call(run: Path, name: str, *more):
        given = ["--from", worded / "data", "--context", 5, "--frames", 8, "--sampling-steps", 1]
        return videowm("generate", run, *given, "--out", tmp_path / f"{name}.mp4", *more)

    return call


def frames(path: Path) -> np.ndarray:
    """Truth and prediction of a comparison, "f H W 3".

    Not the right edge: the conversion of colours reads beyond it, whatever lies there, for some widths (seen: 780).
    """
    with av.open(path) as video:
        return np.stack([frame.to_ndarray(format="rgb24")[:, :512] for frame in video.decode(video=0)])


def test_a_prompt_and_what_a_server_makes_of_it(generate, worded_run, tmp_path):
    """Guards an expansion that is not shown, paid for twice, made without the start frame, or not what is told."""
    with ChatServer(good) as server:
        asked = ["--expand", "--base-url", server.url, "--model", "m", "--cache", tmp_path / "cache"]
        for name in ("expanded", "again"):
            ended = generate(worded_run, name, "--prompt", "a red car", *asked)
            assert ended.code == 0 and f"prompt: {WORDS['detailed']}\n" in ended.out
        assert len(server.requests) == 1 and str(server.requests[0]).count("data:image") == 1
    for name, prompt in (("plain", WORDS["detailed"]), ("short", "a red car")):
        assert generate(worded_run, name, "--prompt", prompt, "--text-guidance", 1).code == 0
    expanded, again, plain, short = (frames(tmp_path / f"{n}.mp4") for n in ("expanded", "again", "plain", "short"))
    same = [np.array_equal(expanded, other) for other in (again, plain, short)]
    assert same == [True, True, False]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--expand"], "--expand was given without --prompt"),
        (["--prompt", "a car", "--expand"], "no --base-url and --model are given"),
    ],
)
def test_what_a_user_may_forget(generate, worded_run, tmp_path, given, expected):
    """Guards a traceback, or a clip that ignores what was asked."""
    ended = generate(worded_run, "clip", *given)
    assert ended.code == 2 and expected in ended.errors[-1] and not (tmp_path / "clip.mp4").exists()


def test_a_model_without_text(generate, world_run, tmp_path):
    """Guards a prompt that does nothing, and a server that is asked for nothing."""
    with ChatServer(good) as server:
        asked = ["--prompt", "a car", "--expand", "--base-url", server.url, "--model", "m"]
        ended = generate(world_run, "clip", *asked)
        assert ended.code == 2 and "trained without text, so a prompt does nothing" in ended.errors[-1]
        assert not server.requests and not (tmp_path / "clip.mp4").exists()
