"""PPO (arXiv 1707.06347, stable-baselines3's update) on dreams that stay on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor, nn

from videowm.agents.agent import Agent
from videowm.agents.practice import Practice, mixed

STEPS = 16  # latent steps of every dream before an update
RESTART = 16  # updates after which all dreams begin anew, so that a checkpoint needs none of them
EPOCHS, BATCH = 4, 1024  # times that an update sees each step, and steps of a batch at most
GAMMA, GAE = 0.98, 0.95  # discount of a latent step, and lambda (arXiv 1506.02438)
RATE, LEAST = 1e-3, 0.05  # learning rate, which falls with the budget that is left, down to this share
ENTROPY = 0.01
WEIGHTS, DRAWS, BEGUN = 3, 4, 5  # what the seeds are for


class Extractor(BaseFeaturesExtractor):
    """The agent's own reading of an observation, shared by policy and value."""

    def __init__(self, space: spaces.Box, reads: nn.Module, features: int) -> None:
        super().__init__(space, features)
        self.reads = reads

    def forward(self, seen: Float[Tensor, "n o"]) -> Float[Tensor, "n i"]:
        """See `Agent.reads`."""
        return self.reads(seen)


class Policy(ActorCriticPolicy):
    """The library's own; under this name it does not advise against a GPU."""


class Rollouts:
    """What an update learns from, on the device; the library's own buffer is on the CPU.

    Attributes:
        values, returns: numpy, as the update reads them for its log.
    """

    def __init__(
        self, steps: int, observation_space: spaces.Box, action_space: spaces.Space, *, device: torch.device,
        gamma: float, gae_lambda: float, n_envs: int,
    ) -> None:  # fmt: skip
        self.gamma, self.gae, self.rows = gamma, gae_lambda, {}
        self.seen = torch.zeros(steps, n_envs, *observation_space.shape, device=device)
        self.values = self.returns = np.zeros(0)

    def put(self, step: int, seen: Float[Tensor, "n o"], **numbers: Tensor) -> None:
        """Keep one step of all dreams."""
        self.seen[step] = seen
        for name, value in numbers.items():
            if name not in self.rows:
                self.rows[name] = torch.zeros(len(self.seen), *value.shape, dtype=value.dtype, device=value.device)
            self.rows[name][step] = value

    def finish(self, last: Float[Tensor, " n"]) -> None:
        """Advantages and returns (arXiv 1506.02438, equation 16), from the value of what is seen last.

        An end counts by its probability, as in Dreamer (arXiv 1912.01603), whether or not it was drawn: less chance.
        Where it was drawn the value of what would have come is that of what was seen.
        """
        reward, value, over, alive = (self.rows[name] for name in ("reward", "value", "over", "alive"))
        advantage, later = torch.zeros_like(value), torch.zeros_like(last)
        for step in reversed(range(len(value))):
            following = torch.where(over[step], value[step], last)
            delta = reward[step] + self.gamma * alive[step] * following - value[step]
            later = advantage[step] = delta + self.gamma * self.gae * alive[step] * ~over[step] * later
            last = value[step]
        self.rows |= {"advantage": advantage, "return": advantage + value}
        self.values, self.returns = value.cpu().numpy(), (advantage + value).cpu().numpy()

    def get(self, batch: int) -> Iterator[RolloutBufferSamples]:
        """All steps once, in random batches."""
        names = ("action", "value", "log_prob", "advantage", "return")
        seen, *rows = (x.flatten(0, 1) for x in (self.seen, *(self.rows[name] for name in names)))
        for chosen in torch.randperm(len(seen), device=seen.device).split(batch):
            yield RolloutBufferSamples(seen[chosen], *(x[chosen] for x in rows))


