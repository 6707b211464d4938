"""Inverse dynamics: a window of frames around an action -> the action, with probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from videowm.evaluate.reader import Readable, Reader, ReaderConfig
from videowm.limits import Size, Whole

WIDEST = 6.0  # largest magnitude of a logarithm of a variance, in standardised units


@dataclass(frozen=True)
class LabellerConfig(ReaderConfig):
    """The reader's network, with a window that sees both sides of the action."""

    frames: Size = 8  # frames of a window
    lag: Whole = 3  # row that is read: three earlier frames are seen, and four that the action may have changed


class Labeller(Reader):
    """Frames "b f 3 H W" of one window -> a distribution of each target, as "b 2k" numbers.

    The first k are a logit for a target that is 0 or 1, and the mean of a standardised normal distribution for another.
    The others are the logarithms of its variance, and mean nothing for a target that is 0 or 1.
    """

    kind, parts = "label", {"config": LabellerConfig, "readable": Readable}

    def __init__(self, config: LabellerConfig, readable: Readable) -> None:
        super().__init__(config, readable)
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(config.features, 2 * len(readable.names)))

    def surprise(self, made: Float[Tensor, "b d"], rows: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Negative log-likelihood, in nats but for a constant, of targets "b k" in their own units."""
        first, log_variance = made.float().chunk(2, dim=1)
        mean, std, binary = self.scale(made.device)
        log_variance = log_variance.clamp(-WIDEST, WIDEST)
        normal = (log_variance + ((rows - mean) / std - first).square() * torch.exp(-log_variance)) / 2
        return torch.where(binary, F.binary_cross_entropy_with_logits(first, rows, reduction="none"), normal)

    def scale(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, standard deviation and whether it is 0 or 1, of each of the k targets."""
        about = self.readable
        return tuple(torch.tensor(values, device=device) for values in (about.mean, about.std, about.binary))

    @torch.no_grad()
    def distribution(
        self, video: Float[Tensor, "f 3 H W"], batch: int = 256
    ) -> tuple[Float[Tensor, "w k"], Float[Tensor, "w k"]]:
        """Mean and standard deviation, in the targets' own units and on the CPU, of the rows of a video's windows.

        Of a target that is 0 or 1 the mean is the probability of 1.

        Raises:
            UserError: the video is shorter than a window, or of another frame size.
        """
        device, windows = self.head[1].weight.device, self.windows(video[None])[0]
        mean, std, binary = self.scale(device)
        made = torch.cat([self(part.to(device)).float() for part in windows.split(batch)])
        first, log_variance = made.chunk(2, dim=1)
        chance = torch.sigmoid(first)
        means = torch.where(binary, chance, first * std + mean)
        spread = torch.exp(log_variance.clamp(-WIDEST, WIDEST) / 2) * std
        return means.cpu(), torch.where(binary, (chance * (1 - chance)).sqrt(), spread).cpu()

    def read(self, video: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b w k"]:
        """The means "b w k" of `distribution`; window i of a video "b f 3 H W" tells of row i + lag.

        Raises:
            UserError: the video is shorter than a window, or of another frame size.
        """
        return torch.stack([self.distribution(one)[0] for one in video])

    def rows(self, video: Float[Tensor, "f 3 H W"]) -> tuple[Float[Tensor, "f k"], Float[Tensor, "f k"]]:
        """Mean and standard deviation of every row of an episode; its first and last frame stand beyond its ends too.

        Raises:
            UserError: the video is of another frame size.
        """
        before, after = self.config.lag, self.config.frames - 1 - self.config.lag
        ends = video[:1].expand(before, -1, -1, -1), video[-1:].expand(after, -1, -1, -1)
        return self.distribution(torch.cat([ends[0], video, ends[1]]))


def calibration(
    mean: Float[Tensor, " n"], spread: Float[Tensor, " n"], true: Float[Tensor, " n"], *, binary: bool, bins: int = 10
) -> float:
    """How far the probabilities of one target "n" are off, 0 to 1; 0 is right.

    Of a target that is 0 or 1: the mean distance of the probability of 1 and its frequency, over `bins` equal bins. Of
    another: the distance from 0.9 of the share of true values in the interval that is to hold 90 %.
    """
    if not binary:
        return abs(float(((true - mean).abs() <= 1.6449 * spread).double().mean()) - 0.9)
    place = (mean * bins).long().clamp(max=bins - 1)
    off = torch.zeros(bins, dtype=torch.float64).index_add(0, place, (mean - true).double())
    return float(off.abs().sum()) / len(mean)


def latest(read: Float[Tensor, "b w k"], true: Float[Tensor, "b w k"], reach: int = 2) -> int | None:
    """By how many rows the readings "b w k" run late: the shift at which they follow the truth best.

    A constant error is no delay, though on a target that rises evenly the two are the same. None there, where no target
    varies, or where a clip has no more rows than twice `reach`.
    """
    windows, varies = true.shape[1], true.std((0, 1)) > 1e-6
    if windows <= 2 * reach or not varies.any():
        return None
    scale = true.std((0, 1))[varies]
    inner = centred(read[:, reach : windows - reach, varies] / scale)
    shifted = {shift: centred(true[:, reach - shift : windows - reach - shift, varies] / scale)
               for shift in range(-reach, reach + 1)}  # fmt: skip
    if max(float((rows - shifted[0]).square().mean()) for rows in shifted.values()) < 1e-6:
        return None
    return min(shifted, key=lambda shift: (float((inner - shifted[shift]).square().mean()), abs(shift)))


def centred(rows: Float[Tensor, "b w k"]) -> Float[Tensor, "b w k"]:
    """Rows "b w k" without the mean of each column."""
    return rows - rows.mean((0, 1))
