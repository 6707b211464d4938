"""Train heads on a frozen world model: features of a step and the actions after it -> reward and end of the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from videowm import config as configuration
from videowm.config import suggest
from videowm.data.clips import pick
from videowm.data.latents import Latents, normalised
from videowm.data.mixture import Mixture, listed, opened
from videowm.data.outcomes import Targets
from videowm.dit.heads import Heads
from videowm.dit.sample import Sampler, sampler_of
from videowm.dit.saved import network_hash
from videowm.dit.stream import rollout
from videowm.evaluate.outcomes import Frozen, following_of, held_out, read_dreams, read_real, report
from videowm.evaluate.scores import r2
from videowm.files import write_atomic
from videowm.limits import Count, Positive, Seed, Share, Whole
from videowm.pipeline import WorldModelPipeline
from videowm.train.config import TrainConfig
from videowm.train.task import Draws, Task
from videowm.types import UserError

LOOK_NOISE = 0.1  # on the latents that a state is read off in training: a rollout's are never clean


@dataclass(frozen=True)
class HeadsRun:
    """`task: heads`: train heads that read rewards and ends off a finished world model's features."""

    task: Literal["heads"]  # what is trained
    out: str  # run directory
    world: str  # finished run of task: world, whose folder gets the heads
    latents: str | list[str] | None = None  # with rewards and ends; None: those that the world model was trained on
    seed: Seed = 0  # of weights, order and noise
    block: Whole | None = None  # whose residual stream is read, at its end; None: the middle one
    width: Count = 32  # numbers kept of each token
    hidden: Count = 256  # width of the two hidden layers
    end_weight: Positive = 8.0  # how much more a step counts in which the game ends; it moves no probability
    level: Share = 0.3  # noise on the steps that are read, at most; a rollout remembers its steps with up to 0.3
    context: Count = 3  # latent steps that a reading has seen, at least
    dreamed: Share = 0.0  # of the batches: there the world model goes on by itself behind the context, as in a dream
    clips: Count = 64  # held-out clips of each kind that are measured on
    batch: Count = 32  # of these at once
    sampler: Sampler | None = None  # of the rollouts that are measured on; None: the world model's own
    state: list[str] = field(default_factory=list)  # columns that are read too; the latents must hold states
    train: TrainConfig = field(default_factory=TrainConfig)


