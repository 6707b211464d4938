"""What a model predicts badly, and which of that it could learn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from videowm.dit import DiT, flow
from videowm.evaluate.curves import Pairs, resampled, with_error
from videowm.evaluate.heldout import Bank

SHOWN = 10  # clips listed


def surprise(error: np.ndarray, bank: Bank) -> Pairs:
    """Prediction error "b" of every clip of the bank, ranked; and the share of it in the most surprising tenth."""
    order = np.argsort(-error)
    tenth = max(1, len(order) // 10)
    yield "surprise/ranked", [[int(i), int(bank.episode[i]), float(error[i])] for i in order[:SHOWN]]
    yield "surprise/top_tenth_share", float(error[order[:tenth]].sum() / error.sum())
    yield from with_error("surprise/error", error, bank.episode)


@torch.no_grad()
def velocities(model: DiT, bank: Bank, batch: int) -> Tensor:
    """Predicted velocities of the bank's triples, float32 "n m c h w": context clean, the target step noised."""
    device, columns = next(model.parameters()).device, []
    for m in range(bank.levels.shape[1]):
        target, rows = bank.context + m, []
        for i in range(0, len(bank.latents), batch):
            clean = bank.latents[i : i + batch, : target + 1].to(device)
            level = torch.zeros(clean.shape[:2], device=device)
            level[:, target] = bank.levels[i : i + batch, m].to(device)
            noise = bank.noise[i : i + batch, m, None].to(device)
            x = torch.cat([clean[:, :-1], flow.noised(clean[:, -1:], noise, level[:, -1:])], dim=1)
            rows.append(model(x, level, bank.actions[i : i + batch, : target + 1].to(device))[:, -1].cpu())
        columns.append(torch.cat(rows))
    return torch.stack(columns, dim=1)


def maps(predicted: Tensor, bank: Bank) -> Tensor:
    """Squared error of predicted velocities by place, "n h w": over channels and target steps."""
    clean = bank.latents[:, bank.context :]
    return (predicted - (bank.noise - clean)).square().mean(dim=(1, 2))


def reducible(models: dict[str, Tensor], bank: Bank) -> dict[str, Tensor]:
    """Error of the last of several models' velocities, and two estimates of what of it can be learned, "n h w" each.

    `models` are in the order of their budgets. Error is drawn to noise that no model predicts. Two others are not, once
    all models know how the noise is distributed: disagreement, the variance over models (Pathak et al. 2019, arXiv
    1906.04161, equation 1), and progress, the error that the last step of budget took away (Schmidhuber 1991). Progress
    may be negative in a place: cut off at 0, its scatter alone would draw it to noise.
    """
    *_, before, last = models.values()
    return {
        "error": maps(last, bank),
        "disagreement": torch.stack(list(models.values())).var(0).mean(dim=(1, 2)),
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
    estimates = reducible({str(i): velocities(model, bank, batch) for i, model in enumerate(models)}, bank)
    weights = np.concatenate([np.full((1, len(bank.episode)), 1 / len(bank.episode)), resampled(bank.episode)])
    for name, places in estimates.items():
        whole = places.double().numpy()
        clips = whole.mean((1, 2))
        order = np.argsort(-clips)[:SHOWN]
        yield f"surprise/ranked_by_{name}", [[int(i), int(bank.episode[i]), float(clips[i])] for i in order]
        if patch is not None and (weights @ clips > 0).all():
            share = (weights @ whole[:, patch[0], patch[1]].mean((1, 2))) / (weights @ clips)
            yield f"surprise/television_{name}", float(share[0])
            yield f"surprise/television_{name}_se", float(share[1:].std(ddof=1))
