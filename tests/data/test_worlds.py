"""The worlds: pictures, states, drivers, words."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from videowm.data.dataset import Dataset
from videowm.data.playing import attempts, game_seed, play_once
from videowm.data.recording import Recording, record_episodes
from videowm.evaluate.reader import state_table
from videowm.types import UserError
from videowm.worlds import BUILT_IN, open_world, world_class
from videowm.worlds.carracing import CarRacing
from videowm.worlds.doom import area_average
from videowm.worlds.doomrooms import PASSAGE, PLACES, VEST, DoomRooms, towards
from videowm.worlds.pusht import PushT, pushes
from videowm.worlds.takecover import FIRST_SLOT, TakeCover, escape

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_culled_picture_is_the_games_own(seed):
    """Guards the culling and the missing flip: a polygon left out, bent at an edge or painted in a stale colour.

    Cannot pass by luck: bitwise against gymnasium's own renderer on frames on the road, off it and at the black edge.
    """
    import pygame
    from gymnasium.envs.box2d.car_racing import CarRacing as Original

    world, off, edge = CarRacing(), 0, 0
    world.reset(seed)
    driver = world.driver(np.random.default_rng(seed))
    for i in range(250):
        state = world.state()
        if i < 60 or np.abs(state[:2]).max() > 270:
            picture = world.render()
            Original._render(world.game, "state_pixels")
            top = world.game.surf.subsurface((0, 0, 1000, 700))
            expected = pygame.surfarray.array3d(pygame.transform.smoothscale(top, (64, 64))).swapaxes(0, 1)
            np.testing.assert_array_equal(picture, expected)
            off, edge = off + (state[6] == 0), edge + bool((picture == 0).all(-1).any())
        if world.step(next(driver) if i < 30 else outwards(state))[1]:
            break
    assert off > 10 and edge > 2, "the frames must cover the grass and the black edge of the world"


def outwards(state: np.ndarray) -> np.ndarray:
    """The action that drives straight out of the playfield."""
    error = (np.arctan2(state[1], state[0]) - np.pi / 2 - state[2] + np.pi) % (2 * np.pi) - np.pi
    return np.array([np.clip(0.1 * state[4] - 1.6 * error, -1, 1), 0.3 / (1 + 3 * abs(error)), 0], np.float32)


def test_recorded_picture_has_no_dashboard_and_no_zoom():
    """Guards the crop and the opening: the black bar would be the bottom rows, the zoom would shrink the car."""
    world = CarRacing()
    world.reset(3)
    first = world.render()
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8 and first.flags.c_contiguous
    assert world.game.t >= 1.0
    assert first[-8:].mean() > 60
    red = (first[..., 0] > 90) & (first[..., 1] < 70)
    assert 4 <= red[48:58, 26:38].sum() <= 40, "the car sits in the lower middle at its full size"


def test_same_seed_same_game_and_another_seed_another_track():
    """Guards hidden state between episodes: a reused physics world repeats only almost."""
    world = CarRacing()
    shown = {}
    for run, seed in enumerate([11, 12, 11]):
        world.reset(seed)
        driver = world.driver(np.random.default_rng(0))
        pictures = [world.render()]
        for _ in range(10):
            world.step(next(driver))
            pictures.append(world.render())
        shown[run] = np.stack(pictures)
    np.testing.assert_array_equal(shown[0], shown[2])
    assert not np.array_equal(shown[0], shown[1])


def test_an_old_game_is_let_go():
    """Guards games that hold themselves, each with a physics world: they fill a server on which people start anew."""
    world = CarRacing()
    world.reset(0)
    old = weakref.ref(world.game)
    gc.disable()
    try:
        world.reset(1)
        assert old() is None
    finally:
        gc.enable()


def test_driver_covers_what_a_player_may_do():
    """Guards the data's variety: a driver that only follows the road, only spins, or lives on the grass."""
    states, actions = [], []
    for seed in range(10):
        world = CarRacing()
        world.reset(seed)
        driver = world.driver(np.random.default_rng(seed))
        for _ in range(130):
            action = next(driver)
            assert action.dtype == np.float32 and action.shape == (3,)
            states.append(world.state())
            actions.append(action)
            if world.step(action)[1]:
                break
    states, actions = np.stack(states), np.stack(actions)
    assert len(states) > 1200, "episodes that end early must be rare"
    assert 0.08 < (states[:, 6] == 0).mean() < 0.35
    assert 20 < states[:, 3].mean() < 40 and (states[:, 3] > 40).mean() > 0.04 and (states[:, 3] < 12).mean() > 0.01
    assert (np.abs(states[:, 4]) > 2.5).mean() < 0.25, "weaving and spinning must not fill the data"
    held = (actions[1:, 1:] == actions[:-1, 1:]).all(1) & (actions[1:].any(1))
    assert 0.12 < held.mean() < 0.6
    assert (actions[:, 0] < -0.2).mean() > 0.1 and (actions[:, 0] > 0.2).mean() > 0.1
    assert 0.02 < (actions[:, 2] > 0.1).mean() < 0.25
    assert actions.min(0)[0] >= -1 and (actions[:, 1:] >= 0).all() and actions.max() <= 1


