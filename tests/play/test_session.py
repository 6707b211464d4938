"""A session without a web: what is played, by whom, beside which game; futures, directions and what is saved."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from videowm.data.dataset import Dataset
from videowm.play import messages as m
from videowm.play.dream import Dream
from videowm.play.session import Session
from videowm.play.stage import Stage
from videowm.vae.codec import to_float, to_uint8

GAS, LEFT = [0.0, 0.4, 0.0], [-0.3, 0.1, 0.0]
START = m.Start(episode=4, frame=20, seed=1)


def shown(answer: bytes) -> tuple[m.Shown, np.ndarray]:
    """The header of a raw picture and its views, uint8 "v f H W 3"."""
    header, content = m.unpack(answer)
    height, width = header.size
    sheet = np.frombuffer(content, np.uint8).reshape(len(header.views), height, header.frames, width, 3)
    return header, sheet.swapaxes(1, 2)


def play(session: Session, steps: int, action=GAS, first: int = 0) -> list[tuple[m.Shown, np.ndarray]]:
    """Some steps under one action."""
    asked = [m.Step(number=first + i, actions=[action] * session.stage.frames) for i in range(steps)]
    return [shown(answer) for step in asked for answer in session.handle(step)]


def said(session: Session, message: m.Asked) -> m.Said:
    """The one sentence that answers a message."""
    [answer] = session.handle(message)
    assert isinstance(answer, m.Said)
    return answer


@pytest.fixture
def session(stage) -> Session:
    """A session that has begun, with the real game."""
    session = Session(stage)
    [answer] = session.handle(START)
    assert shown(answer)[0].what == "start"
    return session


def test_the_dream_is_that_of_the_pipeline(stage, session, dataset):
    """Guards a session that drops context, shifts actions or draws other noise than its seed's."""
    pipeline, recording = stage.models[0].pipeline, Dataset(dataset)
    frames = to_float(recording.frames(4, range(8, 21)))[None]
    actions = torch.tensor(recording.actions(4)[8:20])[None]
    stream = pipeline.start(
        frames, actions, sampler=stage.models[0].sampler, generator=torch.Generator().manual_seed(1)
    )
    expected = [to_uint8(stream.step(torch.tensor([[GAS] * 4])))[0] for _ in range(3)]
    played = play(session, 3)
    for (_, views), frames in zip(played, expected, strict=True):
        np.testing.assert_array_equal(views[0], frames)
    assert [header.at for header, _ in played] == [4, 8, 12] and played[0][0].actions == ["gas"] * 4


def test_the_real_game_under_the_same_keys(stage, session, dataset):
    """Guards a game at another moment, or under other actions: it goes on as a replay does, and the difference is its
    own."""
    from videowm.evaluate.counterfactual import Replay

    truth = Replay(Dataset(dataset)).future(4, 20, np.float32([GAS] * 4 + [LEFT] * 4)).frames
    played = [*play(session, 1, GAS), *play(session, 1, LEFT)]
    game = np.concatenate([views[1] for _, views in played])
    np.testing.assert_array_equal(game, truth[1:])
    error = (played[0][1][0].astype(float) - truth[1:5]) / 127.5
    expected = 10 * np.log10(4 / np.square(error).mean((1, 2, 3)))
    np.testing.assert_allclose(played[0][0].views[0].psnr, expected, atol=1e-3)


def test_equal_starts_give_equal_games(session):
    """Guards a restart that keeps something of the game before: equal seeds give equal frames, another seed others."""
    one = play(session, 3)
    list(session.handle(START))
    two = play(session, 3)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(one, two, strict=True))
    list(session.handle(m.Start(episode=4, frame=20, seed=2)))
    assert not np.array_equal(play(session, 1)[0][1][0], one[0][1][0])


