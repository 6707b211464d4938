"""Agents and the planner as players: what they see, in which future, and within which time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_session import START, play, said

from videowm.agents.imagine import Imagination, faster
from videowm.agents.plan import Planner
from videowm.agents.player import Seen
from videowm.play import messages as m
from videowm.play.pilot import Pilot
from videowm.play.session import Session
from videowm.play.stage import PLAN, Stage
from videowm.types import UserError


@pytest.fixture
def session(crew) -> Session:
    """A session that has begun, at frame 0 of which anybody may take over."""
    session = Session(crew)
    list(session.handle(START))
    return session


def expected(session: Session, by: str, dream) -> np.ndarray:
    """What a player of that name decides on a dream's own latents."""
    model, seed = session.stage.models[0], START.seed + session.at
    steps = PLAN.sampling_steps if by == "planner" else None
    imagination = Imagination(model.pipeline, model.heads, faster(model.sampler, steps), seed=seed)
    seen = Seen(dream.latents, dream.grouped)
    if by == "planner":
        return Planner(imagination, PLAN, seed=seed).act(seen)
    return session.stage.agents["runner"].act(replace(seen, memory=imagination.present(seen).kept))


@pytest.mark.parametrize("by", ["planner", "agent 0"])
def test_who_takes_over_acts_on_the_dream(session, by):
    """Guards a player that sees another dream or moment, an action that is not held, and keys that still count."""
    play(session, 2)
    assert said(session, m.Drive(by=by)).text == f"{by} plays"
    wanted = expected(session, by, session.dreams[0])
    [(header, _)] = play(session, 1)
    np.testing.assert_array_equal(list(session.reel.actions)[-4:], np.repeat(wanted, 4, axis=0))
    assert header.by == by and header.ms["player"] > 0 and header.ms.get("futures") in (None, PLAN.futures)
    said(session, m.Drive(by="person"))
    assert play(session, 1)[0][0].actions == ["gas"] * 4


def test_in_several_futures_each_is_acted_in_alone(session):
    """Guards one future's action that is taken in all of them."""
    said(session, m.Drive(by="agent 0"))
    list(session.handle(m.Branch(kind="chance", count=3)))
    play(session, 2)
    wanted = expected(session, "agent 0", session.futures.dream)
    play(session, 1)
    np.testing.assert_array_equal(session.futures.taken[-1], np.repeat(wanted[:, None], 4, axis=1))
    list(session.handle(m.Pick(row=1)))
    assert play(session, 1)[0][0].by == "agent 0"


def test_the_planner_keeps_its_time(crew):
    """Guards a page that waits for a planner, and one that stays small once there is time."""
    pilot, futures = crew.pilot("planner", crew.models[0], 0), []
    assert pilot.seconds == pytest.approx(0.5 * 4 / crew.hello.fps) and isinstance(pilot, Pilot)
    for took in (0.6, 0.6, 0.6, 0.6, 0.3, 0.01, 0.01, 0.01):
        pilot.pace(pilot.player, took * 2 * pilot.seconds)
        futures.append(pilot.player.options.futures)
    assert futures == [8, 4, 4, 4, 4, 8, 16, 16]


def test_who_cannot_play_is_told_why(crew, stage, session, with_stride):
    """Guards a traceback over a model without heads, an agent that is not there, and one of another model."""
    plain = Session(stage)
    list(plain.handle(START))
    assert "has no heads" in said(plain, m.Drive(by="planner")).text and "has no heads" in stage.hello.planner
    assert said(session, m.Drive(by="agent 3")).text == "there is no agent 3: 1 were given with --agent"
    assert crew.hello.planner is None and crew.hello.agents == ["runner"]
    with pytest.raises(UserError, match="runner learned with another autoencoder"):
        Stage.of([with_stride(2)], crew.data, crew.out, dict(crew.agents))