def test_named_actions_do_what_they_say():
    """Guards a sign or a strength: left that goes right, a turn that stalls or spins, a brake that does nothing."""
    turned, speeds = {}, {}
    for name, action in CarRacing.NAMED_ACTIONS.items():
        world = CarRacing()
        world.reset(5)
        for _ in range(8):
            world.step(world._follow(4, 28, 0.0))
        before = world.state()
        for _ in range(6):
            world.step(np.array(action, np.float32))
        turned[name], speeds[name] = world.state()[2] - before[2], world.state()[3] - before[3]
    for side, sign in (("left", 1), ("right", -1)):  # heading grows anticlockwise
        assert sign * (turned[side] - turned["coast"]) > 0.4
        assert sign * (turned[f"gas_{side}"] - turned["coast"]) > 0.2
        assert abs(turned[side]) < 2.5 and speeds[side] > -3, "the car must keep rolling and not spin"
    assert speeds["gas"] > 8 > 1 > speeds["coast"] > speeds["brake"] + 5


def test_caption_follows_the_states():
    """Guards captions that do not depend on what happened."""
    world, rng = CarRacing(), np.random.default_rng(0)
    states, actions = np.zeros((50, 8), np.float32), np.zeros((50, 3), np.float32)
    states[:, 6] = 1
    states[:, 3] = 50
    straight = world.caption(states, actions, rng)
    assert "staying on the road" in straight and "straight" in straight and straight[-1] == "."
    states[:, 3], states[:, 4], states[:, 6], actions[:, 2] = 5, 2, 0, 0.5
    other = world.caption(states, actions, rng)
    assert "left" in other and "grass" in other and "brak" in other
    assert ("fast" in straight or "high" in straight) and ("slow" in other or "low" in other)
    assert len({world.caption(states, actions, rng) for _ in range(30)}) > 3


def test_unknown_world_is_one_sentence():
    """Guards the traceback that a typing error would bring."""
    with pytest.raises(UserError, match="unknown world 'carrracing', did you mean 'carracing'"):
        open_world("carrracing")
    with pytest.raises(UserError, match="frame_skip 0"):
        open_world("carracing", 0)


