"""The dream as an environment of gymnasium, and the traps that others fell into."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from videowm.dream.env import DreamEnv, DreamVectorEnv
from videowm.dream.rows import DreamConfig, Dreams
from videowm.types import UserError
from videowm.vae.codec import to_float

CPU = {"device": "cpu"}


@pytest.fixture(scope="module")
def run(three_heads, three_run):
    """The world model of the game in tests/three.py, with heads."""
    return three_run


def fixed(env: DreamEnv | DreamVectorEnv, chances: list[float], reward: float = 1.0) -> None:
    """Let the heads say the same in every step: the probabilities of no end and of each action's, and the reward."""
    heads = env.dreams.heads
    with torch.no_grad():
        heads.layers[-1].weight.zero_()
        ends = torch.tensor(chances).clamp_min(1e-9).log()
        ends[1:] += np.log(heads.config.end_weight)
        about = heads.config
        heads.layers[-1].bias.copy_(torch.cat([torch.tensor([(reward - about.reward_mean) / about.reward_std]), ends]))


@pytest.mark.parametrize("settings", [{}, {"observation": "memory", "action": "frame", "actions": "box"}])
def test_gymnasium_and_stable_baselines_accept_it(run, settings):
    """Guards spaces that observations do not lie in, seeds that draw something else, and types of rewards and ends."""
    from stable_baselines3.common.env_checker import check_env as check_for_sb3

    env = gymnasium.make("videowm.dream:videowm/Dream-v0", run=run, render_mode="rgb_array", horizon=12, **CPU,
                         **settings)  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(infinity|-inf|image|Box|range|symmetric|different).*")
        check_env(env.unwrapped, skip_render_check=True)
        check_for_sb3(env.unwrapped, skip_render_check=True)
    env.reset(seed=1)
    assert env.render().shape == (64, 64, 3) and env.render().dtype == np.uint8 and env.metadata["render_fps"] == 2.5


def test_one_of_many_is_the_one_alone(run):
    """Guards rows that share random numbers or places, and a row that began anew with another one's past.

    Each of three dreams goes on as a single environment with its seed does, beyond its end.
    """
    settings = {"observation": "latents", "horizon": 8, "begin": "any", **CPU}
    many = DreamVectorEnv(run, 3, **settings)
    first, infos = many.reset(seed=5)
    for row in range(3):
        one = DreamEnv(run, **settings)
        seen, info = one.reset(seed=5 + row)
        assert (info["episode"], info["frame"]) == (infos["episode"][row], infos["frame"][row])
        np.testing.assert_allclose(seen, first[row], rtol=1e-4, atol=1e-4)
    actions = np.array([[0, 1, 2], [2, 1, 0], [1, 1, 1], [0, 0, 2], [2, 2, 2]])
    steps = [many.step(a) for a in actions]
    one = DreamEnv(run, **settings)
    one.reset(seed=6)
    for action, (seen, reward, terminated, truncated, infos) in zip(actions[:, 1], steps):
        own, earned, ended, cut, _ = one.step(action)
        assert (ended, cut) == (terminated[1], truncated[1]) and earned == pytest.approx(reward[1], rel=1e-3, abs=1e-2)
        if ended or cut:
            np.testing.assert_allclose(own, infos["final_obs"][1], rtol=1e-3, atol=1e-3)
            own, _ = one.reset()
        np.testing.assert_allclose(own, seen[1], rtol=1e-3, atol=1e-3)
    assert sum(int((s[2] | s[3])[1]) for s in steps) >= 2, "it began anew and went on"


def test_no_step_is_invented_and_none_counts_beyond_the_horizon(run):
    """Guards an auto-reset that inserts a step which never was, and a score above the horizon.

    With a reward of 1 and no end, a horizon of 12 frames in steps of 4 is three steps: every third one is cut off, the
    observation beside it is already the next dream's first, and the scores are 3.
    """
    env = DreamVectorEnv(run, 2, observation="latents", horizon=12, **CPU)
    fixed(env, [1, 0, 0, 0, 0])
    env.reset(seed=0)
    rewards, cuts, seen = [], [], []
    for _ in range(6):
        observation, reward, terminated, truncated, infos = env.step(np.array([0, 1]))
        rewards.append(reward[0])
        cuts.append(bool(truncated[0]))
        seen.append((observation, infos))
        assert not terminated.any()
    assert cuts == [False, False, True] * 2 and np.cumsum(rewards).tolist() == pytest.approx([1, 2, 3, 4, 5, 6])
    observation, infos = seen[2]
    assert infos["_final_obs"].all() and not np.array_equal(infos["final_obs"][0], observation[0])
    assert "final_obs" not in seen[1][1]


