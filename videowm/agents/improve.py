"""PPO (arXiv 1707.06347, stable-baselines3's update) on dreams that stay on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
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
EPOCHS, BATCHES = 4, 8  # times that an update sees each step, and batches of each time
GAMMA, GAE = 0.98, 0.95  # discount of a latent step, and lambda (arXiv 1506.02438)
RATE, LEAST = 5e-4, 0.05  # learning rate, which falls with the budget that is left, down to this share
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
        """Advantages and returns (arXiv 1506.02438, equation 16), from the value of what is seen last."""
        reward, value, over = (self.rows[name] for name in ("reward", "value", "over"))
        advantage, later = torch.zeros_like(value), torch.zeros_like(last)
        for step in reversed(range(len(value))):
            goes_on = (~over[step]).float()
            delta = reward[step] + self.gamma * goes_on * last - value[step]
            later = advantage[step] = delta + self.gamma * self.gae * goes_on * later
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
        torch.manual_seed(mixed(practice.seed, WEIGHTS))
        self.ppo = ppo_of(agent, practice.count)
        about = practice.heads.config  # a step's reward has about the size 1, a dream's sum likewise
        self.scale = (1 - GAMMA) / max(1e-6, (about.reward_mean**2 + about.reward_std**2) ** 0.5)

    @property
    def at_rest(self) -> bool:
        """Whether a checkpoint can be written now: where all dreams begin anew."""
        return self.rounds % RESTART == 0

    def advance(self, left: float = 1.0) -> dict[str, float]:
        """Dream on and update once; `left` is the share of the budget that is left. Returns what dreams earned."""
        torch.manual_seed(mixed(self.practice.seed, DRAWS, self.rounds))
        self.practice.reseed(BEGUN, self.rounds)
        if self.at_rest or not self.begun:
            self.practice.again()
            self.begun = True
            self.lived[:], self.earned[:] = 0, 0
        self.ppo.policy.set_training_mode(False)
        finished = [one for step in range(STEPS) for one in self.dream(step)]
        rollouts: Rollouts = self.ppo.rollout_buffer
        with torch.no_grad():
            rollouts.finish(self.ppo.policy.predict_values(self.practice.seen(self.agent)).flatten())
        self.ppo._current_progress_remaining = left
        self.ppo.train()
        self.rounds += 1
        self.steps += STEPS * self.practice.count
        returns, lengths = np.array(finished).reshape(-1, 2).mean(0) if finished else (np.nan, np.nan)
        return {"return": float(returns), "episodes": len(finished), "frames": float(lengths * self.practice.stride)}

    @torch.no_grad()
    def dream(self, step: int) -> list[tuple[float, int]]:
        """One latent step of all dreams; the return and the length of each that is over."""
        practice, policy = self.practice, self.ppo.policy
        seen = practice.seen(self.agent)
        action, value, log_prob = policy(seen)
        take = self.agent.named if self.agent.config.names else self.agent.scaled
        made = practice.step(practice.held(take(action)))
        self.lived += 1
        self.earned += made.reward
        ended = made.end > 0
        cut = ~ended & (self.lived >= practice.horizon)
        reward = torch.from_numpy(made.reward * self.scale).float().to(seen.device)
        if cut.any():  # what would have come is what the policy expects
            later = policy.predict_values(practice.seen(self.agent)).flatten()
            reward += GAMMA * later * torch.from_numpy(cut).to(seen.device)
        over = torch.from_numpy(ended | cut).to(seen.device)
        self.ppo.rollout_buffer.put(step, seen, action=action, value=value.flatten(), log_prob=log_prob,
                                    reward=reward, over=over)  # fmt: skip
        return self.begin_anew(ended | cut)

    def begin_anew(self, over: Bool[np.ndarray, " n"]) -> list[tuple[float, int]]:
        """Begin the dreams that are over anew; the return and the length of each."""
        rows = np.flatnonzero(over)
        finished = list(zip(self.earned[rows].tolist(), self.lived[rows].tolist()))
        if len(rows):
            self.practice.again(rows.tolist())
            self.lived[rows], self.earned[rows] = 0, 0
        return finished

    def finish(self) -> None:
        """Give the agent the policy's network; it already has its reading of observations."""
        policy = self.ppo.policy
        self.agent.body.load_state_dict(policy.mlp_extractor.policy_net.state_dict())
        self.agent.head.load_state_dict(policy.action_net.state_dict())

    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint needs: the policy, and the optimiser's averages of every parameter."""
        weights = {f"policy.{name}": tensor for name, tensor in self.ppo.policy.state_dict().items()}
        averages = self.ppo.policy.optimizer.state_dict()["state"]
        return weights | {f"adam.{i}.{name}": x for i, one in averages.items() for name, x in one.items()}

    def restore(self, state: dict[str, Tensor], rounds: int, steps: int) -> None:
        """Go on where a checkpoint was written."""
        policy, averages = self.ppo.policy, {}
        policy.load_state_dict({name[7:]: x for name, x in state.items() if name.startswith("policy.")})
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
              batch_size=max(2, rows * STEPS // BATCHES), gamma=GAMMA, gae_lambda=GAE, ent_coef=ENTROPY,
              rollout_buffer_class=Rollouts, policy_kwargs=about, device=agent.device,
              _init_setup_model=False)  # fmt: skip
    ppo.n_envs, size = rows, sum(agent.config.sizes)
    ppo.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
    named = len(agent.config.names)
    ppo.action_space = spaces.Discrete(named) if named else spaces.Box(-1, 1, (agent.config.outputs,), np.float32)
    ppo._setup_model()
    ppo.set_logger(Logger(None, []))
    return ppo
