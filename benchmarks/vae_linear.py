"""What a linear path pays: the same training with and without it, of PatchAutoencoder and of diffusers' Cosmos.

    python benchmarks/vae_linear.py --data data/carracing --minutes 1 --autoencoder patch --linear --out linear.jsonl
    python benchmarks/vae_linear.py --table linear.jsonl        (one line a run, as JSON: benchmarks/vae_linear.json)

A run is one process with one thread, so that runs may stand side by side on the cores of one host. All have the loss,
batch and schedule of the presets: AdamW, the logarithm of a clip's squared error, 1 - sqrt over the second half of the
minutes. With the path, the linear maps begin at the PCA of the training data and the networks' last layers at zero.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from torch import nn

from videowm.data.clips import ClipStream
from videowm.data.dataset import Dataset
from videowm.data.resident import ResidentFrames
from videowm.evaluate.reconstruction import ReconstructionConfig, reconstruction, training_pca
from videowm.vae.codec import DiffusersCodec, SizeConfig, VAEConfig, build_vae, to_float
from videowm.vae.loss import VAELossConfig, vae_loss
from videowm.vae.patch import linear, set_maps
from videowm.vae.pca import PCA, from_blocks, to_blocks

CLASSES = {  # of about the same number of parameters
    "patch": VAEConfig("PatchAutoencoder", SizeConfig(width=128, layers=2)),
    "cosmos": VAEConfig("AutoencoderKLCosmos", SizeConfig(width=40), local=3, qk_norm=True),
}
RATE = {"patch": 2e-3, "cosmos": 3e-3}  # the presets'
FRAMES, BATCH = 9, 6
KEPT = ("psnr", "psnr_moved", "gradients")


class LinearPath(DiffusersCodec):
    """Any autoencoder plus a linear map each way, which begin at a PCA; the first frame goes in as copies of itself."""

    def __init__(self, vae: nn.Module, pca: PCA) -> None:
        super().__init__(vae)
        pixels, channels = pca.directions.shape
        vae.down, vae.up = nn.Conv2d(pixels, channels, 1), nn.Conv2d(channels, pixels, 1)
        set_maps(vae.down, vae.up, pca)
        with torch.no_grad():
            for layer in (
                vae.quant_conv,
                vae.decoder.conv_out.conv_t,
            ):  # the last ones: of two zeros in a row none learns
                for parameter in layer.parameters():
                    parameter.zero_()

    def encode_raw(self, frames):
        time, space, _ = self.stride
        copied = torch.cat([frames[:, :1].expand(-1, time - 1, -1, -1, -1), frames], dim=1)
        blocks = to_blocks(copied, time, space)
        added = linear(self.vae.down, blocks.flatten(0, 1)).unflatten(0, blocks.shape[:2])
        return super().encode_raw(frames) + added

    def decode_raw(self, latents, *, begins=True):
        time, space, _ = self.stride
        blocks = linear(self.vae.up, latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
        return super().decode_raw(latents) + from_blocks(blocks, time, space)[:, time - 1 :]


def build(name: str, *, path: bool, channels: int, dataset: Dataset) -> DiffusersCodec:
    """An autoencoder with or without the linear path."""
    config = CLASSES[name]
    size = SizeConfig(channels=channels, width=config.size.width, layers=config.size.layers)
    vae = build_vae(VAEConfig(config.model, size, local=config.local, qk_norm=config.qk_norm))
    codec = DiffusersCodec(vae)
    if name == "cosmos":
        return LinearPath(vae, training_pca(codec, dataset).later) if path else codec
    if path:
        vae.begin_at(training_pca(codec, dataset).later)
        return codec
    for layer in (vae.down, vae.up):  # nothing goes through the linear maps, ever
        for parameter in layer.parameters():
            parameter.requires_grad_(requires_grad=False).zero_()
    for half in (vae.encoder, vae.decoder):
        half[-1].reset_parameters()
    return codec


def train(codec: DiffusersCodec, dataset: Dataset, *, minutes: float, rate: float) -> int:
    """Train for so long; returns the number of steps."""
    clips, frames = ClipStream(dataset, frames=FRAMES, split="train", seed=0), ResidentFrames(dataset, "train")
    frames.decode(torch.device("cpu"))
    parameters = [p for p in codec.vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    loss_config, step = VAELossConfig(log=True, l1=0), 0
    began = time.perf_counter()
    while (done := (time.perf_counter() - began) / (60 * minutes)) < 1:
        batch = to_float(frames.of(frames.load(clips, list(range(step * BATCH, (step + 1) * BATCH))), FRAMES))
        with torch.autocast("cpu", torch.bfloat16):
            latents = codec.encode(batch)
            loss, _ = vae_loss(codec.decode_raw(latents), batch, latents, loss_config)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        factor = min(1, (step + 1) / 30) * (1 if done < 0.5 else 1 - math.sqrt((done - 0.5) / 0.5))
        optimizer.param_groups[0]["lr"] = rate * factor
        optimizer.step()
        optimizer.zero_grad()
        step += 1
    return step


def table(path: Path) -> str:
    """A Markdown table: world and minutes by row, autoencoders by column, dB held out."""
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    columns = [(name, path) for name in CLASSES for path in (True, False)]
    head = [
        "world, channels",
        "minutes",
        "PCA",
        *[f"{name}, {'with' if path else 'without'}" for name, path in columns],
    ]
    rows = [head, ["---"] * len(head)]
    for world, channels, minutes in sorted({(r["world"], r["channels"], r["minutes"]) for r in runs}):
        same = {(r["autoencoder"], r["linear"]): r for r in runs if (r["world"], r["minutes"]) == (world, minutes)}
        floor = next(iter(same.values()))["psnr_floor"]
        found = [f"{same[key]['psnr']:.1f}" if key in same else "" for key in columns]
        rows.append([f"{world}, {channels}", f"{minutes:g}", f"{floor:.1f}", *found])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--autoencoder", choices=CLASSES, default="patch")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--linear", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    if args.table:
        print(table(args.table))
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dataset = Dataset(args.data)
    codec = build(args.autoencoder, path=args.linear, channels=args.channels, dataset=dataset)
    steps = train(codec, dataset, minutes=args.minutes, rate=RATE[args.autoencoder])
    codec.vae.eval()
    found = dict(reconstruction(codec, dataset, ReconstructionConfig(clips=24)))
    run = {
        "world": dataset.name, "autoencoder": args.autoencoder, "linear": args.linear, "channels": args.channels,
        "minutes": args.minutes, "steps": steps, "params": sum(p.numel() for p in codec.vae.parameters()),
        **{f"{key}{end}": round(found[f"reconstruction/{key}{end}"], 3)
           for key in KEPT for end in ("", "_se", "_floor") if f"reconstruction/{key}{end}" in found},
    }  # fmt: skip
    with args.out.open("a") as file:
        file.write(json.dumps(run) + "\n")


if __name__ == "__main__":
    main()
