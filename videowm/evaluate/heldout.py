"""The validation loss that does not move: velocity MSE on a fixed bank of (clip, target step, level, noise)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from videowm.data.latents import Latents, normalised
from videowm.dit import DiT, flow
from videowm.dit.text import TextTokens
from videowm.evaluate.curves import Pairs, mean_and_error
from videowm.files import short_hash_of
from videowm.limits import Count, Seed, Whole
from videowm.types import UserError


@dataclass(frozen=True)
class HeldoutConfig:
    """The bank. `context` clean steps at least come before a target; targets are all later steps of the window."""

    clips: Count = 96  # windows of held-out clips, at most
    window: Count = 8  # latent steps of a window
    context: Count = 3  # clean latent steps before the first target
    seed: Seed = 0  # of levels and noise
    batch: Count = 96  # windows computed at once
    after: Whole = 0  # frames of an episode that come before any window; where games begin alike, training has them


@dataclass(frozen=True)
class Bank:
    """Fixed triples, the same for every run on these latents: one level and one noise for each (clip, target step)."""

    latents: Tensor  # float32 "n t c h w"
    actions: Tensor  # float32 "n t g", grouped
    levels: Tensor  # float32 "n m", of the m target steps, stratified uniformly over (0, 1)
    noise: Tensor  # float32 "n m c h w"
    episode: np.ndarray  # int "n"
    context: int
    where: list[tuple[int, int]] = field(default_factory=list)  # (clip, first step) of each window
    text: TextTokens | None = None  # of each window, for models with text
    empty: TextTokens | None = None  # the empty text, a single row

    @property
    def hash(self) -> str:
        """16 hexadecimal digits over everything that decides the loss."""
        tensors = (self.latents, self.actions, self.levels, self.noise)
        return short_hash_of(tensor.contiguous().numpy().tobytes() for tensor in tensors)


def chosen_windows(latents: Latents, config: HeldoutConfig) -> list[tuple[int, int]]:
    """Evenly spread windows of the held-out clips: (clip, first step) of each.

    Raises:
        UserError: the window does not fit the clips, or the context the window, or no window lies late enough.
    """
    window, steps = config.window, latents.index.steps
    each = steps // window
    if not (each and 0 < config.context < window):
        raise UserError(
            f"heldout.window {window} with heldout.context {config.context} does not fit clips of {steps} latent "
            f"steps: context < window <= {steps} is needed"
        )
    clip, first = np.divmod(np.arange(len(latents) * each), each)
    if config.after:
        late = latents.places()[1].numpy()[clip] + first * window * latents.stride >= config.after
        clip, first = clip[late], first[late]
    if not (count := len(clip)):
        raise UserError(f"heldout.after {config.after} leaves no held-out clip of {latents.folder}: give a lower one")
    numbers = np.linspace(0, count - 1, min(config.clips, count), dtype=int)
    return list(zip(clip[numbers].tolist(), (first[numbers] * window).tolist()))


def make_bank(latents: Latents, config: HeldoutConfig) -> Bank:
    """The windows of `chosen_windows`, with levels and noise drawn once from the bank's own seed.

    Raises:
        UserError: the window does not fit the clips, the context does not fit the window, or a shard is damaged.
    """
    where = chosen_windows(latents, config)
    clips, starts = zip(*where)
    latents.check(np.unique(latents.shards_of(clips)))
    n, targets = len(where), config.window - config.context
    generator = torch.Generator().manual_seed(config.seed)
    strata = torch.randperm(n * targets, generator=generator) + torch.rand(n * targets, generator=generator)
    stored, actions = latents.windows(clips, starts, config.window)
    noise = torch.randn(n, targets, *latents.index.shape, generator=generator)
    return Bank(normalised(stored, latents.scale), actions, (strata / (n * targets)).view(n, targets), noise,
                latents.episodes(clips).numpy(), config.context, where)  # fmt: skip


@torch.no_grad()
def bank_velocities(model: DiT, bank: Bank, actions: Float[Tensor, "n t g"], batch: int) -> Float[Tensor, "n m c h w"]:
    """Predicted velocities of every triple, float32 "n m c h w" on the CPU: context clean, the target step noised.

    `actions` "n t g" are grouped. The text conditioning of a model with text is the bank's.
    """
    device, columns = next(model.parameters()).device, []
    for m in range(bank.levels.shape[1]):
        target, rows = bank.context + m, []
        for i in range(0, len(bank.latents), batch):
            clean = bank.latents[i : i + batch, : target + 1].to(device)
            noise = bank.noise[i : i + batch, m, None].to(device)
            level = torch.zeros(clean.shape[:2], device=device)
            level[:, target] = bank.levels[i : i + batch, m].to(device)
            x = torch.cat([clean[:, :-1], flow.noised(clean[:, -1:], noise, level[:, -1:])], dim=1)
            conditioning = {}
            if model.text_condition is not None:
                conditioning["text"] = tuple(part[i : i + batch].to(device) for part in bank.text)
            rows.append(model(x, level, actions[i : i + batch, : target + 1].to(device), **conditioning)[:, -1].cpu())
        columns.append(torch.cat(rows))
    return torch.stack(columns, dim=1)


def bank_losses(model: DiT, bank: Bank, actions: Float[Tensor, "n t g"], batch: int) -> Float64[Tensor, "n m"]:
    """Unweighted velocity MSE of every triple, float64 "n m", under grouped actions "n t g"."""
    goal = flow.velocity(bank.latents[:, bank.context :], bank.noise)
    return flow.step_loss(bank_velocities(model, bank, actions, batch), goal).double()


def of_other_episode(episode: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """For every clip the number of one of another episode, int "n"; each number once.

    With one episode alone, or one of more than half of the clips, some get another clip of their own episode.
    """
    n = len(episode)
    for shift in range(n // 2, n):
        rolled = np.roll(np.arange(n), shift)
        if (episode[rolled] != episode).all():
            return rolled
    return np.roll(np.arange(n), n // 2)


def shuffled(bank: Bank) -> Float[Tensor, "n t g"]:
    """The bank's grouped actions "n t g", each clip with those of a clip of another episode."""
    return bank.actions[of_other_episode(bank.episode)]


