"""How close predicted frames are to the true ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from videowm.evaluate.curves import MetricCurve
from videowm.evaluate.pictures import Frames, by_frame, gradients, lpips, ms_ssim, psnr, ssim
from videowm.evaluate.scenes import Scenes


def fidelity(scenes: Scenes, *, device: torch.device, batch: int = 16) -> Iterator[MetricCurve]:
    """Each metric by predicted frame: against the truth, and as `_to_vae` against the autoencoder's own picture of it.

    Ceiling: the autoencoder's reconstruction of the truth. Floor: the last context frame repeated. Against the
    reconstruction there is no ceiling, for the reconstruction itself would be perfect. Of sharpness the floor is the
    mean of all true clips: a repeated frame would be as sharp as it is wrong.
    """
    metrics: dict[str, Frames | None] = {"psnr": psnr, "ssim": ssim, "ms_ssim": ms_ssim, "lpips": lpips(device)}
    truth, decoded, dreamed, repeat = (scenes.future(k) for k in ("truth", "decoded", "dreamed", "repeat"))
    for name, metric in metrics.items():
        if metric is None:
            continue
        bounds = {"ceiling": by_frame(metric, decoded, truth, device, batch)}
        bounds["floor"] = by_frame(metric, repeat, truth, device, batch)
        values = by_frame(metric, dreamed, truth, device, batch)
        yield MetricCurve(f"fidelity/{name}", values, scenes.episode, bounds)
        floor = {"floor": by_frame(metric, repeat, decoded, device, batch)}
        values = by_frame(metric, dreamed, decoded, device, batch)
        yield MetricCurve(f"fidelity/{name}_to_vae", values, scenes.episode, floor)
    blurred = truth.mean(0, keepdim=True).expand_as(truth)
    bounds = {"ceiling": by_frame(gradients, decoded, truth, device, batch)}
    bounds["floor"] = by_frame(gradients, blurred, truth, device, batch)
    yield MetricCurve("fidelity/gradients", by_frame(gradients, dreamed, truth, device, batch), scenes.episode, bounds)
