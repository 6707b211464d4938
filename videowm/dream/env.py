"""`DreamEnv` and `DreamVectorEnv`: act in a world model through gymnasium's interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from videowm import config as configuration
from videowm.dream.rows import DreamConfig, Dreams
from videowm.types import UserError
from videowm.worlds import find_world

BOUNDS = 64  # recorded episodes whose actions bound the numbers of an action


class Actions:
    """The space of one environment's actions, and what they are in the game.

    Named actions are numbered in the world's order. An action of numbers lies within what was recorded. With
    `action="frame"` there are k of either, one for each frame of the latent step.
    """

    def __init__(self, dreams: Dreams) -> None:
        config, names = dreams.config, dreams.pipeline.trained_on.action_names
        world = find_world(dreams.pipeline.trained_on.world)
        named = world.named_actions(names) if world else {}
        self.stride, self.each = dreams.stride, config.action == "frame"
        if config.actions == "named" and not named:
            raise UserError(f"the world {dreams.pipeline.trained_on.world!r} names no actions: give actions='box'")
        self.names = list(named) if config.actions != "box" else []
        self.table = np.array(list(named.values()), np.float32)
        if self.names:
            count = len(self.names)
            self.space = spaces.MultiDiscrete([count] * self.stride) if self.each else spaces.Discrete(count)
        else:
            self.space = self.box(dreams)

    def box(self, dreams: Dreams) -> spaces.Box:
        """Numbers within those of some recorded episodes."""
        taken = np.concatenate([dreams.dataset.all_actions(e) for e in dreams.episodes[:BOUNDS]])
        low, high = taken.min(0), np.maximum(taken.max(0), taken.min(0) + 1e-3)
        if self.each:
            low, high = (np.tile(values, (self.stride, 1)) for values in (low, high))
        return spaces.Box(low, high, dtype=np.float32)

    def of(self, given: np.ndarray, rows: int) -> np.ndarray:
        """The game's actions of every row, float32 "n k a"."""
        actions = self.table[np.asarray(given)] if self.names else np.asarray(given, np.float32)
        return actions if self.each else np.repeat(actions.reshape(rows, 1, -1), self.stride, axis=1)


def observation_space(dreams: Dreams) -> spaces.Space:
    """The space of one environment's observations."""
    shape = dreams.pipeline.transformer.config
    latents = spaces.Box(-np.inf, np.inf, (shape.channels, shape.height, shape.width), np.float32)
    if dreams.config.observation == "frames":
        return spaces.Box(0, 255, (*dreams.dataset.size, 3), np.uint8)
    if dreams.config.observation == "latents":
        return latents
    model = dreams.pipeline.transformer
    memory = spaces.Box(-np.inf, np.inf, (model.tokens, model.hidden), np.float32)
    return spaces.Dict({"latents": latents, "memory": memory})


def observed(dreams: Dreams) -> Any:
    """What all rows see now, copied."""
    if dreams.config.observation == "frames":
        return dreams.frame.copy()
    latents = dreams.latents.cpu().numpy().copy()
    if dreams.config.observation == "latents":
        return latents
    return {"latents": latents, "memory": dreams.memory.cpu().numpy().copy()}


def row_of(observation: Any, row: int) -> Any:
    """One row's observation."""
    if isinstance(observation, dict):
        return {name: values[row] for name, values in observation.items()}
    return observation[row]


def opened(run: str | Path, rows: int, data: str | Path | None, device: str | None, render_mode: str | None,
           settings: Mapping[str, Any]) -> Dreams:  # fmt: skip
    """The dreams of an environment.

    Raises:
        UserError: a setting is unknown or out of range, or the run has no heads.
    """
    if render_mode not in (None, "rgb_array"):
        raise UserError(f"render_mode {render_mode!r} is none of a dream: give 'rgb_array' or None")
    config = configuration.build(DreamConfig, dict(settings), where="the dream's settings")
    frames = config.observation == "frames" or render_mode is not None
    return Dreams(run, config, rows, data=data, frames=frames, device=device)


