"""The text of a training run: which encoder reads it, which captions are drawn, and where their tokens lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from videowm.data.captions import captions_of
from videowm.data.dataset import Dataset
from videowm.data.latents import Latents
from videowm.data.state_captions import played_hash
from videowm.data.window_captions import WindowCaptions, captions_beside, embedded
from videowm.dit.text import ByteText, FrozenText, TextTokens, encoder_width
from videowm.limits import Share, Size
from videowm.types import UserError

DRAWN = ("empty", "synthetic", "short")  # what is logged of a batch, as shares of its samples


@dataclass(frozen=True)
class TextConfig:
    """Captions as a condition. As in DALL-E 3 (Betker et al. 2023) nearly all of them are synthetic."""

    encoder: str = "bytes"  # trained with the network; else a frozen one's local folder or hub name
    length: Size = 128  # tokens, words with the byte encoder; longer captions are cut, shorter ones padded
    into: Literal["cross", "pooled"] = "cross"  # the mean in the step's condition; cross: and attention in every block
    captions: list[str] = field(default_factory=list)  # hash, model or "state"; none: all beside the dataset
    synthetic: Share = 0.95  # share of captions by a model, where a clip has one by a model and an original
    short: Share = 0.5  # share of short captions
    drop: Share = 0.1  # share of empty ones, for guidance

    @property
    def shape(self) -> dict[str, Any]:
        """What the network must know; of a named encoder only its configuration is read."""
        return {"features": encoder_width(self.encoder), "length": self.length, "into": self.into}


class TrainingText:
    """The captions of a run's windows and, for every caption, its tokens."""

    def __init__(self, config: TextConfig, latents: Latents, window: int, folder: str) -> None:
        index = latents.index
        if (now := Dataset(index.data).hash) != index.data_hash:
            raise UserError(f"{index.data} changed since {folder} was made of it ({now}): encode it again")
        self.config, self.folder, self.window = config, Path(folder), window
        self.sources = self.held_out = captions_beside(index.data, config.captions, index.data_hash)
        if index.played:  # the training clips are in no recording: their words lie beside the latents
            if not captions_of(self.folder):
                raise UserError(f"{folder} holds newly played clips without captions: encode with --states, then run "
                                f"videowm caption {folder} --from-state --clip-frames {index.frames}")  # fmt: skip
            self.sources = captions_beside(folder, config.captions, played_hash(index))
        self.windows = WindowCaptions.of(latents, self.sources, window, [""])
        if len(self.windows.captions) == 1:
            raise UserError(f"no caption beside {index.data} is of a training clip in {folder}: caption more of it")
        byte = config.encoder == "bytes"
        self.encoder = ByteText(config.length) if byte else FrozenText.open(config.encoder, config.length)
        self.tokens = self.encode(self.windows.captions)

    def encode(self, captions: list[str]) -> TextTokens:
        """Tokens and mask of captions; a frozen encoder's are kept beside the latents."""
        if isinstance(self.encoder, ByteText):
            return self.encoder.encode(captions)
        return embedded(captions, self.encoder.encode, self.folder / "text" / self.encoder.hash)

    def draw(self, clip: int, start: int, rng: np.random.Generator) -> tuple[int, list[bool]]:
        """Number of the caption that a sample takes, and what was drawn (see `DRAWN`)."""
        empty, synthetic, short = rng.random(3) < (self.config.drop, self.config.synthetic, self.config.short)
        number, writer = self.windows.choose(clip, start, synthetic=synthetic, short=short)
        if empty or not number:
            return 0, [True, False, False]
        return number, [False, writer == 1, bool(short)]

    def of_windows(self, latents: Latents, window: int, where: list[tuple[int, int]]) -> TextTokens:
        """The text of held-out windows (clip, first step): always the kind of caption that training draws most."""
        found = WindowCaptions.of(latents, self.held_out, window, [""])
        kind = {"synthetic": self.config.synthetic >= 0.5, "short": self.config.short > 0.5}
        return self.encode([found.captions[found.choose(clip, start, **kind)[0]] for clip, start in where])

    def record_fields(self) -> dict[str, Any]:
        """The part `text` of the run's record."""
        frozen = self.encoder.hash if isinstance(self.encoder, FrozenText) else None
        used = {writer: captions.header | {"clips": len(captions)} for writer, captions in self.sources.items()}
        unique = len(self.windows.captions) - 1
        return {"encoder": self.config.encoder, "encoder_hash": frozen, "unique": unique, "captions": used}


def looked_up(held: TextTokens, number: Tensor) -> TextTokens:
    """Tokens and mask of the captions numbered `number` (int "b")."""
    return tuple(part[number] for part in held)