def test_futures_by_chance_and_the_one_that_was_picked(session):
    """Guards futures that share their noise, a pick of another one, and a game or a history that does not follow."""
    play(session, 2)
    [answer] = session.handle(m.Branch(kind="chance", count=3))
    header, now = shown(answer)
    assert [view.name for view in header.views] == ["future 1", "future 2", "future 3"]
    np.testing.assert_array_equal(now[0], now[2])
    futures = play(session, 2, LEFT)
    assert not np.array_equal(futures[0][1][0], futures[0][1][1]) and len(futures[0][1]) == 3
    [answer] = session.handle(m.Pick(row=1))
    header, picked = shown(answer)
    assert header.at == 16 and [view.name for view in header.views] == ["world", "real"]
    np.testing.assert_array_equal(picked[0, 0], futures[-1][1][1, -1])
    assert len(session.reel.actions) == 16 and len(session.reel.frames["real"]) == 17
    np.testing.assert_array_equal(session.reel.frames["world"][-1], futures[-1][1][1, -1])
    assert header.views[0].psnr and play(session, 1)[0][0].at == 20


def test_a_picked_future_goes_on_as_if_alone(stage, session):
    """Guards a cache or a decoder whose rows are mixed when some are selected."""
    dream = session.dreams[0]
    play(session, 2)
    fork = dream.select([0, 0, 0])
    actions = np.float32([[GAS] * 8, [LEFT] * 8, [GAS] * 8])
    noise = torch.Generator().manual_seed(7)
    fork.generator = noise
    together = fork.play(actions, alike=True)
    alone = fork.select([1])
    for row, only in ((0, GAS), (1, LEFT)):
        one = dream.select([0])
        one.generator = torch.Generator().manual_seed(7)
        apart = one.play(np.float32([[only] * 8]), alike=True).astype(int)
        assert np.abs(apart[0] - together[row].astype(int)).max() <= 1  # batches are summed in another order
    np.testing.assert_array_equal(together[0], together[2])
    assert np.abs(together[0].astype(int) - together[1]).max() > 2
    twin = fork.select([1])
    for each in (alone, twin):
        each.generator = torch.Generator().manual_seed(3)
    np.testing.assert_array_equal(alone.play(actions[1:2]), twin.play(actions[1:2]))


def test_one_future_for_every_action(session):
    """Guards a future that takes another action than its name says: all begin with the same noise."""
    play(session, 1)
    list(session.handle(m.Branch(kind="actions")))
    [(header, views)] = play(session, 1)
    named = {control.name: control.action for control in session.stage.hello.controls}
    assert [view.name for view in header.views] == list(named) and len(views) == 9
    np.testing.assert_array_equal(session.futures.taken[0][:, 0], np.float32(list(named.values())))
    assert len({view.tobytes() for view in views}) == 9


def test_handing_over(stage, session, dataset):
    """Guards a driver that is not who was asked: the recorded episode's own actions, the world's, chance, a person."""
    recording = Dataset(dataset)
    said(session, m.Drive(by="episode"))
    play(session, 3, LEFT)
    np.testing.assert_array_equal(np.stack(session.reel.actions), recording.actions(4)[20:32])
    truth = recording.frames(4, range(21, 33)).astype(int)
    game = np.stack(list(session.reel.frames["real"])[1:]).astype(int)
    assert np.abs(game - truth).mean() < 4  # the recording is compressed
    said(session, m.Drive(by="script"))
    [(header, _)] = play(session, 1, LEFT)
    assert header.by == "script" and not np.array_equal(session.reel.actions[-1], np.float32(LEFT))
    said(session, m.Drive(by="random"))
    assert set(play(session, 8)[-1][0].actions) <= {c.name for c in stage.hello.controls}
    said(session, m.Drive(by="person"))
    assert play(session, 1, LEFT)[0][0].actions == ["left"] * 4


def test_the_recorded_episode_ends(session):
    """Guards a crash, or a repeated action, behind the end of the recording: the person's keys go on."""
    list(session.handle(m.Start(episode=4, frame=66)))
    said(session, m.Drive(by="episode"))
    [(header, _)] = play(session, 1, LEFT)
    assert header.by == "person"
    np.testing.assert_array_equal(session.reel.actions[-1], np.float32(LEFT))


