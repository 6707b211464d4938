"""What discovered actions are worth: do they tell the true actions, move the picture, and mean the same everywhere?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from videowm.bootstrap import standard_error
from videowm.data.latents import Latents, normalised
from videowm.evaluate.coder import Coder
from videowm.evaluate.pictures import by_frame, psnr
from videowm.evaluate.scores import r2
from videowm.vae.codec import DiffusersCodec

STATES, CODES = 32, 16  # moments, and codes at most, of which consistency is told
STEPS, HIDDEN = 400, 64  # updates of a probe, and width of the one with a hidden layer
PROBES = {"linear": 0, "mlp": HIDDEN}


@dataclass(frozen=True)
class Coded:
    """The steps of some clips but for each one's first: latents, their codes, and what was really done."""

    latents: Tensor  # float32 "b t c h w", normalised, with the first step
    code: Tensor  # float32 "b n k", n = t-1
    actions: np.ndarray  # float32 "b n s a", of the s frames of each step
    episode: np.ndarray  # int "b"

    @property
    def told(self) -> np.ndarray:
        """The mean action of every step, float64 "b n a"."""
        return self.actions.mean(2, dtype=np.float64)


@torch.no_grad()
def coded(coder: Coder, latents: Latents, count: int, batch: int = 64) -> Coded:
    """Up to `count` clips, spread evenly over a split, on the CPU; `latents` have the recorded actions."""
    chosen = np.unique(np.linspace(0, len(latents) - 1, min(count, len(latents)), dtype=int))
    stored, grouped = latents.windows(chosen, np.zeros_like(chosen), latents.index.steps)
    mean, std = latents.described.action_scale
    actions = grouped[:, 1:, :-1].unflatten(-1, (latents.stride, -1)) * std + mean
    whole = actions.round()  # a button is 0 or 1 again, which scaling there and back is not
    actions = torch.where((actions - whole).abs() < 1e-4, whole, actions)
    steps, device = normalised(stored, latents.scale), next(coder.parameters()).device
    code = torch.cat([coder.network.codes(part.to(device)).cpu() for part in steps.split(batch)])
    return Coded(steps, code, actions.numpy(), latents.episodes(chosen).numpy())


def scored(coder: Coder, train: Coded, test: Coded, codec: DiffusersCodec) -> Iterator[tuple[str, Any]]:
    """Pairs (name, value) of everything that is told of held-out clips; probes are fitted on `train`."""
    yield from errors(coder, test)
    yield from use(test)
    yield from consistency(coder, test)
    yield from controllability(coder, test, codec)
    if test.actions.shape[-1] and np.ptp(test.actions) > 1e-9:
        yield from probes(coder, train, test)


