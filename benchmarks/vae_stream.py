"""An autoencoder that decodes for as long as one likes: exactness, memory and speed of its stream.

Decodes `--steps` latent steps of held-out frames, one at a time. Prints the measured field in time, the error of
shorter windows, the window, peak memory and frames/s after a quarter, a half and the end, and the largest difference
from the whole clip over the first episode. Where the field has no bound (Cosmos without vae.local), it needs a
`--window`, and the difference is that window's error.

    python benchmarks/vae_stream.py runs/vae --data data/carracing --steps 10000
"""

from __future__ import annotations

import argparse
import resource
import time
from itertools import cycle
from pathlib import Path

import torch

from videowm.data.dataset import Dataset
from videowm.types import pixel_frames
from videowm.vae.codec import DiffusersCodec, load_vae, to_float
from videowm.vae.stream import StreamDecoder, decoder_field

WINDOWS = (2, 3, 4, 6, 8, 12, 16, 24, 32)


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
    print(f"field: {decoder_field(codec)} latent steps (None: over 64)")
    whole = codec.decode(latents)
    for window in (w for w in WINDOWS if w < latents.shape[1]):
        newest = codec.decode(latents[:, -window:])[:, -codec.stride[0] :]
        error = (newest - whole[:, -codec.stride[0] :]).square().mean().sqrt().item()
        print(f"window {window:3d}: newest frames off by {error:.1e} rms, {255 * error / 2:.3f} grey levels")
    decoder = StreamDecoder(codec, args.window)
    print(f"window: {decoder.window} (None: its layers remember)")
    began, seen = time.perf_counter(), []
    for step, latent in zip(range(args.steps), cycle(latents.split(1, dim=1))):
        shown = decoder.step(latent)
        if step < latents.shape[1]:
            seen.append(shown)
        if step + 1 in {args.steps // 4, args.steps // 2, args.steps}:
            speed = pixel_frames(step + 1, codec.stride[0]) / (time.perf_counter() - began)
            print(f"step {step + 1}: peak memory {memory(device):.1f} MB, {speed:.1f} frames/s")
    first = torch.cat(seen, 1)
    print(f"largest difference from the whole clip: {(first - whole[:, : first.shape[1]]).abs().max():.1e}")


if __name__ == "__main__":
    main()