def test_without_the_real_game(session):
    """Guards the game's cost where nobody wants it, and a script that would drive blindly."""
    said(session, m.Real(on=False))
    [(header, _)] = play(session, 1)
    assert [view.kind for view in header.views] == ["dream"] and "real" not in header.ms
    answer = said(session, m.Drive(by="script"))
    assert answer.refused and "the real game" in answer.text
    list(session.handle(m.Branch(kind="chance", count=2)))
    play(session, 1)
    [answer] = session.handle(m.Pick(row=0))
    assert [view.kind for view in shown(answer)[0].views] == ["dream"]


def test_probed_directions_are_sliders_too(model, probed_run, dataset, tmp_path):
    """Guards a record that nobody reads, and a shift that does not arrive where directions are not at right angles."""
    probed = replace(model, run=probed_run, found=None)
    session = Session(Stage.of([probed], dataset, tmp_path))
    list(session.handle(START))
    [found] = session.handle(m.Explore(on=True))
    assert [(row.best, row.probed) for row in found.directions][8:] == [("speed", True)]
    directions, dream = probed.directions(session.dataset)[0], session.dreams[0]
    wanted = {0: 2.0, 8: -1.5}
    own = probed.pipeline.denormalise(dream.latents[:1, -1:]) + dream.shift(directions, wanted)
    reached = (directions.axes @ (own.flatten() - directions.mean)) / directions.std
    assert reached[[0, 8]].tolist() == pytest.approx([2.0, -1.5], abs=1e-3)
    other = replace(model, run=tmp_path, found=None)
    assert len(other.directions(session.dataset)[1]) == 8


def test_directions_move_the_frame_and_the_world(session):
    """Guards sliders that do nothing, that change what they should leave, or whose two futures differ before the
    move."""
    play(session, 1)
    [found] = session.handle(m.Explore(on=True))
    assert len(found.directions) == 8 and found.directions[0].share >= found.directions[1].share
    [(header, views)] = play(session, 1)
    own = header.coordinates
    [same] = session.handle(m.Move(where="frame", values={"0": own[0]}))
    [moved] = session.handle(m.Move(where="frame", values={"0": own[0] + 3}))
    assert np.abs(shown(same)[1][0, -1].astype(int) - views[0, -1]).max() <= 1
    assert np.abs(shown(moved)[1][0, -1].astype(int) - views[0, -1]).max() > 5
    again = play(session, 1)
    list(session.handle(m.Move(where="world", values={"0": own[0]})))
    list(session.handle(START))
    play(session, 2)
    np.testing.assert_array_equal(play(session, 1)[0][1], again[0][1])  # looking has changed nothing
    own = session.dreams[0].coordinates(session.dreams[0].model.found[0])
    list(session.handle(m.Move(where="world", values={"0": own[0]})))
    [(_, alike)] = play(session, 1)
    assert np.abs(alike[0].astype(int) - alike[1]).max() <= 1
    [answer] = session.handle(m.Move(where="world", values={"0": own[0] + 4, "1": -3.0}))
    assert [view.name for view in shown(answer)[0].views] == ["as it was", "moved"]
    [(_, apart)] = play(session, 1)
    assert np.abs(apart[0].astype(int) - apart[1]).max() > 3
    list(session.handle(m.Pick(row=1)))
    assert play(session, 1)[0][0].what == "step"


def test_settings(session):
    """Guards settings that are forgotten, or taken although the model cannot have them."""
    usual = play(session, 2)[1]
    for tune in (m.Tune(steps=1), m.Tune(temperature=0.0)):
        list(session.handle(START))
        play(session, 1)
        assert not said(session, tune).refused
        assert not np.array_equal(play(session, 1)[0][1][0], usual[1][0])
    list(session.handle(START))
    one = play(session, 1)
    list(session.handle(m.Start(episode=4, frame=20, seed=9)))
    np.testing.assert_array_equal(play(session, 1)[0][1][0], one[0][1][0])  # nothing is drawn at temperature 0
    for tune, words in ((m.Tune(prompt="a red car"), "without text"), (m.Tune(guidance=2.0), "action guidance 2")):
        answer = said(session, tune)
        assert answer.refused and words in answer.text
    assert play(session, 1)[0][0].what == "step"