def test_the_frame_after_the_fatal_action_is_not_shown(run):
    """Guards an end at the wrong frame of a step, and a reward or an end that come a step late.

    An end by the first action leaves the frame as it was. One by the third shows the frame of the second.
    """
    frames = {}
    for place in (0, 1, 3):
        env = DreamEnv(run, render_mode="rgb_array", horizon=99, **CPU)
        fixed(env, [float(place == i) for i in range(5)], reward=7)
        before, _ = env.reset(seed=3)
        after, reward, terminated, _, info = env.step(0)
        assert (terminated, info["end"]) == (place > 0, place) and reward == pytest.approx(7, rel=1e-3)
        assert np.array_equal(env.render(), after)
        frames[place] = before, after, env
    assert np.array_equal(*frames[1][:2]) and not np.array_equal(*frames[0][:2])
    dreams, ends = Dreams(run, DreamConfig(), 4, device="cpu"), np.array([0, 1, 2, 4])
    dreams.frame = np.full((4, 1, 1, 3), 9, np.uint8)
    dreams.show(np.arange(16, dtype=np.uint8).reshape(4, 4, 1, 1, 1).repeat(3, -1) + 100, ends)
    assert dreams.frame[:, 0, 0, 0].tolist() == [103, 9, 108, 114]
    with pytest.raises(UserError, match="this dream is over"):
        frames[3][2].step(0)


def test_temperatures_do_nothing_at_one(run):
    """Guards a temperature that changes the default, or that is upside down.

    At 1 an end of probability 0.3 comes in 0.3 of the draws. Below 1 it is rarer, above 1 less rare, at 0 it never is.
    """
    shares = {}
    for temperature in (0.0, 0.5, 1.0, 2.0):
        dreams = Dreams(run, DreamConfig(end_temperature=temperature), 64, frames=False, device="cpu")
        for i, generator in enumerate(dreams.generators):
            generator.manual_seed(i)
        logits = torch.tensor([0.7, 0, 0.3, 0, 0]).clamp_min(1e-9).log().expand(64, -1)
        drawn = np.concatenate([dreams.draw_end(logits)[0] for _ in range(40)])
        assert set(drawn.tolist()) <= {0, 2}
        shares[temperature] = (drawn == 2).mean()
    even = {t: 0.3 ** (1 / t) / (0.3 ** (1 / t) + 0.7 ** (1 / t)) for t in (0.5, 2.0)}
    assert shares[0.0] == 0 and shares[1.0] == pytest.approx(0.3, abs=0.03)
    assert [shares[t] for t in even] == pytest.approx(list(even.values()), abs=0.03)
    plain, *others = (DreamEnv(run, observation="latents", **settings, **CPU)
                      for settings in ({}, {"temperature": 1.0}, {"temperature": 0.3}))  # fmt: skip
    seen = [env.reset(seed=2) and env.step(1)[0] for env in (plain, *others)]
    assert np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[0], seen[2])


def test_a_dream_begins_with_a_full_memory(run, three_data):
    """Guards dreams begun in mid-episode that remember nothing: the context is what the model sees, from that moment.

    Two moments with an equal last step and another past differ in the network's features.
    """
    env = DreamEnv(run, observation="memory", **CPU)
    window = env.dreams.pipeline.trained_on.window
    _, info = env.reset(options={"episode": 2, "frame": 12})
    assert info == {"episode": 2, "frame": 12} and env.dreams.context == 9 == 1 + 4 * (window - 2)
    assert env.dreams.stream.cache.held == window - 1 and env.dreams.stream.cache.full
    clip = env.dreams.dataset.clip(2, 4, 9)
    context = env.dreams.pipeline.beginning(to_float(clip.frames[None]), torch.from_numpy(clip.actions[None]))[0]
    np.testing.assert_allclose(env.dreams.latents[0], context[0, -1].detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda run: DreamEnv(run, observation="sound", **CPU), "observation: 'sound' is not a choice; known: frames"),
        (lambda run: DreamEnv(run, horizen=3, **CPU), "unknown key 'horizen'.*horizon"),
        (lambda run: DreamEnv(run, render_mode="human", **CPU), "render_mode 'human' is none of a dream"),
        (lambda run: DreamEnv(run, context=30, **CPU), "has no train episode of 117 frames, the context"),
        (lambda run: DreamEnv(run, **CPU).reset(options={"episode": 99}), "has no episode 99: give 0 to 15"),
        (lambda run: DreamEnv(run, **CPU).reset(options={"episode": 0, "frame": 3}), "frame 3 of episode 0 cannot"),
        (lambda run: DreamEnv(run, **CPU).reset(options={"epsode": 0}), "no option 'epsode'.*episode"),
        (lambda run: DreamEnv(run, **CPU).step(0), "call reset before step"),
        (lambda run: DreamVectorEnv(run, 2, **CPU).reset(seed=[1]), "1 seeds were given for 2 dreams"),
    ],
)
def test_bad_input_is_one_sentence(run, call, sentence):
    """Guards tracebacks over settings, places and calls that cannot be."""
    with pytest.raises(UserError, match=sentence):
        call(run)


def test_a_run_without_heads_says_so(world_run):
    """Guards a dream without rewards and ends."""
    with pytest.raises(UserError, match="has no heads that read rewards and ends"):
        DreamEnv(world_run, **CPU)
