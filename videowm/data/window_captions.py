"""Which caption a window of latents takes, and a frozen encoder's features of captions, kept beside the latents."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from videowm.data.captions import Captions, captions_of
from videowm.data.latents import Latents
from videowm.files import atomic, short_hash, visible
from videowm.types import UserError

WRITERS = ("state", "model")  # who wrote a caption: the original ones, and the recaptioned
FORMS = ("detailed", "short")
TextTokens = tuple[Tensor, Tensor]  # features "n m e" and mask "n m"


def captions_beside(data: str | Path, names: list[str], digest: str | None = None) -> dict[str, Captions]:
    """The captions beside a dataset, or beside latents whose clips were played: {writer: captions}.

    Args:
        data: the folder.
        names: hashes, models or "state" of the captions to take; empty: all that there are.
        digest: of what was captioned; None: the dataset's own.

    Raises:
        UserError: there are none, they are of something else, or two are by one writer.
    """
    root = Path(data)
    known = captions_of(root)
    found: dict[str, Captions] = {}
    for name in names or known:
        captions = Captions.open(root, name, digest)
        if (writer := captions.header["source"]) in found:
            raise UserError(
                f"two captions by {writer!r} are beside {root} ({', '.join(known)}): name one in text.captions"
            )
        found[writer] = captions
    if not found:
        raise UserError(f"{root} has no captions: make some with videowm caption, or leave `text` out")
    return found


@dataclass(frozen=True)
class WindowCaptions:
    """The captions of all windows of a split's clips."""

    captions: list[str]  # each once; number 0 is the empty one
    table: Tensor  # int64 "n s writer form", number of the caption of clip n's window from latent step s on, or 0

    @classmethod
    def of(cls, latents: Latents, sources: dict[str, Captions], window: int, known: list[str]) -> WindowCaptions:
        """Every window of `window` latent steps takes the caption whose clip's frames overlap its own the most.

        `known` are captions that have their numbers already, "" first; the first of equal overlaps is taken.
        """
        numbers = {caption: number for number, caption in enumerate(known)}
        starts = latents.index.steps - window + 1
        table = np.zeros((len(latents), starts, len(WRITERS), len(FORMS)), np.int64)
        step = np.arange(starts)
        first = np.where(step == 0, 0, 1 + latents.stride * (step - 1))
        last = latents.stride * (step + window - 1)
        for writer, captions in sources.items():
            by_episode = defaultdict(list)
            for key in captions:
                by_episode[key.episode].append(key)
            for clip, (episode, start) in enumerate(zip(*(part.tolist() for part in latents.places()))):
                if not (keys := by_episode.get(episode)):
                    continue
                begin, length = (np.array([getattr(key, name) for key in keys]) for name in ("start", "frames"))
                shared = np.minimum((start + last)[:, None] + 1, begin + length)
                shared = shared - np.maximum((start + first)[:, None], begin)  # frames, "starts keys"
                best = shared.argmax(1)
                for s in np.flatnonzero(shared.max(1) > 0):
                    caption = captions[keys[best[s]]]
                    for form, name in enumerate(FORMS):
                        number = numbers.setdefault(getattr(caption, name), len(numbers))
                        table[clip, s, WRITERS.index(writer), form] = number
        return cls(list(numbers), torch.from_numpy(table))

    def choose(self, clip: int, start: int, *, synthetic: bool, short: bool) -> tuple[int, int]:
        """(caption's number, its writer's) of a window; the other writer's where the one asked for has none."""
        writer = int(synthetic)
        if not self.table[clip, start, writer, 0]:
            writer = 1 - writer
        return int(self.table[clip, start, writer, int(short)]), writer


def embedded(captions: list[str], encode: Callable[[list[str]], TextTokens], folder: Path) -> TextTokens:
    """Features and mask of every caption; what `folder` does not hold yet is computed, once, and written there."""
    digests = [hashlib.sha256(caption.encode(errors="replace")).digest() for caption in captions]
    held = read_features(folder)
    missing = [(digest, caption) for digest, caption in zip(digests, captions) if digest not in held]
    if missing:
        tokens, mask = encode([caption for _, caption in missing])
        rows = torch.tensor([list(digest) for digest, _ in missing], dtype=torch.uint8)
        write_features(folder, {"digest": rows, "tokens": tokens, "mask": mask})
        held |= {digest: (t, m) for (digest, _), t, m in zip(missing, tokens, mask)}
    return tuple(torch.stack(parts) for parts in zip(*(held[digest] for digest in digests)))


def read_features(folder: Path) -> dict[bytes, TextTokens]:
    """{sha256 of a caption: features "m e", mask "m"} of all whole files of a folder."""
    held: dict[bytes, TextTokens] = {}
    for path in visible(folder, "*.safetensors"):
        try:
            part = load_file(path)
            rows = zip(part["digest"].tolist(), part["tokens"], part["mask"], strict=True)
            held |= {bytes(row): (tokens, mask) for row, tokens, mask in rows}
        except (SafetensorError, OSError, KeyError, ValueError):  # damaged: computed again
            continue
    return held


def write_features(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Whole or not there, beside what is there; the name follows from the captions."""
    name = short_hash(tensors["digest"].numpy().tobytes())
    with atomic(folder / f"{name}.safetensors") as aside:
        save_file({key: value.contiguous() for key, value in tensors.items()}, aside)
