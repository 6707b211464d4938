"""Train the world model: noised latent steps, earlier steps and actions -> velocity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from videowm.actions.group import drop_actions, grouped_size
from videowm.data.action_table import ActionTable, judged_by
from videowm.data.checks import BackgroundCheck
from videowm.data.dataset import Dataset
from videowm.data.latents import LatentsIndex, normalised
from videowm.data.mixture import Mixture, listed, opened, statistics_of
from videowm.data.resident import Resident, lies_there
from videowm.device import Process
from videowm.dit import DiT, flow, shortcut
from videowm.dit.saved import TrainedOn
from videowm.evaluate.heldout import Bank, HeldoutConfig, acted, chosen_windows, heldout, make_bank
from videowm.evaluate.rollouts import RolloutConfig, rollouts, starting_points
from videowm.limits import Count, Flops, Fraction, Range, Seed, Share, Size, Whole
from videowm.pipeline import WorldModelPipeline
from videowm.train.config import TrainConfig
from videowm.train.flops import clip_training_flops, model_families, parameters
from videowm.train.gate import Verdict, judge
from videowm.train.rule import batch_by_rule, rate_by_rule
from videowm.train.task import Draws, Task
from videowm.train.words import DRAWN, TextConfig, TrainingText, looked_up
from videowm.types import UserError
from videowm.vae.codec import DiffusersCodec, load_vae


@dataclass(frozen=True)
class FlowConfig:
    """How noise levels and conditions are drawn in training."""

    location: Annotated[float, Range(at_least=-10, at_most=10)] = 0.0  # mean of the levels' logit (arXiv 2403.03206)
    scale: Annotated[float, Range(above=0, at_most=10)] = 1.5  # standard deviation of the levels' logit
    drop_actions: Share = 0.0  # share of samples trained without actions
    shortcut: Whole = 0  # one of so many samples learns to step far, for rollouts in 1 to 4 steps (4 is good); 0: none
    shift: Annotated[float, Range(above=0, at_most=1000)] = 1.0  # of the sampling schedule (ibid., eq. 23)


@dataclass(frozen=True)
class WorldRun:
    """`task: world`: train the diffusion transformer on encoded latents."""

    task: Literal["world"]  # what is trained
    out: str  # run directory
    latents: str | list[str]  # folder that `videowm encode` wrote; several of one autoencoder: held out is the first's
    mix: list[Count] | None = None  # of several folders: samples of each in turn, such as [3, 1]; null: by size
    actions: str | None = None  # source: recorded, none, labelled/HASH; None: recorded where there are any
    share: Fraction = 1.0  # of the training episodes, no others are seen: those that `videowm label` learns from
    seed: Seed = 0  # of weights, order and noise, and of which episodes are in a share
    depth: Annotated[int, Range(at_least=1, at_most=256)] = 4  # blocks; also sets the width
    patch: Size = 2  # side of the square of latent elements that is one token
    hidden: Size | None = None  # width, 64 * depth unless given
    local: Count | None = None  # latent steps that three of four blocks see; None: all see all
    window: Count = 8  # latent steps a sample
    resident: Resident = "auto"  # latents on the device; auto: on a GPU with room for twice as much
    budget: Flops | None = None  # training FLOPs; sets train.steps
    prediction: str | None = None  # sha256 of the frozen prediction that this run is the target of, for its record
    text: TextConfig | None = None  # captions as a condition; None: no words at all
    flow: FlowConfig = field(default_factory=FlowConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    heldout: HeldoutConfig = field(default_factory=HeldoutConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)


class WorldTask(Task):
    """Predict the velocity of noised latent steps from themselves, earlier steps and actions."""

    name = "world"

    def __init__(self, config: WorldRun) -> None:
        self.asked = config  # before the rule
        config = self.resolved(config)
        self.config, self.seed = config, config.seed
        self.folder, *others = folders = listed(config.latents)
        self.latents = Mixture.open(folders, config.mix, actions=config.actions, share=config.share, seed=config.seed)
        if others and config.text:
            raise UserError(f"text cannot be trained on several folders of latents: give {self.folder} alone")
        index = self.latents.described
        if not 2 <= config.window <= index.steps:
            raise UserError(
                f"window {config.window} does not fit the {index.steps} latent steps of {self.folder}: "
                f"give 2 to {index.steps}"
            )
        self.text = config.text and TrainingText(config.text, self.latents.parts[0], config.window, self.folder)
        self.model = make_model(config, index)
        true = self.judge is None  # whether recorded actions are asked for, on the scale that the model knows
        self.test = opened(self.folder, "test", statistics_of(index), actions=None if true else config.actions)
        self.measured = chosen_windows(self.test, config.heldout)
        families = model_families(self.model, config.window)
        self.clip_flops = clip_training_flops(self.model, config.window, config.flow.shortcut)
        times = self.clip_flops / sum(families.values()) * config.train.batch
        self.step_flops = {family: times * flops for family, flops in families.items()}
        self.step_tokens = config.train.batch * config.window * self.model.tokens
        self.scale = self.latents.scale
        self.resident: tuple[Tensor, Tensor] | None = None  # stored latents and grouped actions, on the device
        self.checks: BackgroundCheck | None = None
        self.resident_text = self.text and self.text.tokens
        pipeline = self.pipeline()  # an autoencoder that is gone is refused now, not at the end
        if config.rollout.clips:
            starting_points(self.dataset(), config.rollout, pipeline.time_stride)
            pipeline.check_sampler(config.rollout.sampler)

    @property
    def judge(self) -> ActionTable | None:
        """The source of the actions under which the model is judged; None: recorded ones."""
        return judged_by(self.latents.table, self.latents.index.action_names)

    @staticmethod
    def resolved(config: WorldRun) -> WorldRun:
        return with_steps(config)

    def set_steps(self, steps: int) -> None:
        """The rate by rule follows the number of tokens."""
        self.config = self.resolved(replace(self.asked, train=replace(self.asked.train, steps=steps)))

    def to(self, device: torch.device) -> None:
        """Keep latents and actions on the device, if they are to lie there. From here on shards are checked, by one
        process of a host."""
        if Process.current().local_rank == 0:
            bank = np.unique(self.test.shards_of([clip for clip, _ in self.measured]))
            self.checks = BackgroundCheck(self.latents, self.seed, self.test, bank)
        text = self.text.tokens if self.text else ()
        choice = self.config.resident
        if choice == "auto" and device.type == "cpu":
            choice = "off"  # the system keeps what was read in memory as it is
        on = lies_there(choice, device, self.latents.nbytes + sum(tensor.nbytes for tensor in text))
        self.scale = tuple(values.to(device) for values in self.latents.scale)
        self.resident = self.latents.whole(device) if on else None
        self.resident_text = tuple(tensor.to(device) for tensor in text) if on else None

    def vouch(self, step: int) -> None:
        if self.checks:
            self.checks.wait(step * self.config.train.batch)

    @cached_property
    def bank(self) -> Bank:
        """What is held out, read when it is first measured on."""
        bank = make_bank(self.test, self.config.heldout)
        if not self.text:
            return bank
        text = self.text.of_windows(self.test, self.config.heldout.window, bank.where)
        return replace(bank, text=text, empty=self.text.encode([""]))

    def load(self, step: int, slots: range) -> dict[str, Tensor]:
        """Windows of the encoded clips as they are stored, or where on the device they are: half of them from a clip's
        beginning, where a rollout begins."""
        first, last = step * self.config.train.batch, self.latents.index.steps - self.config.window
        rows, drawn = [], []
        for slot in slots:
            clip, rng = self.latents.pick(self.seed, first + slot)
            rows.append((clip, int(rng.integers(last + 1)) if rng.random() < 0.5 else 0))
            if self.text:
                drawn.append(self.text.draw(*rows[-1], rng))
        where = np.array(rows, np.int64).T
        if self.resident is None:
            batch = dict(zip(("latents", "actions"), self.latents.windows(*where, self.config.window)))
        else:
            batch = dict(zip(("clip", "start"), torch.from_numpy(where)))
        return batch | (self.captions(drawn) if self.text else {})

    def captions(self, drawn: list[tuple[int, list[bool]]]) -> dict[str, Tensor]:
        """The drawn captions' numbers, or tokens where these are not on the device, and what was drawn."""
        number = torch.tensor([number for number, _ in drawn])
        batch = {"drawn": torch.tensor([kind for _, kind in drawn], dtype=torch.float32)}
        if self.resident is not None:
            return batch | {"caption": number}
        return batch | dict(zip(("words", "mask"), looked_up(self.text.tokens, number)))

    def text_conditioning(self, batch: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The network's text argument for a batch, and the shares of caption kinds for the log."""
        if not self.text:
            return {}, {}
        resident = self.resident is not None
        text = looked_up(self.resident_text, batch["caption"]) if resident else (batch["words"], batch["mask"])
        shares = {f"text/{name}": share for name, share in zip(DRAWN, batch["drawn"].mean(0))}
        return {"text": text}, shares

    def samples(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Latents "b t c h w", normalised on the device, and grouped actions "b t g" of a batch that `load` made."""
        latents, actions = batch.get("latents"), batch.get("actions")
        if self.resident is not None:
            clip, start = batch["clip"][:, None], batch["start"][:, None]
            at = clip, start + torch.arange(self.config.window, device=clip.device)
            latents, actions = (part[at] for part in self.resident)
        return normalised(latents, self.scale), actions

    def loss(self, model: nn.Module, batch: dict[str, Tensor], draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean velocity MSE over every step, each at a noise level of its own."""
        text, shares = self.text_conditioning(batch)
        (latents, actions), settings = self.samples(batch), self.config.flow
        t = latents.shape[1]
        level = flow.training_levels(draws.uniform(t), location=settings.location, scale=settings.scale)
        noise = draws.normal(*latents.shape[1:])
        actions = drop_actions(actions, draws.uniform() < settings.drop_actions)
        if not settings.shortcut:
            predicted = model(flow.noised(latents, noise, level), level, actions, **text)
            return flow.step_loss(predicted, flow.velocity(latents, noise)).mean(), shares
        some = slice(-draws.slots.start % settings.shortcut, None, settings.shortcut)
        few = {name: tuple(part[some] for part in tokens) for name, tokens in text.items()}
        x, level, goal = shortcut.learned(
            lambda x, level: model(x, level, actions[some], **few),
            latents, noise, level, some, draws.uniform(t), draws.uniform(t),
        )  # fmt: skip
        errors = flow.step_loss(model(x, level, actions, **text), goal)
        return errors.mean(), shares | {"shortcut/loss": self.shortcut_loss(errors[some], len(draws.slots))}

    def shortcut_loss(self, errors: Tensor, samples: int) -> Tensor:
        """Scalar whose mean over micro-batches and processes is the mean of the batch's shortcut errors "b t".

        A micro-batch of `samples` may hold more or fewer of them than its share, or none: it then adds 0, not NaN.
        """
        return errors.detach().mean(1).sum() * self.config.flow.shortcut / samples

    def check(self, step: int) -> Verdict | None:
        """Whether the actions are obeyed; with a training step's number of clips at once, which has room."""
        if not acted(self.bank):
            return None
        batch = min(self.config.heldout.batch, self.config.train.batch)
        with self.model.uncompiled():
            return judge(dict(heldout(self.model, self.bank, batch=batch)), step, self.config.train.gate)

    def evaluate(self) -> Iterator[tuple[str, Any]]:
        yield from heldout(self.model, self.bank, batch=self.config.heldout.batch)
        if self.config.rollout.clips:
            yield from rollouts(self.pipeline(), self.dataset(), self.config.rollout)

    def dataset(self) -> Dataset:
        """The recording that the latents were made of, with the actions under which the model is judged.

        Raises:
            UserError: it changed since, or cannot be read.
        """
        dataset = Dataset(self.latents.index.data)
        if dataset.hash != self.latents.index.data_hash:
            raise UserError(f"{dataset.root} changed since {self.folder} was made of it: encode it again")
        return dataset.acting(self.judge)

    def pipeline(self) -> WorldModelPipeline:
        """The trained model with the autoencoder that made its latents.

        Raises:
            UserError: the autoencoder is gone or another one.
        """
        index = self.latents.index
        vae = load_vae(index.vae)
        if DiffusersCodec(vae).hash != index.vae_hash:
            raise UserError(f"{self.folder} was made by another autoencoder than {index.vae} holds now: encode again")
        scheduler = FlowMatchEulerDiscreteScheduler(shift=self.config.flow.shift)
        pipeline = WorldModelPipeline(vae, self.model, scheduler, **self.text_parts())
        return pipeline.to(next(self.model.parameters()).device)

    def text_parts(self) -> dict[str, Any]:
        """The frozen text encoder, where there is one."""
        if not self.text or self.config.text.encoder == "bytes":
            return {}
        return {"text_encoder": self.text.encoder.encoder, "tokenizer": self.text.encoder.tokenizer}

    def export(self, out: Path) -> None:
        self.pipeline().save_pretrained(out)

    def restore(self, run: Path, device: torch.device) -> None:
        """Take the trained weights of a finished run, ready to be evaluated."""
        self.model.load_state_dict(WorldModelPipeline.open(run).transformer.state_dict())
        self.model.to(device).eval()

    def record_fields(self) -> dict[str, Any]:
        """Size, tokens, frames and FLOPs of the whole run, and the hashes of what it was trained and measured on."""
        config, index = self.config, self.latents.index
        samples = config.train.steps * config.train.batch
        stride = index.stride[0]
        processed = samples * config.window * self.model.tokens
        seen = samples * (1 + stride * (config.window - 1))
        drawn = self.latents.drawn(config.seed, samples)
        groups = [(samples, len(self.latents))] if config.mix is None else zip(drawn, map(len, self.latents.rows))
        unique = sum(drawn_frames(*group, index.steps, config.window, stride) for group in groups)
        return {
            "depth": config.depth,
            "params": parameters(self.model),
            "tokens": {"target": processed, "processed": processed},
            "frames": {"seen": seen, "unique": min(seen, round(unique))},
            "flops": {"train": self.clip_flops * samples, "encode": None},
            **({"share": {"share": config.share, **self.latents.extent}} if config.share < 1 else {}),
            **({"sources": self.sources(drawn)} if len(drawn) > 1 else {}),
            "hashes": {"data": index.data_hash, "vae": index.vae_hash, "bank": self.bank.hash},
            "actions": self.latents.source,
            **({"prediction": config.prediction} if config.prediction else {}),
            **({"text": self.text.record_fields()} if self.text else {}),
        }

    def sources(self, drawn: list[int]) -> list[dict[str, Any]]:
        """Of each folder: where it is, what it holds, and how many of the frames that were seen are its own."""
        each = 1 + self.latents.stride * (self.config.window - 1)
        return [{"latents": str(part.folder), "data": part.index.data_hash, "clips": len(rows), "seen": each * samples}
                for part, rows, samples in zip(self.latents.parts, self.latents.rows, drawn)]  # fmt: skip


def drawn_frames(samples: int, clips: int, steps: int, window: int, stride: int) -> float:
    """How many different frames are seen, in expectation over where windows begin, as `WorldTask.load` draws them.

    Args:
        samples: windows that are drawn, pass after pass over all clips.
        clips: how many there are.
        steps: latent steps of a clip.
        window: latent steps of a window.
        stride: frames of a latent step; the first one of a clip holds a single frame.
    """
    begins = steps - window + 1
    chance = np.full(begins, 0.5 / begins)
    chance[0] += 0.5
    shown = np.convolve(chance, np.ones(window))  # of each latent step, by one window
    frames = np.array([1] + [stride] * (steps - 1))
    passes, again = divmod(samples, clips)
    once, twice = (float((frames * (1 - (1 - shown) ** n)).sum()) for n in (passes, passes + 1))
    return (clips - again) * once + again * twice


def make_model(config: WorldRun, index: LatentsIndex) -> DiT:
    """A transformer of the configuration's size for latents of the folder described by `index`.

    Raises:
        UserError: the patch does not divide the latents, or no such depth or width can be built.
    """
    channels, height, width = index.shape
    if height % config.patch or width % config.patch:
        raise UserError(f"patch {config.patch} does not divide the latents of {height}x{width}: give patch="
                        f"{max(n for n in range(1, config.patch) if not (height % n or width % n))}")  # fmt: skip
    hidden = config.hidden or 64 * config.depth
    if config.depth < 1 or hidden % 8 or hidden % max(1, hidden // 64):
        raise UserError(
            f"depth {config.depth}, hidden {config.hidden}: give a depth of 1 or more and a width that is a multiple "
            f"of 64 (below 128, of 8)"
        )
    actions = grouped_size(len(index.action_names), index.stride[0])
    trained_on = TrainedOn(
        latents_mean=index.mean, latents_std=index.std, action_mean=index.action_mean,
        action_std=index.action_std, action_names=index.action_names, world=index.world, fps=index.fps,
        window=config.window, vae_hash=index.vae_hash, drop_actions=config.flow.drop_actions,
        text=config.text and asdict(config.text),
    )  # fmt: skip
    return DiT(config.depth, channels, height, width, actions, config.patch, config.hidden, local=config.local,
               trained_on=asdict(trained_on), text=config.text and config.text.shape,
               shortcut=config.flow.shortcut > 0)  # fmt: skip


def meta_model(config: WorldRun) -> DiT:
    """The configuration's transformer without memory, to count on.

    Raises:
        UserError: there are no such latents, or the size does not fit them.
    """
    with torch.device("meta"):
        folder = listed(config.latents)[0]
        index = LatentsIndex.read(folder)
        return make_model(config, index.acting(index.source(folder, config.actions)))


def with_steps(config: WorldRun) -> WorldRun:
    """The configuration with numbers: batch and learning rate by the rule, steps by the FLOP budget.

    Raises:
        UserError: the rule is to give the batch without a budget, minutes and a budget are both given, or the size
            does not fit the latents.
    """
    train = config.train
    if train.minutes is not None and config.budget is not None:
        raise UserError(
            f"train.minutes {train.minutes:g} and budget {config.budget:g} both set the run's length: give budget=null "
            "or no minutes"
        )
    if config.budget is None and "rule" not in (train.batch, train.lr):
        return divided(config)
    model = meta_model(config)
    clip, clip_flops = config.window * model.tokens, clip_training_flops(model, config.window, config.flow.shortcut)
    if config.budget is not None:
        tokens = config.budget / clip_flops * clip
    elif train.batch != "rule":
        tokens = float(train.steps * train.batch * clip)
    else:
        raise UserError("train.batch is rule, but without a budget no number of tokens is known: give budget")
    if train.batch == "rule":
        train = replace(train, batch=batch_by_rule(tokens, clip, train.rule))
    if config.budget is not None:
        train = replace(train, steps=max(1, round(config.budget / (clip_flops * train.batch))))
    if train.lr == "rule":
        train = replace(train, lr=rate_by_rule(model.hidden, tokens, train.parametrisation, train.rule))
    return divided(replace(config, train=train))


def divided(config: WorldRun) -> WorldRun:
    """The same, if the samples that learn to step far are as many in every batch: their FLOPs are counted.

    Raises:
        UserError: flow.shortcut does not divide the batch.
    """
    batch, every = config.train.batch, config.flow.shortcut
    if every < 0 or (every and batch % every):
        raise UserError(f"flow.shortcut {every} does not divide train.batch {batch}: give a divisor, or 0 for none")
    return config


CONFIG, TASK = WorldRun, WorldTask
