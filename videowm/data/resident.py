"""Training data on the device that trains. Frames are decoded once; a clip is then a slice of memory.

On a CPU core a frame of 64x64 takes 1.0 ms to read in a clip of nine, 0.18 ms in a whole episode.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import psutil
import torch
from torch import Tensor

from videowm.data.clips import ClipStream
from videowm.types import Episodes

Resident = Literal["auto", "on", "off"]  # auto: where twice as much has room


def lies_there(choice: Resident, device: torch.device, nbytes: int) -> bool:
    """Whether training data of this size are to lie on the device."""
    if choice != "auto":
        return choice == "on"
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return 2 * nbytes < free


class ResidentFrames:
    """The frames of a split: all of them on a device once `decode` was called, read clip by clip until then."""

    def __init__(self, dataset: Episodes, split: str) -> None:
        self.dataset, self.split, episodes = dataset, split, dataset.split(split)
        lengths = dataset.lengths[episodes]
        self.first = dict(zip(episodes, (np.cumsum(lengths) - lengths).tolist()))  # number of their frame 0
        self.shape = (int(lengths.sum()), *dataset.size, 3)
        self.frames: Tensor | None = None  # uint8 "n H W 3", once decoded

    def settle(self, choice: Resident, device: torch.device, reads: int) -> None:
        """Decode where the frames are to lie on the device; with "auto" only if the run reads a quarter of them."""
        if choice == "auto" and 4 * reads < self.shape[0]:  # clip by clip that is done sooner
            return
        if lies_there(choice, device, int(np.prod(self.shape))):
            self.decode(device)

    def decode(self, device: torch.device) -> None:
        """Put every frame on the device."""
        self.frames = torch.from_numpy(self.dataset.every_frame(self.split)).to(device)

    def load(self, clips: ClipStream, numbers: list[int]) -> dict[str, Tensor]:
        """These clips of the stream as a batch: their frames, or where on the device they begin."""
        if self.frames is None:
            return {"frames": torch.from_numpy(np.stack([clips[number].frames for number in numbers]))}
        where = [clips.where(number) for number in numbers]
        return {"first": torch.tensor([self.first[episode] + start for episode, start in where])}

    def of(self, batch: dict[str, Tensor], count: int) -> Tensor:
        """The frames of a batch that `load` made, `count` a clip, uint8 "b f H W 3"."""
        if "frames" in batch:
            return batch["frames"]
        first = batch["first"]
        return self.frames[first[:, None] + torch.arange(count, device=first.device)]