class DreamEnv(gymnasium.Env):
    """One dream. A step is one latent step, thus k frames: its reward is their sum.

    Args:
        run: a finished world model with heads.
        data: recording that dreams begin in; None: that of the training.
        device: None: a GPU where there is one.
        render_mode: "rgb_array", or None.
        settings: fields of `DreamConfig`.

    Raises:
        UserError: the run is not finished or has no heads, or a setting cannot be used.

    Example:
        >>> env = DreamEnv("runs/world", observation="latents")
        >>> observation, info = env.reset(seed=0, options={"episode": 3, "frame": 40})
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self, run: str | Path, *, data: str | Path | None = None, device: str | None = None,
        render_mode: str | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        self.dreams = opened(run, 1, data, device, render_mode, settings)
        self.render_mode = render_mode
        self.metadata = self.metadata | {"render_fps": self.dreams.dataset.fps / self.dreams.stride}
        self.actions = Actions(self.dreams)
        self.action_space, self.observation_space = self.actions.space, observation_space(self.dreams)
        self.steps, self.over = 0, True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a dream from a real moment; `options` may name its "episode" and "frame".

        Raises:
            UserError: no dream can begin there.
        """
        super().reset(seed=seed)
        ((episode, frame),) = self.dreams.begin([0], [self.np_random], [options])
        self.steps, self.over = 0, False
        return row_of(observed(self.dreams), 0), {"episode": episode, "frame": frame}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One latent step; it terminates where the game ends in it, and is truncated at the horizon.

        Raises:
            UserError: the dream is over, or the action is not in the action space.
        """
        if self.over:
            raise UserError("this dream is over or was not begun: call reset before step")
        if not self.action_space.contains(action):
            raise UserError(f"the action {action!r} is not in {self.action_space}: give one of that space")
        made = self.dreams.step(self.actions.of(np.asarray(action)[None], 1))
        self.steps += 1
        terminated = bool(made.end[0])
        truncated = not terminated and self.steps >= self.dreams.horizon
        self.over = terminated or truncated
        info = {"end": int(made.end[0]), "end_probability": float(made.death[0])}
        return row_of(observed(self.dreams), 0), float(made.reward[0]), terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """The newest frame, uint8 "H W 3"; None without a render mode."""
        return None if self.render_mode is None else self.dreams.frame[0].copy()


class DreamVectorEnv(gymnasium.vector.VectorEnv):
    """Many dreams in one batch; each begins anew in the step in which it ended, and the others go on.

    The observation is then the new dream's, and `infos["final_obs"]` has what was last seen of the old one. No step
    goes from one to the other. Row i with seed s draws what a `DreamEnv` with seed s + i draws, up to rounding.

    Args:
        run, data, device, render_mode, settings: as of `DreamEnv`.
        num_envs: dreams.

    Raises:
        UserError: as `DreamEnv`.
    """

    metadata = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(
        self, run: str | Path, num_envs: int = 1, *, data: str | Path | None = None, device: str | None = None,
        render_mode: str | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        self.dreams = opened(run, num_envs, data, device, render_mode, settings)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.actions = Actions(self.dreams)
        self.single_action_space, self.single_observation_space = self.actions.space, observation_space(self.dreams)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.randoms = [seeding.np_random()[0] for _ in range(num_envs)]
        self.steps = np.zeros(num_envs, np.int64)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin all dreams anew; an "episode" or "frame" of `options` holds for all.

        Raises:
            UserError: no dream can begin there, or there is not one seed a dream.
        """
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        if seeds is not None and len(seeds) != self.num_envs:
            raise UserError(f"{len(seeds)} seeds were given for {self.num_envs} dreams: give one, or one for each")
        if seeds is not None:
            self.randoms = [seeding.np_random(one)[0] for one in seeds]
        places = self.dreams.begin(range(self.num_envs), self.randoms, [options] * self.num_envs)
        self.steps[:] = 0
        episode, frame = np.array(places).T
        return observed(self.dreams), {"episode": episode, "frame": frame}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One latent step of all dreams.

        Raises:
            UserError: no dream was begun.
        """
        if self.dreams.stream is None:
            raise UserError("these dreams were not begun: call reset before step")
        made = self.dreams.step(self.actions.of(actions, self.num_envs))
        self.steps += 1
        terminated = made.end > 0
        truncated = ~terminated & (self.steps >= self.dreams.horizon)
        infos = {"end": made.end, "end_probability": made.death}
        over = np.flatnonzero(terminated | truncated).tolist()
        if over:
            infos |= self.begin_anew(over)
        return observed(self.dreams), made.reward.astype(np.float64), terminated, truncated, infos

    def begin_anew(self, rows: list[int]) -> dict[str, Any]:
        """Begin some dreams anew; what was last seen of them, as gymnasium's own vector environments say it."""
        last, mask = observed(self.dreams), np.zeros(self.num_envs, bool)
        final = np.full(self.num_envs, None, object)
        for row in rows:
            mask[row], final[row] = True, row_of(last, row)
        self.dreams.begin(rows, [self.randoms[row] for row in rows], [None] * len(rows))
        self.steps[rows] = 0
        return {"final_obs": final, "_final_obs": mask}

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The newest frame of every dream, uint8 "H W 3" each; None without a render mode."""
        return None if self.render_mode is None else tuple(self.dreams.frame.copy())
