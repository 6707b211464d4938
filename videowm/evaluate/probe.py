"""What a world model knows, layer by layer: the simulator's factors read off its states by linear probes.

Controls are the autoencoder's latents, which the network is given, and a network of the same shape with random weights.
Probes are fitted on some episodes and tested on others (Alain and Bengio 2016, arXiv 1610.01644).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from videowm.data.clips import even_clips
from videowm.data.dataset import Dataset
from videowm.dit import DiT
from videowm.evaluate.explorer import pearson
from videowm.evaluate.reader import MOTION, state_table
from videowm.evaluate.scores import r2
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError, pixel_frames
from videowm.vae.codec import to_float

FOLDS = 5  # parts of the episodes, each tested on by probes of the others
PENALTIES = 10.0 ** np.arange(-4, 3)  # of ridge regression
CONTEXT = 3  # first latent steps of a clip that are left out: they have seen too little


@dataclass(frozen=True)
class Seen:
    """n latent steps of held-out clips: what every source says of them, and the simulator's factors."""

    sources: dict[str, Tensor]  # "latents", "random", "block 0", …: float32 "n d"
    units: dict[str, Tensor]  # of the blocks: means over the tokens, "n u"
    factors: np.ndarray  # "n k"
    names: list[str]
    episode: np.ndarray  # "n"


def random_like(model: DiT) -> DiT:
    """The same network with matrices of random numbers, of the trained ones' size."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for parameter in other.parameters():
        drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.data.copy_(drawn * parameter.data.float().square().mean().sqrt().to(parameter))
    return other


@torch.no_grad()
def streams(
    model: DiT, latents: Float[Tensor, "b t c h w"], actions: Float[Tensor, "b t g"], **text: Any
) -> list[Float[Tensor, "b t s d"]]:
    """The residual stream at the end of every block, of clean steps."""
    kept: list[Tensor] = []

    def tap(block: int, stream: Float[Tensor, "b t s d"]) -> Float[Tensor, "b t s d"]:
        kept.append(stream)
        return stream

    model(latents, torch.zeros(latents.shape[:2], device=latents.device), actions, tap=tap, **text)
    return kept


@torch.no_grad()
def look(pipeline: WorldModelPipeline, dataset: Dataset, *, clips: int, batch: int = 4) -> Seen:
    """What there is to be probed in about `clips` held-out clips, each as long as the model's window.

    Raises:
        UserError: the recording has no states, or no held-out episode is as long as the window.
    """
    if not dataset.state_names:
        raise UserError(f"{dataset.root} has no states to be probed for: give a recording of a world with states")
    window, stride = pipeline.trained_on.window, pipeline.time_stride
    first = min(CONTEXT, window - 1)
    frames = pixel_frames(window, stride)
    where = even_clips(dataset, frames=frames, split="test", count=clips)
    names = [*dataset.state_names, *(name for name in MOTION if {"x", "y", "heading"} <= set(dataset.state_names))]
    models = {"": pipeline.transformer, "random": random_like(pipeline.transformer)}
    sources: dict[str, list[Tensor]] = {}
    units: dict[str, list[Tensor]] = {}
    for i in range(0, len(where), batch):
        found = [dataset.clip(episode, start, frames) for episode, start in where[i : i + batch]]
        pixels, actions = (np.stack([getattr(clip, name) for clip in found]) for name in ("frames", "actions"))
        latents, grouped = pipeline.beginning(to_float(pixels), torch.from_numpy(actions))
        text = {k: v for k, v in pipeline.text_conditioning(None, len(latents), 1).items() if k == "text"}
        sources.setdefault("latents", []).append(flat(latents[:, first:]))
        for kind, model in models.items():
            whole = streams(model, latents, grouped, **text)
            for block, stream in enumerate(whole if not kind else whole[-1:]):
                name = kind or f"block {block}"
                sources.setdefault(name, []).append(flat(stream[:, first:]))
                if not kind:
                    units.setdefault(name, []).append(stream[:, first:].float().mean(2).flatten(0, 1).cpu())
    rows = stride * np.arange(first, window)  # the last frame of each step
    tables = [state_table(dataset.states(e), dataset.state_names, names)[start + rows] for e, start in where]
    episodes = np.repeat([episode for episode, _ in where], len(rows))
    joined = {name: torch.cat(parts) for name, parts in sources.items()}
    return Seen(joined, {name: torch.cat(parts) for name, parts in units.items()}, np.concatenate(tables), names,
                episodes)  # fmt: skip


def flat(states: Float[Tensor, "b t *rest"]) -> Float[Tensor, "n d"]:
    """Every step as one row, on the CPU."""
    return states.float().flatten(2).flatten(0, 1).cpu()


def folds(episode: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The part of the episodes that each row is tested in.

    Raises:
        UserError: two episodes or more are needed.
    """
    names, inverse = np.unique(episode, return_inverse=True)
    if len(names) < 2:
        raise UserError("probes are tested on other episodes, and one is held out: record more, or hold out more")
    return inverse % min(FOLDS, len(names))