def test_what_is_saved_is_what_was_played(stage, session):
    """Guards an episode with shifted actions or another frame rate, one that replaces another, and a broken mp4."""
    import av

    answer = said(session, m.Save())
    assert answer.refused and "nothing was played" in answer.text
    for count in (1, 2):
        list(session.handle(START))
        play(session, 3, GAS)
        play(session, 2, LEFT)
        answer = said(session, m.Save())
        saved = Dataset(stage.out / "world")
        assert not answer.refused and saved.num_episodes == count and saved.fps == 12.5
        assert Dataset(stage.out / "real").num_episodes == count
    np.testing.assert_array_equal(saved.all_actions(1), np.float32([GAS] * 12 + [LEFT] * 8))
    kept = np.stack(list(session.reel.frames["world"])[:-1]).astype(int)
    assert np.abs(saved.frames(1, range(20)) - kept).mean() < 4
    [path, *_] = sorted(stage.out.glob("*.mp4"))
    with av.open(str(path)) as video:
        assert len(list(video.decode(video=0))) == 20


@pytest.mark.parametrize("stride", [1, 2])
def test_other_time_strides(with_stride, dataset, tmp_path, stride):
    """Guards a page for strides of 4 alone: with 1 and 2 a step has as many frames, and is the pipeline's."""
    model = with_stride(stride)
    session = Session(Stage.of([model], dataset, tmp_path))
    assert session.stage.hello.frames == stride
    list(session.handle(m.Real(on=False)))
    list(session.handle(START))
    played = np.concatenate([views[0] for _, views in play(session, 4)])
    recording, count = Dataset(dataset), model.context_frames
    frames = to_float(recording.frames(4, range(21 - count, 21)))[None]
    stream = model.pipeline.start(frames, torch.tensor(recording.actions(4)[21 - count : 20])[None],
                                  sampler=model.sampler, generator=torch.Generator().manual_seed(1))  # fmt: skip
    expected = [to_uint8(stream.step(torch.tensor([[GAS] * stride])))[0] for _ in range(4)]
    np.testing.assert_array_equal(played, np.concatenate(expected))
    list(session.handle(m.Branch(kind="chance", count=2)))
    play(session, 2)
    assert shown(next(session.handle(m.Pick(row=1))))[0].at == 6 * stride


@pytest.mark.parametrize("stride", [1, 2])
def test_other_time_strides_train(dataset, vae_arguments, encode, train_world, tmp_path, stride):
    """Guards a time stride that the commands cannot train: autoencoder, latents, world model, and a game of it."""
    from videowm.data.starts import dataset_of
    from videowm.play.launch import warm
    from videowm.play.model import Model
    from videowm.train.loop import launch
    from videowm.vae.codec import DiffusersCodec, load_vae

    vae, latents = tmp_path / "vae", tmp_path / "latents"
    config = Path(__file__).parents[2] / "configs/vae/quickstart.yaml"
    launch(config, [f"out={vae}", f"data={dataset}", *vae_arguments, f"vae.size.time={stride}"])
    encode(latents, DiffusersCodec(load_vae(vae).eval()), vae, frames=17)
    train_world(tmp_path / "world", f"latents={latents}", "train.steps=2")
    model = Model.open(tmp_path / "world", torch.device("cpu"), threading.RLock())
    assert model.stride == stride and dataset_of(tmp_path / "world") == dataset
    warm(model)
    session = Session(Stage.of([model], dataset, tmp_path))
    list(session.handle(START))
    assert [header.at for header, _ in play(session, 3)] == [stride, 2 * stride, 3 * stride]


def test_several_models_under_the_same_keys(model, with_stride, dataset, tmp_path):
    """Guards models of unlike strides that fall out of step, and a run in front that is not the one branched."""
    stage = Stage.of([model, with_stride(2), replace(model, name="world")], dataset, tmp_path)
    session = Session(stage)
    assert session.names == ["world", "stride-2", "world-2"] and stage.frames == 4
    list(session.handle(m.Real(on=False)))
    list(session.handle(START))
    [(header, views)] = play(session, 1)
    assert [view.name for view in header.views] == session.names and views.shape[1] == 4
    np.testing.assert_array_equal(views[0], views[2])
    said(session, m.Front(run=1))
    list(session.handle(m.Branch(kind="chance", count=2)))
    futures = play(session, 1)
    assert futures[0][0].views[0].run == 1
    [answer] = session.handle(m.Pick(row=1))
    header, picked = shown(answer)
    np.testing.assert_array_equal(picked[1, 0], futures[0][1][1, -1])
    assert said(session, m.Front(run=3)).refused