class Improvement:
    """Learns by updates of a stochastic policy; the agent takes what the policy finds best.

    Attributes:
        rounds: updates so far.
        steps: latent steps of all dreams so far.
    """

    def __init__(self, agent: Agent, practice: Practice) -> None:
        self.agent, self.practice = agent, practice
        self.rounds = self.steps = 0
        self.begun = False
        self.lived, self.earned = np.zeros(practice.count, np.int64), np.zeros(practice.count)
        self.finished: list[tuple[float, int]] = []  # return and length of dreams since all began anew
        torch.manual_seed(mixed(practice.seed, WEIGHTS))
        self.ppo = ppo_of(agent, practice.count)
        about = practice.heads.config  # a step's reward has about the size 1, a dream's sum likewise
        self.scale = (1 - GAMMA) / max(1e-6, (about.reward_mean**2 + about.reward_std**2) ** 0.5)

    @property
    def at_rest(self) -> bool:
        """Whether a checkpoint can be written now: where all dreams begin anew."""
        return self.rounds % RESTART == 0

    def advance(self, left: float = 1.0) -> dict[str, float]:
        """Dream on and update once, with a share of the budget left.

        Returns:
            the mean return and frames of the dreams that are over since all began anew, and how many more are.
        """
        torch.manual_seed(mixed(self.practice.seed, DRAWS, self.rounds))
        self.practice.reseed(BEGUN, self.rounds)
        if self.at_rest or not self.begun:
            self.practice.again()
            self.begun = True
            self.lived[:], self.earned[:] = 0, 0
            self.finished.clear()
        self.ppo.policy.set_training_mode(False)
        before = len(self.finished)
        for step in range(STEPS):
            self.dream(step)
        rollouts: Rollouts = self.ppo.rollout_buffer
        with torch.no_grad():
            rollouts.finish(self.ppo.policy.predict_values(self.practice.seen(self.agent)).flatten())
        self.ppo._current_progress_remaining = left
        self.ppo.train()
        self.rounds += 1
        self.steps += STEPS * self.practice.count
        returns, lengths = np.mean(self.finished, 0) if self.finished else (np.nan, np.nan)
        return {
            "return": float(returns),
            "episodes": len(self.finished) - before,
            "frames": float(lengths * self.practice.stride),
        }

    @torch.no_grad()
    def dream(self, step: int) -> None:
        """One latent step of all dreams; those that are over begin anew."""
        practice, policy = self.practice, self.ppo.policy
        seen = practice.seen(self.agent)
        action, value, log_prob = policy(seen)
        take = self.agent.named if self.agent.config.names else self.agent.scaled
        made = practice.step(practice.held(take(action)))
        self.lived += 1
        self.earned += made.reward
        ended = made.end > 0
        cut = ~ended & (self.lived >= practice.horizon)
        numbers = {
            "reward": (made.reward * self.scale).astype(np.float32),
            "alive": 1 - made.chance,
            "over": ended | cut,
        }
        self.ppo.rollout_buffer.put(step, seen, action=action, value=value.flatten(), log_prob=log_prob,
                                    **{name: torch.from_numpy(x).to(seen.device) for name, x in numbers.items()}
                                    )  # fmt: skip
        rows = np.flatnonzero(ended | cut)
        if len(rows):
            self.finished += zip(self.earned[rows].tolist(), self.lived[rows].tolist())
            practice.again(rows.tolist())
            self.lived[rows], self.earned[rows] = 0, 0

    def finish(self) -> None:
        """Give the agent the policy's network; it already has its reading of observations."""
        policy = self.ppo.policy
        self.agent.body.load_state_dict(policy.mlp_extractor.policy_net.state_dict())
        self.agent.head.load_state_dict(policy.action_net.state_dict())

    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint needs: the policy, and the optimiser's averages of every parameter."""
        weights = {f"policy.{name}": tensor for name, tensor in self.ppo.policy.named_parameters()}
        averages = self.ppo.policy.optimizer.state_dict()["state"]
        return weights | {f"adam.{i}.{name}": x for i, one in averages.items() for name, x in one.items()}

    def restore(self, state: dict[str, Tensor], rounds: int, steps: int) -> None:
        """Go on where a checkpoint was written."""
        policy, averages = self.ppo.policy, {}
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                parameter.copy_(state[f"policy.{name}"])
        for name, x in state.items():
            if name.startswith("adam."):
                _, i, what = name.split(".")
                averages.setdefault(int(i), {})[what] = x
        policy.optimizer.load_state_dict({**policy.optimizer.state_dict(), "state": averages})
        self.rounds, self.steps = rounds, steps


def ppo_of(agent: Agent, rows: int) -> PPO:
    """The library's algorithm with the agent's network; its loop and its buffer are ours."""
    hidden = [agent.config.hidden] * 2
    about: dict[str, Any] = {
        "features_extractor_class": Extractor,
        "features_extractor_kwargs": {"reads": agent.reads, "features": agent.width},
        "net_arch": {"pi": hidden if agent.config.kind == "mlp" else [], "vf": hidden},
        "activation_fn": nn.Tanh, "log_std_init": -0.5,
    }  # fmt: skip
    ppo = PPO(Policy, None, lambda left: RATE * max(left, LEAST), n_steps=STEPS, n_epochs=EPOCHS,
              batch_size=min(BATCH, max(2, rows * STEPS // 4)), gamma=GAMMA, gae_lambda=GAE, ent_coef=ENTROPY,
              rollout_buffer_class=Rollouts, policy_kwargs=about, device=agent.device,
              _init_setup_model=False)  # fmt: skip
    ppo.n_envs, size = rows, sum(agent.config.sizes)
    ppo.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
    named = len(agent.config.names)
    ppo.action_space = spaces.Discrete(named) if named else spaces.Box(-1, 1, (agent.config.outputs,), np.float32)
    ppo._setup_model()
    nn.init.zeros_(ppo.policy.value_net.weight)  # rewards are small beside what an untrained network would expect
    ppo.set_logger(Logger(None, []))
    return ppo