class HeadsTask(Task):
    """Read what the next latent step earns, and whether and where the game ends in it."""

    name = "heads"

    def __init__(self, config: HeadsRun) -> None:
        self.config, self.seed = config, config.seed
        self.pipeline = WorldModelPipeline.open(config.world)
        own, on = configuration.read(Path(config.world) / "config.yaml"), self.pipeline.trained_on
        self.folder, *_ = folders = listed(config.latents or own["latents"])
        self.how = {"actions": own.get("actions"),
                    "statistics": (on.latents_mean, on.latents_std, on.action_mean, on.action_std)}  # fmt: skip
        self.regular = Mixture.open(folders, **self.how)
        self.final = Mixture.open(folders, **self.how, final=True)
        self.refuse_misfits()
        self.window = min(self.pipeline.trained_on.window, self.regular.index.steps)
        self.targets, self.following = self.outcomes()
        self.states = torch.cat([states_of(part, config.state) for mixture in (self.regular, self.final)
                                 for part in mixture.parts])  # fmt: skip
        self.sampler = config.sampler or sampler_of(Path(config.world))
        self.model = self.make_heads()

    def outcomes(self) -> tuple[Targets, Tensor]:
        """What happens after every step of all clips, regular and then final ones, and the actions that lead there.

        It is known of the steps that count: of a clip that was cut at the end those that no other clip shows.
        """
        both = (self.regular, self.final)
        pairs = [pair for mixture in both for pair in zip(mixture.parts, self.regular.parts)]
        following, found = zip(*(following_of(clips, regular, np.arange(len(clips))) for clips, regular in pairs))
        return Targets(*map(torch.cat, zip(*found))), torch.cat(following)

    def refuse_misfits(self) -> None:
        """Refuse latents of another autoencoder, a block that is not there, and a context without a reading.

        Raises:
            UserError: one of these.
        """
        index, depth = self.regular.index, self.pipeline.transformer.depth
        if index.vae_hash != self.pipeline.trained_on.vae_hash:
            raise UserError(f"{self.folder} was made by another autoencoder than {self.config.world} has: give "
                            "latents of its own")  # fmt: skip
        if (self.config.block or 0) >= depth:
            raise UserError(f"block {self.config.block} is not in {self.config.world}: give 0 to {depth - 1}")
        if self.config.context >= min(self.pipeline.trained_on.window, index.steps):
            raise UserError(f"context {self.config.context} leaves no step to read in windows of "
                            f"{self.pipeline.trained_on.window} steps: give a lower one")  # fmt: skip

    def make_heads(self) -> Heads:
        """Heads of the configuration's size, with the statistics of the training rewards."""
        model, config = self.pipeline.transformer, self.config
        reward = self.targets.reward[self.targets.known].double()
        states = self.states.flatten(0, 1).double()
        shape = (model.config.channels, model.config.height, model.config.width)
        return Heads(
            model.hidden, model.tokens, model.config.actions, self.regular.stride,
            model.depth // 2 if config.block is None else config.block, config.width, config.hidden,
            float(reward.mean()), max(float(reward.std(correction=0)), 1e-6), config.end_weight,
            self.regular.index.world, self.pipeline.config.transformer_hash or network_hash(model),
            tuple(config.state), tuple(states.mean(0).tolist()),
            tuple(states.std(0, correction=0).clamp_min(1e-6).tolist()), shape,
        )  # fmt: skip

    def to(self, device: torch.device) -> None:
        """The frozen world model lies on the device."""
        self.pipeline.to(device)
        self.scale = tuple(values.to(device) for values in self.regular.scale)
        text = self.pipeline.text_conditioning(None, 1, 1)
        self.frozen = Frozen(self.pipeline.transformer.eval(), self.sampler, self.pipeline.shift,
                             self.pipeline.trained_on.window, text)  # fmt: skip

    def load(self, step: int, slots: range) -> dict[str, Tensor]:
        """Windows of clips, regular ones anywhere and those cut where games ended at their end."""
        first, last = step * self.config.train.batch, self.regular.index.steps - self.window
        count, rows = len(self.regular), []
        for slot in slots:
            clip, rng = pick(self.seed, first + slot, count + len(self.final))
            begin = int(rng.integers(last + 1))
            rows.append((clip, begin if clip < count else last))
        rows.sort(key=lambda row: row[0] >= count)  # their order within a batch changes no mean
        clip, begin = np.array(rows, np.int64).T
        regular = clip < count
        parts = [self.regular.windows(clip[regular], begin[regular], self.window),
                 self.final.windows(clip[~regular] - count, begin[~regular], self.window)]  # fmt: skip
        latents, actions = (torch.cat(part) for part in zip(*parts))
        at = torch.from_numpy(clip)[:, None], torch.from_numpy(begin)[:, None] + torch.arange(self.window)
        reward, end, known, _ = (part[at] for part in self.targets)
        known[:, : self.config.context - 1] = False
        return {"latents": latents, "actions": actions, "following": self.following[at], "reward": reward, "end": end,
                "weight": known.float(), "states": self.states[at]}  # fmt: skip

    def loss(self, model: nn.Module, batch: dict[str, Tensor], draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of standardised rewards, and cross-entropy of the place of the end, where ends count more."""
        latents, about = self.seen(normalised(batch["latents"], self.scale), batch["actions"], draws), self.model.config
        level = self.config.level * draws.uniform(1).expand(-1, self.window)
        noise = draws.normal(*latents.shape[1:])
        features = self.frozen.features(latents, batch["actions"], about.block, level, noise)
        out = model(features, batch["following"], latents + LOOK_NOISE * noise)
        out, looked = out[..., : about.stride + 2], out[..., about.stride + 2 :]
        weight = batch["weight"]
        total = weight.sum().clamp_min(1)
        reward = (batch["reward"] - about.reward_mean) / about.reward_std
        error = ((out[..., 0] - reward).square() * weight).sum() / total
        rare = torch.where(batch["end"] > 0, self.config.end_weight, 1.0)
        ends = F.cross_entropy(out[..., 1:].flatten(0, 1), batch["end"].flatten(), reduction="none").view_as(weight)
        ended = (ends * weight * rare).sum() / total
        parts = {"heads/reward_loss": error.detach(), "heads/done_loss": ended.detach()}
        if not self.config.state:
            return error + ended, parts
        mean, std = (looked.new_tensor(values) for values in (about.state_mean, about.state_std))
        missed = (looked - (batch["states"] - mean) / std).square().mean()
        return error + ended + missed, parts | {"heads/state_loss": missed.detach()}

    @torch.no_grad()
    def seen(
        self, latents: Float[Tensor, "b t c h w"], actions: Float[Tensor, "b t g"], draws: Draws
    ) -> Float[Tensor, "b t c h w"]:
        """The steps that are read: as recorded, or behind the context as they are dreamed under the same actions."""
        if np.random.default_rng([self.seed, draws.step]).random() >= self.config.dreamed:
            return latents
        known = latents[:, : self.config.context]
        noise, past = draws.normal(*latents[:, self.config.context :].shape[1:]), draws.normal(*latents.shape[1:])
        own = rollout(self.frozen.model, known, actions, noise, sampler=self.sampler, shift=self.frozen.shift,
                      window=self.window, past_noise=past, **self.frozen.rows(len(known)))  # fmt: skip
        return torch.cat([known, own], dim=1)

    @torch.no_grad()
    def evaluate(self) -> Iterator[tuple[str, Any]]:
        """Scores on held-out latents and on rollouts of the world model from them, and their reliability figure."""
        config, heads = self.config, self.model.eval()
        both = [opened(self.folder, "test", **self.how, final=final) for final in (False, True)]
        clips = held_out(*both, config.clips, config.context)
        found = {"real": read_real(self.frozen, heads, clips, config.batch),
                 "dream": read_dreams(self.frozen, heads, clips, config.batch, config.context)}  # fmt: skip
        values = [pair for kind, read in found.items() for pair in report(kind, read)]
        yield from values
        yield from self.look_scores(both[0])
        if Path(config.out).is_dir():
            write_atomic(Path(config.out) / "reliability.png", reliability_figure(dict(values)))

    def look_scores(self, latents: Latents) -> Iterator[tuple[str, float]]:
        """R² of every state column, read off real held-out latents."""
        if not self.config.state:
            return
        chosen = np.unique(np.linspace(0, len(latents) - 1, min(self.config.clips, len(latents)), dtype=int))
        steps, _ = latents.windows(chosen, np.zeros_like(chosen), latents.index.steps)
        true, about = states_of(latents, self.config.state, chosen).numpy(), self.model.config
        read = self.model.see(normalised(steps, latents.scale).flatten(0, 1).to(self.model.device)).cpu().numpy()
        read = (read * about.state_std + about.state_mean).reshape(true.shape)
        for i, name in enumerate(self.config.state):
            score, error = r2(read[..., [i]], true[..., [i]], latents.episodes(chosen).numpy())
            yield f"heads/state_{name}_r2", score
            yield f"heads/state_{name}_r2_se", error

    def summary(self, metrics: dict[str, Any]) -> str:
        """One sentence on the held-out ends."""
        recall, precision = metrics["heads/real_done_recall"], metrics["heads/real_done_precision"]
        return "" if recall is None or precision is None else (
            f"of held-out ends {recall:.0%} are read within their latent step, and {precision:.0%} of those read are "
            "ends")  # fmt: skip

    def export(self, out: Path) -> None:
        """The heads lie in the world model's folder; the run keeps a copy."""
        self.model.save(Path(self.config.world))
        self.model.save(out)

    def restore(self, run: Path, device: torch.device) -> None:
        """Take the trained weights of a finished run, ready to be evaluated."""
        self.model.load_state_dict(Heads.open(run, self.model.config.transformer_hash).state_dict())
        self.model.to(device).eval()
        self.to(device)

    def record_fields(self) -> dict[str, Any]:
        """Parameters, frames seen, and hashes of the data and of the frozen world model."""
        seen = self.config.train.steps * self.config.train.batch * self.window * self.regular.stride
        return {
            "params": {"heads": sum(p.numel() for p in self.model.parameters())},
            "frames": {"seen": seen},
            "hashes": {"data": self.regular.index.data_hash, "vae": self.regular.index.vae_hash,
                       "world": self.model.config.transformer_hash},
        }  # fmt: skip


def states_of(latents: Latents, names: list[str], chosen: np.ndarray | None = None) -> Tensor:
    """State columns of the last frame of each step of all or chosen clips, float32 "n t k".

    Raises:
        UserError: the latents hold no such column.
    """
    chosen = np.arange(len(latents)) if chosen is None else chosen
    if not names:
        return torch.zeros(len(chosen), latents.index.steps, 0)
    known = list(latents.index.state_names)
    for name in names:
        if name not in known:
            raise UserError(f"{latents.folder} holds no state {name!r}{suggest(name, known)}: encode a recording that "
                            "has it with --states")  # fmt: skip
    return latents.states(chosen)[:, :: latents.stride, [known.index(name) for name in names]]


def reliability_figure(metrics: dict[str, Any]) -> bytes:
    """How often the game ended, against the probability that was read, as PNG; a point's area is how many there are."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for kind, label, color in (("real", "real latents", "#1f77b4"), ("dream", "rollouts", "#d62728")):
        points = np.array(metrics[f"heads/{kind}_done_reliability"]).reshape(-1, 3)
        axes.plot(points[:, 0], points[:, 1], color=color, linewidth=1, label=label)
        axes.scatter(points[:, 0], points[:, 1], 8 * np.log1p(points[:, 2]), color=color)
    axes.set(xlabel="probability of an end within a latent step, as read", ylabel="share that ended")
    axes.legend(frameon=False)
    figure.savefig(held := io.BytesIO(), format="png", dpi=120)
    return held.getvalue()


CONFIG, TASK = HeadsRun, HeadsTask