def test_a_world_of_another_package(tiny_package, tmp_path, python):
    """Guards entry points: a world that only defines the core records, in other processes too, with its arguments."""
    settings = {"episodes": 4, "frames": 20, "group": 2, "lossless": True, "arguments": {"gray": 7}}
    out = record_episodes("tiny", tmp_path / "data", **settings, workers=2)
    data, recorded = Dataset(out), Recording.read(out)
    assert data.name == "tiny" and data.action_names == ("across", "down") and data.state_names == ()
    assert recorded.arguments == {"gray": 7} and recorded.frame_skip is None
    frames, actions, world = data.frames(1, range(20)), data.actions(1), recorded.open()
    assert (frames[:, 0] == 7).any() and np.abs(actions).max() <= 1 and len(np.unique(actions)) > 6
    world.reset(game_seed(next(attempts(0, 1))))
    for frame, action in zip(frames, [*actions, actions[-1]]):
        np.testing.assert_array_equal(world.render(), frame)
        world.step(action)
    with pytest.raises(UserError, match="gray.* 7}* there, {'gray': 8} now"):
        record_episodes("tiny", out, **settings | {"arguments": {"gray": 8}})
    code = "import sys; from videowm.worlds import world_names; print(world_names(), 'tiny_package' in sys.modules)"
    shown = python("-c", code, PYTHONPATH=f"{tiny_package}{os.pathsep}{ROOT}").stdout
    assert "'carracing'" in shown and "'tiny'" in shown and shown.endswith("False\n"), "names cost no import"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tinny", "unknown world 'tinny', did you mean 'tiny'"),
        ("crooked", "the picture of world 'crooked' is float64 .*, expected uint8 .*: correct the world"),
        ("half", "world 'half' of tiny-package does not define reset, step, render: correct or uninstall"),
        ("other", "world 'other' of tiny-package has the name 'somebody', expected that of its entry point"),
        ("function", "world 'function' of tiny-package is tiny_package:np, expected a subclass of"),
        ("gone", "world 'gone' of tiny-package cannot be loaded .*Gone"),
        ("broken", "world 'broken' of tiny-package cannot be loaded .*missing"),
    ],
)
def test_worlds_of_other_packages_that_are_broken(name, sentence, tiny_package, tmp_path):
    """Guards tracebacks from another package: the sentence names the world, the package and what is wrong."""
    with pytest.raises(UserError, match=sentence) as error:
        record_episodes(name, tmp_path / "data", episodes=1, frames=5)
    assert "\n" not in str(error.value)


def test_arguments_that_a_world_does_not_take(tiny_package):
    """Guards a TypeError of the constructor: the argument is named, and the likely right one."""
    with pytest.raises(UserError, match="world 'tiny' takes no argument 'grey', did you mean 'gray'"):
        open_world("tiny", grey=3)
    with pytest.raises(UserError, match="world 'tiny' takes no argument 'frame_skip'"):
        open_world("tiny", 2)


def test_no_evaluator_knows_a_world_by_name():
    """Guards evaluators that only work for our own worlds: names of worlds stand in `worlds/` and in examples."""
    files = [*(ROOT / "videowm/evaluate").glob("*.py"), ROOT / "videowm/measure.py", ROOT / "scaling/futures.py"]
    assert len(files) > 15
    for path in files:
        assert not [name for name in (*BUILT_IN, "-noisy") if f'"{name}"' in path.read_text()], path


def test_import_stays_cheap():
    """Guards `--help`: no simulator, decoder or torch before a command needs one."""
    code = "import videowm.worlds, videowm.data.recording, videowm.data.import_, sys;"
    heavy = ("gymnasium", "pygame", "decord", "torch", "av", "vizdoom", "miniworld", "pyglet", "pymunk", "shapely")
    code += f"print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def opened(name: str):
    """The world, reset once; skipped where the machine cannot draw it."""
    world = open_world(name)
    try:
        world.reset(0)
    except UserError as error:
        if "cannot draw" not in str(error):
            raise
        pytest.skip(str(error))
    return world


