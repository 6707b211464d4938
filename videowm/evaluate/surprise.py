"""What a model predicts badly, and which of that it could learn."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from videowm.bootstrap import mean_and_resamples, spread
from videowm.dit import DiT
from videowm.evaluate.curves import Pairs, mean_and_error
from videowm.evaluate.heldout import Bank, bank_velocities

SHOWN = 10  # clips listed


def surprise(error: Float[np.ndarray, " n"], bank: Bank) -> Pairs:
    """Prediction error "n" of every clip of the bank, ranked; and the share of it in the most surprising tenth."""
    order = np.argsort(-error)
    tenth = max(1, len(order) // 10)
    yield "surprise/ranked", [[int(i), int(bank.episode[i]), float(error[i])] for i in order[:SHOWN]]
    yield "surprise/top_tenth_share", float(error[order[:tenth]].sum() / error.sum())
    yield from mean_and_error("surprise/error", error, bank.episode)


def maps(predicted: Float[Tensor, "n m c h w"], bank: Bank) -> Float[Tensor, "n h w"]:
    """Squared error by place, "n h w", of predicted velocities "n m c h w": the mean over channels and target steps."""
    clean = bank.latents[:, bank.context :]
    return (predicted - (bank.noise - clean)).square().mean(dim=(1, 2))


def reducible(velocities: list[Float[Tensor, "n m c h w"]], bank: Bank) -> dict[str, Float[Tensor, "n h w"]]:
    """Error of the last of several models' velocities, and two estimates of what of it can be learned, "n h w" each.

    `velocities` "n m c h w" are those of models in the order of their budgets. Error is drawn to noise that no model
    predicts. Two others are not, once all models know how the noise is distributed: disagreement, the variance over
    models (Pathak et al. 2019, arXiv 1906.04161, equation 1), and progress, the error that the last step of budget
    took away (Schmidhuber 1991). Progress may be negative in a place: cut off at 0, its scatter alone would draw it
    to noise.
    """
    *_, before, last = velocities
    return {
        "error": maps(last, bank),
        "disagreement": torch.stack(velocities).var(0).mean(dim=(1, 2)),
        "progress": maps(before, bank) - maps(last, bank),
    }


def among_latents(patch: tuple[slice, slice], stride: tuple[int, int, int]) -> tuple[slice, slice]:
    """The latent elements (rows, columns) that hold the pixels of `patch`."""
    return tuple(slice(side.start // n, -(-side.stop // n)) for side, n in zip(patch, stride[1:], strict=True))


def learnable(models: list[DiT], bank: Bank, batch: int, patch: tuple[slice, slice] | None = None) -> Pairs:
    """The clips with most reducible error by each estimate, and how much of each estimate lies in a patch of noise.

    A share is divided by the patch's part of the area: 1 for a signal that does not care, more for one that is drawn
    to the noise. `models` are in the order of their budgets and were trained on the same latents.
    """
    estimates = reducible([bank_velocities(model, bank, bank.actions, batch) for model in models], bank)
    resamples = mean_and_resamples(bank.episode)
    for name, places in estimates.items():
        whole = places.double().numpy()
        clips = whole.mean((1, 2))
        order = np.argsort(-clips)[:SHOWN]
        yield f"surprise/ranked_by_{name}", [[int(i), int(bank.episode[i]), float(clips[i])] for i in order]
        if patch is not None and (resamples @ clips > 0).all():
            share = (resamples @ whole[:, patch[0], patch[1]].mean((1, 2))) / (resamples @ clips)
            yield f"surprise/television_{name}", float(share[0])
            yield f"surprise/television_{name}_se", float(spread(share[1:], bank.episode))
