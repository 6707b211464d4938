"""Who plays a gymnasium environment: chance, a function of the user's, or a saved agent of stable-baselines3."""

from __future__ import annotations

import importlib
import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from videowm.types import UserError, first_line

# (observation, info, random numbers) -> an action of the environment's own
Policy = Callable[[Any, dict[str, Any], np.random.Generator], Any]
# A key that only this algorithm of stable-baselines3 saves, in the order in which they are looked for.
ALGORITHMS = {"clip_range": "PPO", "gae_lambda": "A2C", "exploration_fraction": "DQN", "ent_coef": "SAC",
              "policy_delay": "TD3"}  # fmt: skip


def open_policy(name: str, *, trust: bool) -> Policy:
    """The policy called `name`: "module:function", or the path of a .zip of stable-baselines3.

    Raises:
        UserError: it is neither, cannot be imported or loaded, or is a .zip that was not declared trusted.
    """
    if name.endswith(".zip"):
        return saved_agent(Path(name), trust=trust)
    module, colon, function = name.partition(":")
    if not colon or not module or not function:
        raise UserError(f"policy {name!r} is unknown: give random, module:function, or a .zip of stable-baselines3")
    import_from_here()
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # noqa: BLE001 - a user's module raises whatever it likes
        raise UserError(f"policy {name!r} cannot be imported ({type(error).__name__}: {first_line(error)}): give "
                        "module:function of a file here or of an installed package") from None  # fmt: skip
    if not callable(found):
        raise UserError(f"policy {name!r} is {found!r}, expected a function (observation, info, rng) -> action")
    return found


def import_from_here() -> None:
    """Modules of the present folder can be imported, as under `python -m`."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())


def saved_agent(path: Path, *, trust: bool) -> Policy:
    """A saved agent, which draws its actions from its own distribution.

    Raises:
        UserError: it was not declared trusted, stable-baselines3 is not installed, or the file is damaged.
    """
    if not trust:
        raise UserError(f"{path} holds code that runs when it is loaded: if you know who made it, add --trust, or "
                        "play.trust=true to a training")  # fmt: skip
    try:
        with zipfile.ZipFile(path) as archive:
            saved = json.loads(archive.read("data"))
        algorithm = next(name for key, name in ALGORITHMS.items() if key in saved)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, StopIteration):
        known = ", ".join(ALGORITHMS.values())
        raise UserError(f"{path} is no agent of stable-baselines3 ({known}): give a file of its save()") from None
    try:
        import stable_baselines3
    except ImportError:
        raise UserError(f"{path} needs stable-baselines3: pip install stable-baselines3") from None
    try:
        agent = getattr(stable_baselines3, algorithm).load(path, device="cpu")
    except Exception as error:  # noqa: BLE001 - unpickling raises whatever it likes
        raise UserError(f"{path} cannot be loaded ({type(error).__name__}: {first_line(error)}): save the agent with "
                        "the installed versions") from None  # fmt: skip
    return drawn_from(agent)


def drawn_from(agent: Any) -> Policy:
    """An agent's actions, drawn with torch's and the space's random numbers, which are seeded for every action."""
    import torch

    def policy(observation: Any, info: dict[str, Any], rng: np.random.Generator) -> Any:
        seed = int(rng.integers(2**31))
        agent.action_space.seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return agent.predict(observation, deterministic=False)[0]

    return policy