@dataclass(frozen=True)
class Linear:
    """Ridge regression, fitted: features "n d" to factors "n k"."""

    mean: np.ndarray  # "d", of the features
    std: np.ndarray  # "d"
    weights: np.ndarray  # "d k"
    centre: np.ndarray  # "k"

    def __call__(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        return (x - self.mean) / self.std @ self.weights + self.centre


def ridge(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n k"]) -> Callable[[float], Linear]:
    """Ridge regression for any penalty, in mean squares of the features.

    It is solved in its dual form: n numbers for d of any size (Saunders et al. 1998).
    """
    mean, std, centre = x.mean(0), x.std(0) + 1e-6, y.mean(0)
    a = (x - mean) / std
    values, vectors = np.linalg.eigh(a @ a.T / x.shape[1])
    turned = vectors.T @ (y - centre)

    def with_penalty(penalty: float) -> Linear:
        dual = vectors @ (turned / (values.clip(0) + penalty * values.mean())[:, None])
        return Linear(mean, std, a.T @ dual / x.shape[1], centre)

    return with_penalty


def fitted(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n k"], fold: Int[np.ndarray, " n"]) -> Linear:
    """Ridge regression, with the penalty of each factor that reads every fold best from the others."""
    inner, scores = folds_within(fold), np.zeros((len(PENALTIES), y.shape[1]))
    for held in np.unique(inner):
        rest = inner != held
        path = ridge(x[rest], y[rest])
        scores += [np.square(path(penalty)(x[~rest]) - y[~rest]).sum(0) for penalty in PENALTIES]
    best, path = PENALTIES[np.argmin(scores, axis=0)], ridge(x, y)
    found = {penalty: path(penalty) for penalty in np.unique(best)}
    weights = np.stack([found[penalty].weights[:, i] for i, penalty in enumerate(best)], axis=1)
    return replace(found[best[0]], weights=weights)


def predicted(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n k"], fold: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n k"]:
    """What ridge regression on the other folds says of each row."""
    found = np.zeros_like(y)
    for held in np.unique(fold):
        rest = fold != held
        found[~rest] = fitted(x[rest], y[rest], fold[rest])(x[~rest])
    return found


def folds_within(fold: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The folds that penalties are compared on; of one fold every second row."""
    return fold if len(np.unique(fold)) > 1 else np.arange(len(fold)) % 2


def best_unit(
    units: dict[str, Float[Tensor, "n u"]], y: Float[np.ndarray, " n"], fold: Int[np.ndarray, " n"]
) -> dict[str, Any]:
    """The single unit that follows a factor best on half of the folds, and its squared correlation on the others."""
    chosen, held = fold % 2 == 0, fold % 2 == 1
    found = [(abs(pearson(values[chosen, u].double().numpy(), y[chosen])), name, u)
             for name, values in units.items() for u in range(values.shape[1])]  # fmt: skip
    _, name, unit = max(found)
    score = pearson(units[name][held, unit].double().numpy(), y[held]) ** 2
    return {"block": name, "unit": unit, "r2": score}


def chosen_of(seen: Seen, wanted: list[str]) -> list[str]:
    """The wanted factors, or all that vary.

    Raises:
        UserError: a factor is not there or does not vary.
    """
    varying = [name for i, name in enumerate(seen.names) if np.ptp(seen.factors[:, i]) > 1e-9]
    for name in wanted:
        if name not in varying:
            raise UserError(f"factor {name!r} is none that varies here: give some of {', '.join(varying)}")
    return wanted or varying


def standardised(seen: Seen, names: list[str], like: Seen | None = None) -> Float[np.ndarray, "n k"]:
    """Factors in standard deviations from their mean, of `like` where that is given."""
    columns = [seen.names.index(name) for name in names]
    y, scale = seen.factors[:, columns].astype(np.float64), (like or seen).factors[:, columns].astype(np.float64)
    return (y - scale.mean(0)) / scale.std(0)


def probe(seen: Seen, wanted: list[str], other: Seen | None = None) -> list[dict[str, Any]]:
    """For each factor the R² of every source on episodes that its probe never saw, and the best single unit.

    With `other`, states of another recording, probes are fitted on all of `seen` and tested there.

    Raises:
        UserError: a factor is not there or does not vary, or one episode is held out.
    """
    fold, rows, tested = folds(seen.episode), [], other or seen
    chosen = chosen_of(seen, wanted)
    chosen_of(tested, chosen)
    y, true = standardised(seen, chosen), standardised(tested, chosen, like=seen)
    read = {name: predicted(x.double().numpy(), y, fold) if other is None
            else fitted(x.double().numpy(), y, fold)(other.sources[name].double().numpy())
            for name, x in seen.sources.items()}  # fmt: skip
    for i, name in enumerate(chosen):
        scores = {source: r2(values[:, None, [i]], true[:, None, [i]], tested.episode)
                  for source, values in read.items()}  # fmt: skip
        rows.append({"factor": name, "r2": {s: score for s, (score, _) in scores.items()},
                     "r2_se": {s: error for s, (_, error) in scores.items()},
                     "best": max((s for s in scores if s.startswith("block")), key=lambda s: scores[s][0]),
                     "unit": best_unit(seen.units, y[:, i], fold)})  # fmt: skip
    return rows