@pytest.mark.parametrize("name", ["takecover", "doomrooms", "fourrooms", "carracing-noisy", "pusht"])
def test_a_world_repeats_and_keeps_its_promises(name, tmp_path, monkeypatch):
    """Guards hidden state between episodes, shapes that differ from the names, and files left where the user stands.

    Bitwise: the same episode again in the same engine after another one, and in a second engine.
    """
    monkeypatch.chdir(tmp_path)
    world, other = opened(name), open_world(name)
    episode, another, again, elsewhere = (
        play_once(w, np.random.default_rng([2, number]), 70) for w, number in zip([world] * 3 + [other], [3, 4, 3, 3])
    )
    for same in (again, elsewhere):
        assert same.caption == episode.caption
        for column in ("frames", "states", "actions", "rewards", "dones"):
            np.testing.assert_array_equal(getattr(same, column), getattr(episode, column))
    assert not np.array_equal(another.states[:33], episode.states[:33])
    assert episode.frames.shape[1:] == (*world.size, 3) and episode.frames.dtype == np.uint8
    assert episode.states.shape[1] == len(world.state_names) and np.isfinite(episode.states).all()
    assert episode.actions.shape[1] == len(world.action_names)
    assert {len(action) for action in world.NAMED_ACTIONS.values()} == {len(world.action_names)}
    assert name == world.name and world_class(name) is type(world) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_clip_is_put_into_words(name):
    """Guards a caption that needs an action for the last frame, which a clip has not, and details that say nothing."""
    episode = play_once(opened(name), np.random.default_rng(1), 33)
    states, actions = episode.states, episode.actions[: len(episode.states) - 1]
    world, rng = world_class(name)(), np.random.default_rng(0)
    words = world.caption(states, actions, rng), world.details(states, actions, rng)
    assert all(len(text) > 20 and text[0].isupper() and text.endswith(".") for text in words)


def test_noise_is_only_in_its_corner():
    """Guards noise that spoils the game's picture, or that repeats from frame to frame."""
    plain, noisy = CarRacing(), open_world("carracing-noisy")
    shown = []
    for world in (plain, noisy):
        world.reset(4)
        first = world.render()
        world.step(np.zeros(3))
        shown.append(np.stack([first, world.render()]))
    differs = (shown[0] != shown[1]).any(-1)
    assert not differs[:, 16:].any() and not differs[:, :, :-16].any() and differs[:, :16, -16:].mean() > 0.99
    assert (shown[1][0] != shown[1][1])[:16, -16:].mean() > 0.9
    corner = shown[1][:, :16, -16:]
    assert (corner == corner[:, ::8, ::8].repeat(8, 1).repeat(8, 2)).all()  # coarse enough for an autoencoder to keep


def test_watching_changes_no_frame():
    """Guards a recording that depends on whether somebody asks for boxes, and one that pays for them."""
    shown = {}
    for watched in (False, True):
        world = open_world("doomrooms")
        world.watched = watched
        episode = play_once(world, np.random.default_rng([1, 4]), 120)
        shown[watched] = episode
    for column in ("frames", "states", "actions", "rewards"):
        np.testing.assert_array_equal(getattr(shown[False], column), getattr(shown[True], column))
    world.reset(4)
    assert list(world.boxes()) == ["vest"]
    other = open_world("doomrooms")
    other.reset(4)
    with pytest.raises(RuntimeError, match="set `watched` before"):
        other.boxes()


@pytest.mark.parametrize(
    ("name", "seed", "kinds"),
    [("takecover", 3, {"imp": "DoomImp", "fireball": "DoomImpBall"}), ("doomrooms", 4, {"vest": "GreenArmor"})],
)
def test_boxes_hold_what_the_engine_labels(name, seed, kinds):
    """Guards rows taken for columns, a wrong scale and a box that loses an edge: against the engine's own mask."""
    world, seen, tight = open_world(name), dict.fromkeys(kinds, 0), []
    world.watched = True
    world.reset(seed)
    driver = world.driver(np.random.default_rng(seed))
    for _ in range(60):
        boxes, now = world.boxes(), world._now
        assert boxes.keys() == kinds.keys()
        scale = [n / m for n, m in zip(world.size, now.labels_buffer.shape)]
        for kind, called in kinds.items():
            labels = [label for label in now.labels if label.object_name == called]
            for label, (rows, columns) in zip(labels, boxes[kind], strict=True):
                seen[kind] += 1
                where = np.nonzero(now.labels_buffer == label.value)
                for pixels, span, factor in zip(where, (rows, columns), scale):
                    if len(pixels):  # one that another covers has a box and no pixel of its own
                        first, last = pixels.min() * factor, (pixels.max() + 1) * factor
                        assert span.start <= first and last <= span.stop, (kind, label.value)
                        tight.append(first - span.start < 1.01 and span.stop - last < 1.01)
        if world.step(next(driver))[1]:
            break
    assert all(count > 5 for count in seen.values()), seen
    assert np.mean(tight) > 0.9, "but for those that are half covered"