def test_memory_does_not_grow(stage, session, monkeypatch):
    """Guards a history without end: what is kept has a limit, and a start forgets what was before."""
    from videowm.play import reel

    monkeypatch.setattr(reel, "LONGEST", 8)
    list(session.handle(m.Real(on=False)))
    session.reel = reel.Reel([*session.names, "real"])
    list(session.handle(START))
    play(session, 5)
    assert len(session.reel.actions) == 8 and len(session.reel.frames["world"]) == 9
    assert session.dreams[0].latents.shape[1] == 4 == session.dreams[0].grouped.shape[1]
    assert [name for name, _ in session.reel.whole()] == ["world"]
    assert session.dataset.open_readers == 1  # eight videos of each player were 120 MB


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (m.Start(episode=99, frame=0), "no episode 99"),
        (m.Start(episode=0, frame=500), "no frame 500"),
        (m.Look(episode=0, frame=500), "no frame 500"),
        (m.Step(number=3, actions=[GAS] * 3), "(3, 3) were given, expected (4, 3)"),
        (m.Pick(row=0), "branch first"),
        (m.Move(where="frame", values={"77": 1.0}), "no direction 77"),
    ],
)
def test_what_a_session_refuses(session, message, words):
    """Guards a traceback, or a game that is lost, for a message that cannot be followed."""
    answer = said(session, message)
    assert answer.refused and words in answer.text and answer.number == getattr(message, "number", None)
    assert play(session, 1)[0][0].at == 4


def test_a_session_that_has_not_begun(stage):
    """Guards a step before a start."""
    answer = said(Session(stage), m.Step(number=0, actions=[GAS] * 4))
    assert answer.refused and "send a start first" in answer.text


def test_a_selected_stream_of_a_decoder_that_looks_back(dataset):
    """Guards Cosmos' layers, whose past belongs to rows: a selected row decodes on as in the whole batch."""
    from videowm.vae.codec import DiffusersCodec, SizeConfig, VAEConfig, build_vae
    from videowm.vae.stream import StreamDecoder

    torch.manual_seed(0)
    vae = build_vae(VAEConfig("AutoencoderKLCosmos", SizeConfig(channels=4, width=16), local=3)).eval()
    latents = torch.randn(3, 4, 4, 2, 2)
    for decoder in (StreamDecoder(DiffusersCodec(vae)), StreamDecoder(DiffusersCodec(vae), 3)):
        for step in latents[:, :3].split(1, 1):
            decoder.step(step)
        some = decoder.select([2, 0])
        apart, whole = some.step(latents[[2, 0], 3:]), decoder.step(latents[:, 3:])
        torch.testing.assert_close(apart, whole[[2, 0]], rtol=0, atol=1e-5)


def test_a_dream_that_remembers_noise(model):
    """Guards guidance branches and noised pasts when rows are selected: each branch's cache has rows of its own."""
    from videowm.dit.sample import Sampler

    noisy = replace(model, sampler=Sampler(2, context_level=0.3, history_guidance=1.5))
    dream = Dream(noisy)
    frames = np.random.default_rng(0).integers(0, 255, (13, 64, 64, 3), np.uint8)
    dream.start(frames, np.zeros((12, 3), np.float32), seed=0)
    fork = dream.select([0, 0])
    actions = np.float32([[GAS] * 4, [LEFT] * 4])
    fork.generator = torch.Generator().manual_seed(5)
    together = fork.play(np.repeat(actions, 2, 1), alike=True).astype(int)
    for row in (0, 1):
        alone = dream.select([0])
        alone.generator = torch.Generator().manual_seed(5)
        frames = alone.play(np.repeat(actions[row : row + 1], 2, 1), alike=True)
        assert np.abs(frames[0] - together[row]).max() <= 1