def acted(bank: Bank) -> bool:
    """Whether any action of the bank varies: normalised ones that never do are 0, and nothing obeys them."""
    return bool(bank.actions[..., :-1].any())


def without_text(model: DiT, bank: Bank, losses: Float[np.ndarray, "n m"], batch: int) -> Pairs:
    """The loss with the empty caption, and what another episode's caption adds to the `losses` "n m" with the own."""
    other = of_other_episode(bank.episode)
    empty = replace(bank, text=tuple(part.expand_as(own) for part, own in zip(bank.empty, bank.text)))
    swapped = replace(bank, text=tuple(part[other] for part in bank.text))
    silent, wrong = (bank_losses(model, b, bank.actions, batch).numpy() for b in (empty, swapped))
    yield from mean_and_error("heldout/loss_without_text", silent.mean(1), bank.episode)
    yield from mean_and_error("heldout/text_gap", (wrong - losses).mean(1), bank.episode)


def by_episode(losses: Float[np.ndarray, " n"], episode: Int[np.ndarray, " n"]) -> list[float]:
    """What each episode's windows add to the mean loss, by rising episode: pairs, for two models on one bank."""
    _, inverse = np.unique(episode, return_inverse=True)
    return [float(f"{total:.6g}") for total in np.bincount(inverse, weights=losses) / len(losses)]


def heldout(model: DiT, bank: Bank, *, batch: int = 96, buckets: int = 8) -> Pairs:
    """Held-out loss, by target step and by noise bucket, and how much shuffled actions or texts raise it (paired)."""
    losses = bank_losses(model, bank, bank.actions, batch).numpy()
    level = bank.levels.numpy()
    yield from mean_and_error("heldout/loss", losses.mean(1), bank.episode)
    if acted(bank):
        wrong = bank_losses(model, bank, shuffled(bank), batch).numpy()
        yield from mean_and_error("heldout/action_gap", (wrong - losses).mean(1), bank.episode)
    if model.text_condition is not None:
        yield from without_text(model, bank, losses, batch)
    yield "heldout/loss_by_step", losses.mean(0).tolist()
    yield "heldout/loss_by_episode", by_episode(losses.mean(1), bank.episode)
    in_bucket = [(level * buckets).astype(int) == k for k in range(buckets)]
    yield "heldout/loss_by_level", [float(losses[chosen].mean()) if chosen.any() else None for chosen in in_bucket]
