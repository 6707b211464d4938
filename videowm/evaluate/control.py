"""Whether the actions were obeyed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from videowm.bootstrap import mean_and_resamples, spread, weights
from videowm.evaluate.curves import MetricCurve, Pairs, mean_and_error, pairs
from videowm.evaluate.pictures import by_frame, psnr
from videowm.evaluate.readings import BOUND_VIDEOS, Readings
from videowm.evaluate.scenes import PlayedScenes, Scenes

CONTROL_VIDEOS = BOUND_VIDEOS | {"floor": "shuffled", "floor_zero": "zero"}
SHIFTS = range(-2, 3)  # frames by which a rollout may answer late (or early)
LEVEL = 0.5  # standard deviations from the mean at which an action that is no button counts as low or high


def explained(read: Float[np.ndarray, "b w k"], true: Float[np.ndarray, "b w k"]) -> Float[np.ndarray, "b w"]:
    """1 - squared error / variance, "b w", of targets "b w k" pooled over columns; the mean over b and w is R².

    The variance is that of all true rows, for every clip and frame: one that hardly varies has no weight of its own.
    """
    return 1 - ((read - true) ** 2).sum(-1) / true.var((0, 1)).sum()


def classes(readings: Readings, rows: Float[np.ndarray, "b w k"]) -> Int[np.ndarray, "b w k"]:
    """Standardised targets "b w k" as classes: a button is up or down, another number low, middle or high."""
    return np.where(readings.binary, rows > readings.half, np.digitize(rows, (-LEVEL, LEVEL)))


def control(readings: Readings) -> Iterator[MetricCurve]:
    """R² of the requested actions as read off the rollout, one by one and pooled, and the share of right classes.

    Ceilings: the same reader on the autoencoder's picture of the real video, and on the real video itself. Floors:
    rollouts under another episode's actions and under zeros, scored against the true actions all the same. Actions
    that never vary are left out: there is nothing to be read.
    """
    wanted, varying = classes(readings, readings.true), readings.varying
    names = {f"control/{readings.names[i]}_r2": [i] for i in varying}
    for name, columns in {**names, "control/r2": varying}.items() if varying else ():
        true = readings.true[..., columns]
        yield bounded(readings, name, lambda read, c=columns, true=true: explained(read[..., c], true))
    if varying:
        yield bounded(
            readings, "control/accuracy", lambda read: (classes(readings, read) == wanted)[..., varying].mean(-1)
        )


def bounded(
    readings: Readings, name: str, score: Callable[[Float[np.ndarray, "b w k"]], Float[np.ndarray, "b w"]]
) -> MetricCurve:
    """The curve of a score "b w" of standardised readings "b w k": of the model, with its ceilings and floors."""
    bounds = {suffix: score(readings.read[video]) for suffix, video in CONTROL_VIDEOS.items()}
    return MetricCurve(name, score(readings.read["dreamed"]), readings.episode, bounds, first=readings.first)


def delay(readings: Readings) -> Pairs:
    """By how many frames the rollout answers late: the shift of the actions with the best R², minus the same on real
    video. All shifts are scored on the same windows. Ceiling: how late the autoencoder makes real video look."""
    margin, windows = max(SHIFTS), readings.true.shape[1]
    if not readings.varying or windows <= 2 * margin:
        return
    true = readings.true[..., readings.varying]
    resamples = mean_and_resamples(readings.episode)

    def best(video: str) -> Int[np.ndarray, " draws"]:
        read = readings.read[video][:, margin : windows - margin, readings.varying]
        requested = (true[:, margin - shift : windows - margin - shift] for shift in SHIFTS)
        scores = [explained(read, rows).mean(1) for rows in requested]
        return np.array(SHIFTS)[(resamples @ np.stack(scores, 1)).argmax(1)]

    real = best("truth")
    for name, video in (("control/delay", "dreamed"), ("control/delay_ceiling", "decoded")):
        late = best(video) - real
        yield name, int(late[0])
        yield f"{name}_se", float(spread(late[1:], readings.episode))


def delta_psnr(scenes: Scenes, played: PlayedScenes | None = None, *, device: torch.device, batch: int = 16) -> Pairs:
    """What the true actions are worth, in dB by predicted frame: PSNR under them minus PSNR under random ones.

    Genie (arXiv 2402.15391), section 3, Delta_t PSNR; a model that ignores its actions scores 0. Ceiling: the same of
    the real game under the same actions, through the autoencoder, in those clips that it was `played` for.
    """
    truth, name = scenes.future("truth"), "control/delta_psnr"

    def gained(
        own: Float[Tensor, "b h 3 H W"], other: Float[Tensor, "b h 3 H W"], true: Float[Tensor, "b h 3 H W"]
    ) -> Float64[np.ndarray, "b h"]:
        right, wrong = (by_frame(psnr, video, true, device, batch) for video in (own, other))
        return right - wrong

    values = gained(scenes.future("dreamed"), scenes.future("random"), truth)
    yield from pairs(MetricCurve(name, values, scenes.episode, {"floor": np.zeros_like(values)}))
    if played is not None:
        most = gained(scenes.future("decoded")[played.clips], played.decoded, truth[played.clips])
        MetricCurve(name, most, scenes.episode[played.clips])  # refuses what is not finite
        yield from mean_and_error(f"{name}_ceiling", most.mean(1), scenes.episode[played.clips])
        yield from mean_and_error(f"{name}_by_frame_ceiling", most, scenes.episode[played.clips])
        yield f"{name}_ceiling_clips", len(played.clips)


def loss_ratio(true: Float[np.ndarray, " n"], wrong: Float[np.ndarray, " n"], episode: Int[np.ndarray, " n"]) -> Pairs:
    """Held-out loss "n" under another episode's actions over the loss "n" under the true ones, and its error.

    A ratio of 1: the actions are ignored. It has no ceiling: how much other actions cost is the world's own affair.
    """
    drawn = weights(episode)
    yield "control/loss_ratio", float(wrong.mean() / true.mean())
    yield "control/loss_ratio_se", float(spread((drawn @ wrong) / (drawn @ true), episode))
    yield "control/loss_ratio_floor", 1.0