def test_boxes_of_the_car_and_its_curbs():
    """Guards a box beside the car, and curbs that lie elsewhere, at the wrong scale or upside down.

    The car: the picture differs from one without it nowhere else. Curbs: they alone are as red or as white.
    """
    world, changed, inside, outside = CarRacing(), np.zeros((64, 64), bool), [], []
    world.reset(7)
    driver = world.driver(np.random.default_rng(7))
    for _ in range(200):
        picture, car, boxes = world.render(), world.game.car, world.boxes()
        car.draw = lambda *_, **__: None
        bare = world.render()
        del car.draw
        changed |= (picture != bare).any(-1)
        mask = np.zeros((64, 64), bool)
        for rows, columns in boxes["curb"]:
            assert 0 <= rows.start < rows.stop <= 64 and 0 <= columns.start < columns.stop <= 64
            mask[rows, columns] = True
        red = bare[..., 0].astype(int) - bare[..., 1] > 20  # neither grass nor road
        inside.append((red & mask).sum())
        outside.append((red & ~mask).sum())
        if world.step(next(driver))[1]:
            break
    rows, columns = np.nonzero(changed)
    assert boxes["car"] == [(slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))]
    assert sum(inside) > 100 and sum(outside) == 0


def test_takecover_ends_with_death_and_steps_to_the_named_side():
    """Guards a frame after death, sides that are swapped, and a state that is not the engine's."""
    world = opened("takecover")
    for name, sign in (("left", 1), ("right", -1), ("stay", 0)):
        world.reset(1)
        before = world.state()
        for _ in range(5):
            world.step(np.array(TakeCover.NAMED_ACTIONS[name]))
        assert np.sign(np.round(world.state()[1] - before[1])) == sign, name
    episodes = [play_once(world, np.random.default_rng([8, i]), 261) for i in range(12)]
    ended = [e for e in episodes if e.dones[-1]]
    assert len(ended) > 6 and all(not e.dones[:-1].any() for e in episodes)
    assert all((e.states[:, 4] > 0).all() for e in ended), "every recorded frame is one of a living player"
    assert all(any(w in e.caption for w in ("dies", "killed")) == bool(e.dones[-1]) for e in episodes)
    states = np.concatenate([e.states for e in episodes])
    names = {name: i for i, name in enumerate(TakeCover.state_names)}
    assert (states[:, names["imps"]] >= 3).all() and states[:, names["fireballs"]].max() >= 3
    one = states[states[:, names["fireballs"]] == 1]
    assert (one[:, names["fireball0_x"]] != 0).all() and (one[:, names["fireball1_x"]] == 0).all()
    seen, there = states[:, names["fireballs_seen"]], states[:, names["fireballs"]]
    assert (seen <= there).all() and 0 < seen.sum() < there.sum()


def test_takecover_dodges():
    """Guards an escape towards the fireball, into a wall, or from one that flies past."""
    state = np.zeros(len(TakeCover.state_names), np.float32)
    state[1] = 400
    for y, vy, expected in ((20, 0, -1), (-20, 0, 1), (200, 0, 0), (200, -8, -1)):
        state[FIRST_SLOT : FIRST_SLOT + 4] = 200, y, -10, vy
        assert escape(state) == expected
    state[FIRST_SLOT : FIRST_SLOT + 4] = 200, 20, -10, 0
    state[1] = 20
    assert escape(state) == 1, "not into the wall"
    state[FIRST_SLOT + 2] = 10
    assert escape(state) == 0, "one that flies away is no danger"


