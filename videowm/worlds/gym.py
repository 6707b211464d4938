"""Any gymnasium environment as a world: `gym:CartPole-v1`, or `gym:package:Env-v0`, which imports the package first."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import random
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from videowm.config import suggest
from videowm.limits import frame_size
from videowm.types import UserError, first_line
from videowm.worlds.base import HELD, World, discovered
from videowm.worlds.gym_actions import Columns, columns_of, named_actions
from videowm.worlds.gym_policy import Policy, import_from_here, open_policy

PREFIX = "gym:"
PACKAGES = {"ALE": "ale_py", "BabyAI": "minigrid"}  # first word of an id -> what registers it, where names differ
SIDE, MULTIPLE = 64, 16  # pixels: the shorter side, and what the longer one is a multiple of, where no size is given
LARGEST_STATE = 4096  # numbers of one part of the state
FPS = 10.0  # of an environment that names no frame rate


@cache
def gym_class(name: str) -> type[World]:
    """The class of the world `gym:ID`. Whether there is such an environment is seen when it is opened."""
    return type("GymWorld", (GymWorld,), {"name": name, "__module__": __name__})


class GymWorld(World):
    """A gymnasium environment. It is made anew for every episode, since many keep something of the one before.

    So an episode is a function of its seed alone. The environment is opened once when the world is, to see its spaces.

    Args:
        frame_skip: environment steps a frame; rewards are added up.
        size: "HxW" pixels of a frame; None: the shorter side 64, the longer one in proportion, a multiple of 16.
        policy: "random", "module:function" or a .zip of stable-baselines3.
        hold: frames at most that a random action is held; 1: a new one every frame.
        state: what is recorded as state, with commas between: keys of the environment's `info`, "observation", keys
            of a dict observation, or attributes of the environment such as "agent_pos".
        image: "render", "observation", or the key of a dict observation that is the picture.
        trust: whether a policy that holds code may be loaded.
        make: arguments of `gymnasium.make`, and `more` of them by name.

    Raises:
        UserError: there is no such environment, or it cannot be recorded like this.
    """

    shows_end = True

    def __init__(self, frame_skip: int = 1, *, size: str | None = None, policy: str = "random", hold: int = HELD,
                 state: str = "", image: str = "render", trust: bool = False, make: dict[str, Any] | None = None,
                 **more: Any) -> None:  # fmt: skip
        self.frame_skip, self.policy, self.hold, self.image, self.trust = frame_skip, policy, hold, image, trust
        if type(hold) is not int or hold < 1:
            raise UserError(f"hold {hold!r} cannot be used: give the most frames that an action is held, 1 or more")
        self._make = (make or {}) | more
        self._state = [key.strip() for key in str(state).split(",") if key.strip()]
        self._env: Any = None
        self._policy: Policy | None = None
        self._open(0)
        base = self._env.unwrapped
        self._columns: Columns = columns_of(self._env.action_space, meanings(base))
        self.action_names = self._columns.names
        self.NAMED_ACTIONS = named_actions(self.action_names)
        rate = (getattr(self._env, "metadata", None) or {}).get("render_fps") or FPS
        self.fps = float(rate) / frame_skip
        limit = getattr(self._env.spec, "max_episode_steps", None)
        self.longest = None if limit is None else -(-limit // frame_skip)
        native = self._picture().shape[:2]
        self.size = proportional(native) if size is None else frame_size(str(size))
        self.state_names = tuple(name for key in self._state for name in element_names(key, self._numbers(key)))

    @classmethod
    def named_actions(cls, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
        return named_actions(names) if (found := discovered(names)) is None else found

    def reset(self, seed: int) -> None:
        self._open(seed)

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """The action is what the environment gets; an episode that is cut off is over, as one that is won or lost."""
        taken, total = self._columns.action(np.asarray(action, np.float32)), 0.0
        for _ in range(self.frame_skip):
            with failing(self.name, "step"):
                self._observation, reward, ended, cut, self._info = self._env.step(taken)
            total += float(reward)
            if ended or cut:
                return total, True
        return total, False

    def render(self) -> np.ndarray:
        """The environment's picture, each pixel the mean of the area that it covers."""
        picture = self._picture()
        if picture.shape[:2] == self.size:
            return picture
        return np.asarray(Image.fromarray(picture).resize(self.size[::-1], Image.Resampling.BOX))

    def state(self) -> np.ndarray:
        """As `World.state`.

        Raises:
            UserError: a part is gone, no number any more, or of another size than at first.
        """
        parts = [self._numbers(key) for key in self._state]
        values = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        if len(values) != len(self.state_names):
            raise UserError(f"the state of {self.name} has {len(values)} numbers, {len(self.state_names)} at first: "
                            "leave out of --state what changes its size")  # fmt: skip
        return values

    def driver(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """The policy's actions; random ones are drawn from the action space and held for a few frames."""
        columns = self._columns
        if self.policy == "random":
            columns.space.seed(int(rng.integers(2**31)))
            while True:
                yield from [columns.vector(columns.space.sample())] * int(rng.integers(1, self.hold + 1))
        if self._policy is None:
            self._policy = open_policy(self.policy, trust=self.trust)
        while True:
            yield columns.vector(self._chosen(self._policy, rng))

    def random(self, rng: np.random.Generator) -> np.ndarray:
        """As the environment's own action space draws."""
        self._columns.space.seed(int(rng.integers(2**31)))
        return self._columns.vector(self._columns.space.sample())

    def _chosen(self, policy: Policy, rng: np.random.Generator) -> Any:
        """What the policy does now."""
        try:
            return policy(self._observation, self._info, rng)
        except Exception as error:  # noqa: BLE001 - a user's function raises whatever it likes
            raise UserError(f"policy {self.policy} failed on {self.name} ({type(error).__name__}: "
                            f"{first_line(error)}): correct it") from error  # fmt: skip

    def _open(self, seed: int) -> None:
        """A new environment, at the start of the episode `seed`."""
        if self._env is not None:
            self._env.close()
        np.random.seed(seed)  # some environments draw from the global generators
        random.seed(seed)
        self._env = make(self.name.removeprefix(PREFIX), render=self.image == "render", arguments=self._make)
        with failing(self.name, "reset"), quietly():
            self._observation, self._info = self._env.reset(seed=seed)

    def _picture(self) -> np.ndarray:
        """The environment's own picture, uint8 "H W 3"."""
        observation = self._observation
        if self.image == "render":
            with failing(self.name, "draw"):
                picture = self._env.render()
            return colours(picture, f"the picture of {self.name}")
        if self.image != "observation":
            keys = list(observation) if isinstance(observation, dict) else []
            if self.image not in keys:
                known = suggest(self.image, ["render", "observation", *keys])
                raise UserError(f"{self.name} has no image {self.image!r}{known}")
            observation = observation[self.image]
        return colours(observation, f"the image {self.image!r} of {self.name}")

    def _numbers(self, key: str) -> np.ndarray:
        """One part of the state, float32 "n"."""
        observed = self._observation if isinstance(self._observation, dict) else {}
        found = {"observation": self._observation} | observed | self._info
        try:
            value = found[key] if key in found else attribute(self._env.unwrapped, key)
            numbers = np.asarray(value)
            if numbers.dtype.kind not in "biuf" or numbers.size > LARGEST_STATE:
                raise TypeError
        except AttributeError:
            raise UserError(f"{self.name} has no state {key!r}{suggest(key, found)}, or name an attribute") from None
        except (TypeError, ValueError):
            raise UserError(f"the state {key!r} of {self.name} is no number, and no {LARGEST_STATE} or fewer: "
                            "leave it out of --state") from None  # fmt: skip
        return numbers.astype(np.float32).ravel()


def make(env_id: str, *, render: bool, arguments: dict[str, Any]) -> Any:
    """A new environment of gymnasium.

    Raises:
        UserError: gymnasium, its package or the environment is not there, or it does not take the arguments.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise UserError(f"gym:{env_id} needs gymnasium ({error}): pip install gymnasium") from None
    without_display()
    import_from_here()
    package, _, plain = env_id.rpartition(":")
    try:
        with quietly():
            if not package and plain not in gymnasium.registry:
                import_likely(plain)
            pictures = {"render_mode": "rgb_array"} if render else {}
            return gymnasium.make(env_id, disable_env_checker=True, **pictures | arguments)
    except ModuleNotFoundError as error:
        if package and importlib.util.find_spec(package.split(".")[0]) is None:
            raise UserError(f"gym:{env_id} needs the package {package!r}, which is not installed: install it, or "
                            "start in the folder where it is") from None  # fmt: skip
        raise UserError(f"gym:{env_id} cannot be made ({first_line(error)}): install what it needs") from None
    except gymnasium.error.UnregisteredEnv:
        known = suggest(plain, gymnasium.registry) if len(gymnasium.registry) else ""
        known = known if known.startswith(", did") else ": install its package, and write gym:package:ID"
        raise UserError(f"no environment {plain!r} is registered{known}") from None
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError(f"gym:{env_id} cannot be made: {first_line(error)}") from None
    except Exception as error:  # noqa: BLE001 - an environment raises whatever it likes
        raise UserError(f"gym:{env_id} cannot be made ({type(error).__name__}: {first_line(error)}): correct its id "
                        "and --world-args") from None  # fmt: skip


def without_display() -> None:
    """Have simulators draw without a window where there is no display, unless the user chose how."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
        os.environ.setdefault("MUJOCO_GL", "egl")


def import_likely(env_id: str) -> None:
    """Import the package that the first word of an id names, if it is installed: it registers its environments."""
    word = re.split("[/-]", env_id)[0]
    for package in (PACKAGES.get(word, word), word.lower()):
        if package.isidentifier() and importlib.util.find_spec(package):
            importlib.import_module(package)
            return


@contextlib.contextmanager
def failing(name: str, what: str) -> Iterator[None]:
    """What an environment raises, as one sentence.

    Raises:
        UserError: it raised something.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - an environment raises whatever it likes
        lacking = "; without a display, MUJOCO_GL=egl or osmesa may help" if "mujoco" in str(type(error)) else ""
        raise UserError(f"{name} cannot {what} ({type(error).__name__}: {first_line(error)}): correct the environment"
                        f" or its --world-args{lacking}") from error  # fmt: skip


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without warnings, and without what libraries write on stderr when they start: they do so for every episode."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def meanings(base: Any) -> Sequence[str]:
    """Words for the actions: Atari's method, or MiniGrid's enumeration; none where there are none."""
    if hasattr(base, "get_action_meanings"):
        return base.get_action_meanings()
    listed = getattr(base, "actions", None)
    return [action.name for action in listed] if isinstance(listed, type) and issubclass(listed, Enum) else ()


def attribute(base: Any, path: str) -> Any:
    """An attribute of an environment by its dotted name."""
    for name in path.split("."):
        base = getattr(base, name)
    return base


def element_names(key: str, numbers: np.ndarray) -> list[str]:
    """Names of the numbers of one part of the state."""
    return [key] if len(numbers) == 1 else [f"{key}_{i}" for i in range(len(numbers))]


def proportional(native: tuple[int, int]) -> tuple[int, int]:
    """The size (H, W) of a frame of which only the environment's own is known."""
    shorter = min(native)
    return tuple(SIDE if side == shorter else max(SIDE, round(SIDE * side / shorter / MULTIPLE) * MULTIPLE)
                 for side in native)  # fmt: skip


def colours(picture: Any, what: str) -> np.ndarray:
    """A picture, grey or coloured, as uint8 "H W 3"; channels may come first, and a fourth one is left out.

    Raises:
        UserError: it is no picture of uint8.
    """
    array = np.asarray(picture)
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or array.dtype != np.uint8:
        raise UserError(f"{what} is {array.dtype} {np.shape(picture)}, expected uint8 (H, W, 3): name another --image "
                        "or an environment that draws")  # fmt: skip
    array = array.repeat(3, -1) if array.shape[-1] == 1 else array[..., :3]
    return np.ascontiguousarray(array)
