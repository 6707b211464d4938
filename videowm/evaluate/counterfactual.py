"""What if other actions had been taken: the dream against the real game, from the same seed and state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from videowm.data.dataset import Dataset
from videowm.data.recording import Recording
from videowm.evaluate.curves import MetricCurve
from videowm.evaluate.pictures import by_frame, psnr
from videowm.evaluate.reader import Reader, state_table
from videowm.evaluate.readings import standardised
from videowm.evaluate.reconstruction import reconstructed, through
from videowm.evaluate.rollouts import RolloutConfig, Start, roll, start_from, starting_points
from videowm.evaluate.scenes import PlayedScenes, Scenes, random_actions, with_future
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError
from videowm.vae.codec import to_float
from videowm.worlds import World

SPARE = 8  # starts tried for one that is wanted


@dataclass(frozen=True)
class Future:
    """What the real game did after a moment: the frame of that moment, then one for every action."""

    frames: np.ndarray  # uint8 "n+1 H W 3"
    states: np.ndarray  # float32 "n+1 k"


class Replay:
    """The real game of a recording, brought back to any moment of any episode.

    Raises:
        UserError: the dataset was not recorded here, its actions are from a source that the game does not know, or its
            world has no states.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.settings = dataset.recorded, Recording.read(dataset.root)
        if dataset.action_names != self.dataset.action_names:
            raise UserError(
                f"the game takes {', '.join(self.dataset.action_names)}, and the run was trained with actions="
                f"{dataset.source}: train one with actions=recorded to compare with the game"
            )
        self.world: World = self.settings.open()
        if not self.world.state_names:
            raise UserError(f"the world {self.world.name!r} has no states by which its game could be found again")
        self._seeds: dict[int, int] = {}

    def reset(self, episode: int) -> None:
        """The game at frame 0 of an episode.

        Raises:
            UserError: no game passes all recorded states of the episode.
        """
        if episode not in self._seeds:
            self._seeds[episode] = self.seed_of(episode)
        self.world.reset(self._seeds[episode])

    def seed_of(self, episode: int) -> int:
        """The seed of an episode's game: the first whose game passes all recorded states, since games may begin alike.

        Raises:
            UserError: no game passes all recorded states of the episode.
        """
        furthest, length = 0, int(self.dataset.lengths[episode])
        for seed in self.candidates(episode):
            furthest = max(furthest, agreed := self.agreement(episode, seed))
            if agreed == length:
                return seed
        raise UserError(
            f"episode {episode} of {self.dataset.root} cannot be played again, no game passes more than {furthest} of "
            f"its {length} recorded states: record it with this version of the game"
        )

    def agreement(self, episode: int, seed: int) -> int:
        """How many of an episode's states the game with `seed` passes under the recorded actions."""
        self.world.reset(seed)
        states, over = self.dataset.states(episode), False
        for frame, (state, action) in enumerate(zip(states, self.dataset.all_actions(episode), strict=True)):
            if not np.array_equal(self.world.state(), state):
                return frame
            over = over or self.world.step(action)[1]
            if over and (frame + 1 == len(states) or not self.world.shows_end):
                return frame + 1
        return len(states)

    def candidates(self, episode: int) -> Iterator[int]:
        """The game seeds that `record` may have used for this episode, in its order."""
        return self.settings.game_seeds(episode)

    def future(self, episode: int, frame: int, actions: Float[np.ndarray, "n a"]) -> Future | None:
        """The game after the recorded actions up to `frame`, then under `actions` "n a"; None where it ends before.

        Raises:
            UserError: no game passes all recorded states of the episode.
        """
        self.reset(episode)
        for action in self.dataset.all_actions(episode)[:frame]:
            self.world.step(action)
        frames, states = [self.world.render()], [self.world.state()]
        for action in actions:
            if self.world.step(action)[1]:
                return None
            frames.append(self.world.render())
            states.append(self.world.state())
        return Future(np.stack(frames), np.stack(states))

    def outcome(
        self, episode: int, frame: int, course: Float[np.ndarray, "n a"] | int, length: int, *, watch: bool
    ) -> tuple[np.ndarray, np.ndarray, int, np.ndarray | None]:
        """What a course of actions from a moment on does, also where it ends the game.

        Args:
            course: the actions, or a seed of the world's scripted player.
            length: how many actions.
            watch: whether frames are drawn.

        Returns:
            actions float32 "length a", the last one repeated behind an end; rewards float32 "length", 0 there; the
            number of the action that ended the game, counted from 1, or 0; frames uint8 "f H W 3" from the moment to
            the end.

        Raises:
            UserError: no game passes all recorded states of the episode.
        """
        self.reset(episode)
        for action in self.dataset.all_actions(episode)[:frame]:
            self.world.step(action)
        scripted = isinstance(course, int)
        source = self.world.driver(np.random.default_rng(course)) if scripted else iter(course)
        frames, taken, rewards, end = [self.world.render()] if watch else [], [], np.zeros(length, np.float32), 0
        while len(taken) < length and not end:
            taken.append(np.float32(next(source)))
            rewards[len(taken) - 1], over = self.world.step(taken[-1])
            if over:
                end = len(taken)
            elif watch:
                frames.append(self.world.render())
        taken += [taken[-1]] * (length - len(taken))
        actions = np.stack(taken) if scripted else course
        return actions, rewards, end, np.stack(frames) if watch else None

    def futures(self, episode: int, frame: int, several: list[Float[np.ndarray, "n a"]]) -> list[Future] | None:
        """The `future` of each of several courses of actions "n a"; None where one of them ends the game.

        Raises:
            UserError: no game passes all recorded states of the episode.
        """
        found = []
        for actions in several:
            if (future := self.future(episode, frame, actions)) is None:
                return None
            found.append(future)
        return found


