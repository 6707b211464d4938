"""An autoencoder that runs for as long as one likes: exactness, memory and speed of its streams.

Encodes and decodes `--steps` latent steps of held-out frames, one at a time. Prints the measured field in time, the
error of shorter windows, the window, peak memory and frames/s after a quarter, a half and the end, and the largest
difference from the whole clip over the first episode. Where the field has no bound (Cosmos without vae.local), it needs
a `--window`, and the difference is that window's error.

    python benchmarks/vae_stream.py runs/vae --data data/carracing --steps 10000
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from videowm.data.dataset import Dataset
from videowm.types import pixel_frames
from videowm.vae.codec import DiffusersCodec, load_vae, to_float
from videowm.vae.stream import StreamDecoder, StreamEncoder, decoder_field, encoder_field, window_error

WINDOWS = (2, 3, 4, 6, 8, 12, 16, 24, 32)


def endless(dataset: Dataset, stride: int, device: torch.device) -> Iterator[Tensor]:
    """The test episodes' frames, again and again: one, then `stride` at a time, "1 f 3 H W"."""
    first = True
    while True:
        for episode in dataset.split("test"):
            frames = to_float(dataset.frames(episode, range(int(dataset.lengths[episode]))), device)[None]
            if first:
                yield frames[:, :1]
                frames, first = frames[:, 1:], False
            yield from (part for part in frames.split(stride, dim=1) if part.shape[1] == stride)


def memory(device: torch.device) -> float:
    """Peak so far in MB, of the device where there is one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


@torch.no_grad()
def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("vae")
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--steps", type=int, default=10_000)
    p.add_argument("--window", type=int, default=None, help="latent steps (default: the shortest exact window)")
    args = p.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    codec = DiffusersCodec(load_vae(args.vae).to(device).eval())
    dataset = Dataset(args.data)
    episode = dataset.split("test")[0]
    length = pixel_frames(1 + (int(dataset.lengths[episode]) - 1) // codec.stride[0], codec.stride[0])
    latents = codec.encode(to_float(dataset.frames(episode, range(length)), device)[None])
    print(f"field: decoder {decoder_field(codec)}, encoder {encoder_field(codec)} latent steps (None: over 64)")
    for window in (w for w in WINDOWS if w < latents.shape[1]):
        error = window_error(codec, latents, window)
        print(f"window {window:3d}: newest frames off by {error:.1e} rms, {255 * error / 2:.3f} grey levels")
    encoder, decoder = StreamEncoder(codec, args.window), StreamDecoder(codec, args.window)
    print(f"windows: decoder {decoder.window}, encoder {encoder.window} (None: its layers remember)")
    whole = codec.decode(latents)
    began, seen, source = time.perf_counter(), [], endless(dataset, codec.stride[0], device)
    for step in range(args.steps):
        shown = decoder.step(encoder.step(next(source)))
        if step < latents.shape[1]:
            seen.append(shown)
        if step + 1 in {args.steps // 4, args.steps // 2, args.steps}:
            speed = pixel_frames(step + 1, codec.stride[0]) / (time.perf_counter() - began)
            print(f"step {step + 1}: peak memory {memory(device):.1f} MB, {speed:.1f} frames/s")
    first = torch.cat(seen, 1)
    print(f"largest difference from the whole clip: {(first - whole[:, : first.shape[1]]).abs().max():.1e}")


if __name__ == "__main__":
    main()