@torch.no_grad()
def errors(coder: Coder, found: Coded) -> Iterator[tuple[str, float]]:
    """The error of the next step under its own code, and under that of another clip's step."""
    device = next(coder.parameters()).device
    past, following = coder.network.changes(found.latents.to(device))
    for name, code in (("loss", found.code), ("loss_floor", found.code.roll(max(1, len(found.code) // 2), 0))):
        made = coder.network.decoder(past, code.flatten(0, 1).to(device))
        yield f"latent/{name}", float((made - following).square().mean())


def use(found: Coded) -> Iterator[tuple[str, float]]:
    """How many codes are in use, as the exponential of their entropy; of a discrete code alone."""
    share = found.code.flatten(0, 1).double().mean(0)
    if torch.equal(found.code, found.code.bool().float()):
        share = share[share > 0]
        yield "latent/perplexity", float(torch.exp(-(share * share.log()).sum()))


@torch.no_grad()
def consistency(coder: Coder, found: Coded) -> Iterator[tuple[str, float]]:
    """How much of what codes do to a step is the same in every state, 0 to 1.

    Each of some codes acts in each of some states. From what follows, the mean over the codes is taken off. Of what is
    left, this is the share that the code alone explains.
    """
    device = next(coder.parameters()).device
    past, _ = coder.network.changes(found.latents.to(device))
    past = past[torch.linspace(0, len(past) - 1, min(STATES, len(past))).long()]
    codes = torch.unique(found.code.flatten(0, 1), dim=0)
    codes = codes[torch.linspace(0, len(codes) - 1, min(CODES, len(codes))).long()].to(device)
    after = torch.stack([coder.network.decoder(past, code.expand(len(past), -1)).flatten(1) for code in codes])
    effect = (after - after.mean(0)).double().cpu()  # "codes states d"
    total = effect.square().mean(1).sum()
    yield "latent/consistency", float(effect.mean(1).square().sum() / total.clamp_min(1e-12))
    yield "latent/consistency_floor", 1 / len(past)


@torch.no_grad()
def controllability(coder: Coder, found: Coded, codec: DiffusersCodec, batch: int = 16) -> Iterator[tuple[str, float]]:
    """The PSNR of one step under its own code less that under another one, on the last step of each clip, in dB.

    Genie (arXiv 2402.15391), section 3: Delta_t PSNR, for t = 1. The other code is that of another clip's step. The
    truth is the autoencoder's picture of it.
    """
    device = next(coder.parameters()).device
    mean, std = coder.scale(device)
    own, other = found.code[:, -1], found.code[:, -1].roll(max(1, len(found.code) // 2), 0)
    last, shown = found.latents[:, -coder.config.past - 1 :].to(device), []
    before = [last[:, -2:-1]] * (coder.config.past + 1 - last.shape[1])
    past = torch.cat([*before, last[:, :-1]], dim=1)
    for code in (own, other):
        after = coder.network.decoder(past, code.to(device))
        shown.append(pictures(torch.cat([last[:, :-1], after[:, None]], dim=1) * std + mean, codec, batch))
    truth = pictures(last * std + mean, codec, batch)
    right, wrong = (by_frame(psnr, video, truth, device, batch) for video in shown)
    gained = (right - wrong).mean(1)
    yield "latent/delta_psnr", float(gained.mean())
    yield "latent/delta_psnr_se", standard_error(gained, found.episode)


def pictures(latents: Float[Tensor, "b t c h w"], codec: DiffusersCodec, batch: int) -> Float[Tensor, "b k 3 H W"]:
    """The frames of the last step of each clip."""
    return torch.cat([codec.decode(part)[:, -codec.stride[0] :].float().cpu() for part in latents.split(batch)])


def probes(coder: Coder, train: Coded, test: Coded) -> Iterator[tuple[str, Any]]:
    """How well codes tell the true actions, and these the codes, on episodes that no probe was fitted on."""
    both, names = (train, test), coder.about.actions
    code, told, each = (tuple(getattr(one, name) for one in both) for name in ("code", "told", "actions"))
    done = tuple(rows.reshape(*rows.shape[:2], -1) for rows in each)
    for kind, hidden in PROBES.items():
        fit = partial(fitted, hidden=hidden)
        read = fit(*map(flat, code), flat(told[0]), None).reshape(told[1].shape)
        columns = {name: [i] for i, name in enumerate(names)} | {"action": list(range(len(names)))}
        for name, column in columns.items():
            yield from pair(f"latent/{name}_r2_{kind}", r2(read[..., column], told[1][..., column], test.episode))
        if all(np.isin(rows, (0, 1)).all() for rows in each):
            classes = combinations(*each)
            yield from classified("action", kind, fit, code, classes, test.episode)
        if coder.config.code:
            read = fit(*map(flat, done), flat(code[0]), None).reshape(code[1].shape)
            yield from pair(f"latent/code_r2_{kind}", r2(read, code[1].numpy(), test.episode))
        else:
            numbers = tuple(rows.argmax(-1).numpy() for rows in code)
            yield from classified("code", kind, fit, done, numbers, test.episode)


def pair(name: str, found: tuple[float | None, float]) -> Iterator[tuple[str, float | None]]:
    """A score and its standard error under its name."""
    yield name, found[0]
    yield f"{name}_se", found[1]


def classified(name: str, kind: str, fit: Any, rows: Any, classes: Any, episode: Int[np.ndarray, " b"]) -> Any:
    """The share of held-out steps whose class is told, and that of the most frequent class of the training steps."""
    train, true = classes
    count = int(max(train.max(), true.max())) + 1
    told = fit(*map(flat, rows), train.ravel(), count).argmax(-1).reshape(true.shape)
    right = (told == true).mean(1)
    yield from pair(f"latent/{name}_accuracy_{kind}", (float(right.mean()), standard_error(right, episode)))
    yield f"latent/{name}_accuracy_{kind}_floor", float((true == np.bincount(train.ravel()).argmax()).mean())


def combinations(
    train: Float[np.ndarray, "b n s a"], test: Float[np.ndarray, "m n s a"]
) -> tuple[Int[np.ndarray, "b n"], Int[np.ndarray, "m n"]]:
    """Of each step the number of the combination of buttons that most of its frames have; of equals the rarer one.

    Combinations are numbered by how often they are there, the most frequent first.
    """
    rows = np.concatenate([part.reshape(-1, part.shape[-1]) for part in (train, test)])
    _, number, often = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    rank = np.empty(len(often), np.int64)
    rank[np.argsort(-often)] = np.arange(len(often))
    held = np.eye(len(often), dtype=np.int64)[rank[number.ravel()]]
    split = train.shape[0] * train.shape[1] * train.shape[2]
    return tuple(len(often) - 1 - part.reshape(*like.shape[:3], -1).sum(2)[..., ::-1].argmax(-1)
                 for part, like in ((held[:split], train), (held[split:], test)))  # fmt: skip


def flat(rows: Float[Tensor, "*shape d"] | Float[np.ndarray, "*shape d"]) -> Float[np.ndarray, "n d"]:
    """Every step as one row of float32."""
    return np.asarray(rows, np.float32).reshape(-1, rows.shape[-1])


def fitted(
    x: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"], y: Any, classes: int | None, *, hidden: int
) -> Float[np.ndarray, "m k"]:
    """What a probe says of `test`, fitted to rows `x` and their `y`: numbers "n k", or classes "n" of so many.

    Args:
        hidden: units of the layer between; 0: a linear probe.
    """
    mean, std = x.mean(0), x.std(0) + 1e-6
    x, test = (torch.from_numpy((rows - mean) / std) for rows in (x, test))
    scale = (0, 1) if classes else (y.mean(0), y.std(0) + 1e-6)
    goal = torch.from_numpy(y) if classes else torch.from_numpy((y - scale[0]) / scale[1])
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        out = classes or y.shape[1]
        layers = [nn.Linear(x.shape[1], hidden), nn.SiLU(), nn.Linear(hidden, out)] if hidden else [
            nn.Linear(x.shape[1], out)]  # fmt: skip
        probe, loss = nn.Sequential(*layers), nn.CrossEntropyLoss() if classes else nn.MSELoss()
        optimizer = torch.optim.AdamW(probe.parameters(), lr=0.03, weight_decay=1e-3)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss(probe(x), goal).backward()
            optimizer.step()
            rate.step()
    return probe(test).detach().numpy() * scale[1] + scale[0]