def play_random(
    pipeline: WorldModelPipeline, replay: Replay, scenes: Scenes, config: RolloutConfig, count: int
) -> PlayedScenes:
    """The real game under the random actions of the scenes, in `count` of them, or fewer because games ended.

    Raises:
        UserError: no game lasts to the horizon, or an episode cannot be played again.
    """
    actions = random_actions(scenes.actions[:, scenes.context - 1 :], config.seed).numpy()
    clips, real = [], []
    for i in spread(len(actions), count):
        moment = int(scenes.first[i]) + scenes.context - 1
        if future := replay.future(int(scenes.episode[i]), moment, actions[i]):
            clips.append(i)
            real.append(future.frames[1:])
        if len(clips) == count:
            break
    if not clips:
        raise UserError(f"no start of {replay.dataset.root} lasts {scenes.horizon} frames under random actions: lower "
                        "the horizon")  # fmt: skip
    videos = torch.cat([scenes.truth[clips, : scenes.context], to_float(np.stack(real))], dim=1)
    return PlayedScenes(
        np.array(clips), reconstructed(videos, through(pipeline.codec), config.batch)[:, scenes.context :]
    )


def spread(total: int, count: int) -> list[int]:
    """0 … `total` - 1 in an order whose first `count`, and the next after them, lie all over the range."""
    step = -(-total // count)
    return [i for first in range(step) for i in range(first, total, step)]


@dataclass(frozen=True)
class ForcedRollouts:
    """Starts continued under one forced action, in the real game and in the dream; "b h 3 H W", the context cut off."""

    name: str
    real: Tensor
    decoded: Tensor  # the real future through the autoencoder
    dreamed: Tensor
    recorded: Tensor  # what the real game did under the recorded actions, through the autoencoder
    uninformed: Tensor  # the dream under the recorded actions
    repeat: Tensor  # the last context frame
    states: np.ndarray  # float32 "b h+1 s", the simulator's, from the last context frame on
    episode: np.ndarray


def forced_rollouts(
    pipeline: WorldModelPipeline, replay: Replay, config: RolloutConfig
) -> tuple[list[ForcedRollouts], int]:
    """Rollouts of every forced action, all of the same `clips` starts, and how many were left out because a game ended.

    Raises:
        UserError: a world without actions to force, or starts of fewer than two episodes that last to the horizon.
    """
    forced = replay.world.forced_actions(replay.world.action_names)
    if not forced:
        raise UserError(f"the world {replay.world.name!r} names no actions that could be forced: give its class some")
    kept, futures, left_out = lasting_starts(replay, config, list(forced.values()), pipeline.time_stride)
    if (lasting := len({episode for episode, _ in kept})) < 2:  # of one, nobody could say how sure its numbers are
        raise UserError(
            f"starts of {lasting} held-out episodes of {replay.dataset.root} last {config.horizon} frames under "
            f"{', '.join(forced)}, 2 are needed: lower the horizon, or hold out more episodes"
        )
    start = start_from(pipeline, replay.dataset, kept, config)
    unforced = reconstructed(start.frames, through(pipeline.codec), config.batch), roll(pipeline, start, config)
    made = [
        roll_forced(pipeline, start, config, name, unforced, torch.tensor(action), [real[i] for real in futures])
        for i, (name, action) in enumerate(forced.items())
    ]
    return made, left_out


def lasting_starts(
    replay: Replay, config: RolloutConfig, forced: list[tuple[float, ...]], stride: int
) -> tuple[list[tuple[int, int]], list[list[Future]], int]:
    """The starts whose games last to the horizon under every forced action, their futures, and how many do not.

    Of `SPARE` times as many held-out starts as `config` has clips the first that last are taken; fewer where fewer do.

    Raises:
        UserError: the context or the horizon does not fit the time stride, or an episode cannot be played again.
    """
    actions = [np.tile(np.float32(action), (config.horizon, 1)) for action in forced]
    where = starting_points(replay.dataset, replace(config, clips=SPARE * config.clips), stride)
    kept: list[tuple[int, int]] = []
    futures: list[list[Future]] = []
    left_out = 0
    for episode, first in (where[i] for i in spread(len(where), config.clips)):
        if (real := replay.futures(episode, first + config.context_frames - 1, actions)) is None:
            left_out += 1
            continue
        kept.append((episode, first))
        futures.append(real)
        if len(kept) == config.clips:
            break
    return kept, futures, left_out


def roll_forced(
    pipeline: WorldModelPipeline, start: Start, config: RolloutConfig, name: str,
    unforced: tuple[Float[Tensor, "b f 3 H W"], Float[Tensor, "b f 3 H W"]], action: Float[Tensor, " a"],
    futures: list[Future],
) -> ForcedRollouts:  # fmt: skip
    """The starts under one action "a", with `futures` of the real game, one a start.

    `unforced` are the real game, through the autoencoder, and the dream under the recorded actions: "b f 3 H W" in
    [-1, 1].
    """
    known = start.context_frames
    real = torch.cat([start.frames[:, :known], to_float(np.stack([f.frames[1:] for f in futures]))], dim=1)
    actions = with_future(start.actions, action.expand(1, config.horizon, -1), known)
    dreamed = roll(pipeline, replace(start, frames=real), config, actions)
    videos = (real, reconstructed(real, through(pipeline.codec), config.batch), dreamed, *unforced)
    repeat = real[:, known - 1 : known].expand(-1, config.horizon, -1, -1, -1)
    states = np.stack([future.states for future in futures])
    return ForcedRollouts(name, *(video[:, known:] for video in videos), repeat, states, start.episode)


def counterfactual(rollouts: list[ForcedRollouts], *, device: torch.device, batch: int = 16) -> Iterator[MetricCurve]:
    """PSNR of the dream against the real game under each forced action and over all of them, and what it gained.

    Ceiling: the real future through the autoencoder. Floor: the last context frame repeated. The gain is the PSNR in dB
    over the rollout that goes on under the recorded actions: a model that ignores its actions
    gains 0, and the ceiling is what the real game gains through the autoencoder.
    """
    curves = []
    for one in rollouts:
        values = {k: by_frame(psnr, getattr(one, k), one.real, device, batch)
                  for k in ("dreamed", "decoded", "recorded", "uninformed", "repeat")}  # fmt: skip
        bounds = {"ceiling": values["decoded"], "floor": values["repeat"]}
        most = values["decoded"] - values["recorded"]
        gained = {"ceiling": most, "floor": np.zeros_like(most)}
        curves.append((values["dreamed"], bounds, values["dreamed"] - values["uninformed"], gained, one.episode))
        yield MetricCurve(f"counterfactual/{one.name}_psnr", values["dreamed"], one.episode, bounds)
        yield MetricCurve(f"counterfactual/{one.name}_gain", curves[-1][2], one.episode, gained)
    psnrs, psnr_bounds, gains, gain_bounds, episodes = zip(*curves, strict=True)
    episode = np.concatenate(episodes)
    for name, parts, bounds in (("psnr", psnrs, psnr_bounds), ("gain", gains, gain_bounds)):
        whole = {k: np.concatenate([part[k] for part in bounds]) for k in bounds[0]}
        yield MetricCurve(f"counterfactual/{name}", np.concatenate(parts), episode, whole)


def counterfactual_state(
    rollouts: list[ForcedRollouts], reader: Reader, names: tuple[str, ...]
) -> Iterator[MetricCurve]:
    """Absolute error of each state column read off the dream, in its standard deviations, and the mean over columns.

    It is taken against the real game, over all forced actions. `names` are the recording's state columns.

    Ceilings: the reader's own error on the real future, through the autoencoder and as it is. Floor: the rollout
    that goes on under the recorded actions.
    """
    wanted, lag, skipped = reader.readable.state, reader.config.lag, len(reader.readable.actions)
    windows = rollouts[0].real.shape[1] - reader.config.frames + 1
    if not wanted or windows < 1:
        return
    videos = {"": "dreamed", "ceiling": "decoded", "ceiling_real": "real", "floor": "uninformed"}
    errors: dict[str, list[np.ndarray]] = {suffix: [] for suffix in videos}
    for one in rollouts:
        rows = np.stack([state_table(states, names, wanted)[1 + lag : 1 + lag + windows] for states in one.states])
        padded = np.concatenate([np.zeros((*rows.shape[:2], skipped)), rows], -1)
        true = standardised(reader, padded)[..., skipped:]
        for suffix, video in videos.items():
            read = standardised(reader, reader.read(getattr(one, video)))[..., skipped:]
            errors[suffix].append(np.abs(read - true))
    whole = {suffix: np.concatenate(parts) for suffix, parts in errors.items()}
    episode = np.concatenate([one.episode for one in rollouts])
    for name, columns in {**{n: [i] for i, n in enumerate(wanted)}, "state": list(range(len(wanted)))}.items():
        values = {suffix: error[..., columns].mean(-1) for suffix, error in whole.items()}
        own = values.pop("")
        yield MetricCurve(f"counterfactual/{name}_error", own, episode, values, 1 + lag)