def test_area_average_is_exact():
    """Guards the scaling: against the mean of the picture blown up so far that areas are whole pixels."""
    screen = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    blown = screen.repeat(8, 0).repeat(2, 1).reshape(64, 15, 64, 5, 3).astype(np.int64).sum((1, 3))
    np.testing.assert_array_equal(area_average(screen, (64, 64)), (blown + 37) // 75)
    screen = np.random.default_rng(1).integers(0, 256, (192, 256, 3), np.uint8)
    blown = screen.repeat(2, 0).reshape(128, 3, 128, 2, 3).astype(np.int64).sum((1, 3))
    np.testing.assert_array_equal(area_average(screen, (128, 128)), (blown + 3) // 6)


def test_fourrooms_turns_walks_and_comes_back():
    """Guards swapped sides and a driver that never leaves a room or never sees one again."""
    world = opened("fourrooms")
    for name, sign in (("left", 1), ("right", -1)):
        world.reset(2)
        first, before = world.render(), world.state()
        for i in range(24):
            world.step(np.array(world.NAMED_ACTIONS[name]))
            if i == 3:
                assert sign * (world.state()[2] - before[2]) == pytest.approx(np.pi / 3, abs=1e-4)
        np.testing.assert_allclose(world.render().astype(int), first, atol=3)  # a whole turn shows the same again
    world.step(np.array(world.NAMED_ACTIONS["forward"]))
    rooms = [play_once(world, np.random.default_rng([3, i]), 200).states[:, 3] for i in range(6)]
    visits = [[int(r) for j, r in enumerate(e) if r < 4 and (j == 0 or e[j - 1] != r)] for e in rooms]
    assert np.mean([len(set(v)) for v in visits]) >= 2 and sum(len(v) > len(set(v)) for v in visits) >= 2


def test_doomrooms_obeys_the_named_actions():
    """Guards swapped sides, turns of another size, and motion that the evaluators would read with the wrong sign."""
    expected = {"forward": (0, 1), "back": (0, -1), "strafe-right": (1, 1), "strafe-left": (1, -1)}
    world = opened("doomrooms")
    for name, action in DoomRooms.NAMED_ACTIONS.items():
        world.reset(6)  # the middle of a room
        states = [world.state()]
        for _ in range(3):
            assert world.step(np.array(action, np.float32)) == (pytest.approx(0, abs=0.01), False)
            states.append(world.state())
        motion = state_table(np.stack(states), world.state_names, ["forward", "sideways", "turn"])[:-1]
        assert motion[:, 2] == pytest.approx(-np.radians(8) * action[0], abs=1e-3), name
        if name in expected:
            column, sign = expected[name]
            assert sign * motion[-1, column] > 8 and abs(motion[-1, 1 - column]) < 0.5, name
        elif not any(action[1:]):
            assert not motion[:, :2].any(), name


def test_doomrooms_is_a_picture_without_head_up_display():
    """Guards a status bar, crosshair or weapon: they would be the same in every picture of every place."""
    world, shown = opened("doomrooms"), []
    for seed in range(12):
        world.reset(seed)
        shown.append(world.render())
    spread = np.stack(shown).astype(int).std(0).max(-1)
    assert (spread > 3).all(), "no pixel looks the same from everywhere"


def test_doomrooms_player_sees_many_rooms_and_the_vest_ends_the_game():
    """Guards a player that stands, spins, sticks to walls or never comes back, and an end that only time brings."""
    world = opened("doomrooms")
    episodes = []
    for seed in range(10):
        world.reset(seed)
        driver, rows, over = world.driver(np.random.default_rng(seed)), [], False
        while len(rows) < 100 and not over:
            rows.append((world.state(), next(driver)))
            over = world.step(rows[-1][1])[1]
        episodes.append([np.stack(column) for column in zip(*rows)])
    moved = np.concatenate([np.hypot(*np.diff(states[:, :2], axis=0).T) > 2 for states, _ in episodes])
    actions = np.concatenate([actions[:-1] for _, actions in episodes])
    assert 0.5 < moved.mean() < 0.95 and moved[actions[:, 1:].any(1)].mean() > 0.9
    assert (np.abs(actions) > 0.5).mean(0).min() > 0.1 and len(np.unique(actions[:, 1:], axis=0)) == 9
    rooms = [states[:, 7] for states, _ in episodes]
    visits = [[r for j, r in enumerate(e) if r != PASSAGE and (j == 0 or r != e[j - 1])] for e in rooms]
    assert np.mean([len(set(v)) for v in visits]) > 2 and sum(len(v) > len(set(v)) for v in visits) > 2
    assert len(set(np.concatenate(rooms))) > VEST
    world.reset(2)
    for place in (6, 16, 7, 17, VEST):  # from the room of blue screens straight on to the vest
        reward, over = 0.0, False
        for _ in range(80):
            state = world.state()
            if np.hypot(*(PLACES[place] - state[:2])) < 20:
                break
            reward, over = world.step(towards(PLACES[place] - state[:2], state[2], 0.0, 8.0))
            if over:
                break
    assert over and reward > 0.9, "the vest is worth 1 and ends the game"


def test_carracing_lets_old_games_go():
    """Guards memory: every reset makes a new game, and the one before held all tiles of its track for ever."""
    import gc

    world, counts = open_world("carracing"), []
    for seed in range(3):
        world.reset(seed)
        gc.collect()
        counts.append(sum(type(thing).__name__ == "b2Body" for thing in gc.get_objects()))
    assert counts[0] > 100 and counts[2] - counts[0] < 200  # a track has about 300


PUSHED = [  # after 1, 20 and 40 pushes: finger, block, its angle, and what is covered
    [241.177019, 262.598849, 290.595355, 457.36288, -2.236034, 0.0],
    [303.132141, 434.644487, 319.471724, 489.370968, -2.889681, 0.0],
    [442.340385, 434.862941, 438.811362, 418.850629, -2.91278, 0.0],
]


def test_pusht_has_the_physics_of_gym_pusht():
    """Guards a T of another weight, a controller of another strength, and other beginnings.

    The numbers are what gym-pusht 0.1.8 says of seed 1 and of these pushes, with pymunk 6.11.
    """
    world = opened("pusht")
    world.reset(1)
    rng, said = np.random.default_rng(101), []
    for i in range(40):
        away = world.state()[2:4].astype(float) - world.state()[:2]
        action = rng.uniform(-1, 1, 2) if i % 4 == 3 else away / np.linalg.norm(away)
        world.step(np.float32(action))
        said.append([*world.finger.position, *world.block.position, world.block.angle, world.covered])
    np.testing.assert_allclose(np.array(said)[[0, 19, 39]], PUSHED, atol=1e-4)


def test_pusht_explores_in_a_share_of_its_episodes():
    """Guards a driver that changed where nothing explores, pushes that are not held, and a T that nobody meets."""
    world, clumsy = PushT(explore=0.5), opened("pusht")
    explored, met = [], []
    for episode in range(24):
        world.reset(episode)
        before = world.look()[1]
        player, taken = world.driver(np.random.default_rng(episode)), []
        for _ in range(60):
            taken.append(next(player))
            world.move(taken[-1])
        runs = np.diff(np.flatnonzero(np.any(np.diff(taken, axis=0) != 0, axis=1)))
        explored.append(runs.min(initial=60) >= 4)
        met += [np.hypot(*(world.look()[1] - before)[:2]) > 5] if explored[-1] else []
    assert 6 < sum(explored) < 18 and sum(met) > len(met) / 2
    clumsy.reset(3)
    expected = pushes(clumsy.look, rng := np.random.default_rng(3), rng.uniform())
    assert np.array_equal(next(clumsy.driver(np.random.default_rng(3))), next(expected))
    with pytest.raises(UserError, match="explore 2 cannot be used: give 0 to 1"):
        PushT(explore=2)


def test_pusht_is_solved_by_its_expert_and_earns_what_is_covered():
    """Guards a driver that pushes the wrong way, an end that is no success, and rewards that do not add up."""
    world, earned, found = opened("pusht"), [], []
    for seed in (2, 4):
        world.reset(seed)
        actions, got, over = world.expert(np.random.default_rng(seed)), world.earned, False
        for _ in range(world.longest):
            reward, over = world.step(next(actions))
            got += reward
            if over:
                break
        earned.append(got)
        found.append(over)
        assert got == pytest.approx(world.state()[6], abs=1e-5) and over == (world.covered > 0.95)
    assert found == [True, False] and min(earned) > 0.9
    solved = world.goal().astype(int)
    green = (solved == [144, 238, 144]).all(-1)
    assert not green.any() and (solved == [119, 136, 153]).all(-1).sum() > 100
