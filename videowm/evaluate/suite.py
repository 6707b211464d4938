"""Everything that is measured on one finished world model, in one place."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from videowm.data.dataset import Dataset
from videowm.dit import DiT
from videowm.evaluate.control import control, delay, delta_psnr, loss_ratio
from videowm.evaluate.counterfactual import Replay, counterfactual, counterfactual_state, forced_rollouts, play_random
from videowm.evaluate.counts import counts
from videowm.evaluate.curves import MetricCurve, Pairs, pairs
from videowm.evaluate.detector import Detector, check_detector
from videowm.evaluate.drift import drift
from videowm.evaluate.features import Features
from videowm.evaluate.fidelity import fidelity
from videowm.evaluate.frechet import frechet
from videowm.evaluate.heldout import Bank, acted, bank_losses, shuffled
from videowm.evaluate.leaks import leaks
from videowm.evaluate.reader import Reader, check_reader
from videowm.evaluate.readings import read_scenes
from videowm.evaluate.returns import returns
from videowm.evaluate.rollouts import RolloutConfig
from videowm.evaluate.scenes import Scenes
from videowm.evaluate.state import state
from videowm.evaluate.surprise import learnable, surprise
from videowm.evaluate.text_control import text_control
from videowm.evaluate.text_facts import text_facts
from videowm.files import short_hash
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError
from videowm.worlds import find_world


@dataclass(frozen=True)
class Instruments:
    """What a run is measured with, beside its own pixels."""

    reader: Reader | None = None
    features: Features | None = None
    counterfactuals: int = 16  # starts that the real game is played from; 0: none
    returns: int = 0  # starts from which a view is left and seen again; 0: none
    text_guidance: float = 1.0  # of the sampler where the effect of text is measured
    detector: Detector | None = None  # counts what cannot happen


def measured(curves: Iterable[MetricCurve]) -> Pairs:
    """What is yielded of curves: means, the curves themselves, and how they drift."""
    for curve in curves:
        yield from pairs(curve)
        yield from drift(curve)


def suite(scenes: Scenes, pipeline: WorldModelPipeline, dataset: Dataset, config: RolloutConfig,
          instruments: Instruments) -> Pairs:  # fmt: skip
    """All evaluators of rollouts on the same scenes: pairs (name, value).

    Raises:
        UserError: the reader is of another world or frame size, or its window is longer than the horizon.
    """
    device, batch, reader = pipeline.device, config.batch, instruments.reader
    yield "about", about(scenes, dataset, instruments) | {"sampler": asdict(config.sampler)}
    yield from measured(fidelity(scenes, device=device, batch=batch))
    yield from against_the_game(scenes, pipeline, dataset, config, instruments)
    if reader is not None:
        check_reader(reader, dataset)
        readings = read_scenes(reader, scenes, dataset)
        yield from measured(control(readings))
        yield from delay(readings)
        yield from measured(state(readings))
        world = find_world(dataset.name)
        yield from counts(readings, reader, world.COUNTED if world else ())
        if pipeline.reads is not None:
            guided = replace(config, sampler=replace(config.sampler, text_guidance=instruments.text_guidance))
            yield from text_control(pipeline, dataset, scenes, guided, reader)
            yield from text_facts(pipeline, dataset, scenes, guided, reader)
    if instruments.returns:
        yield from returns(pipeline, dataset, config, instruments.returns, reader)
    if instruments.detector is not None:
        check_detector(instruments.detector, dataset)
        yield from leaks(scenes, instruments.detector)
    if instruments.features is not None:
        try:
            yield from dict(frechet(scenes, instruments.features)).items()
        except UserError as refusal:  # too few clips: the refusal is recorded, the rest of the work is kept
            yield f"frechet/{instruments.features.name}_refused", str(refusal)


def against_the_game(scenes: Scenes, pipeline: WorldModelPipeline, dataset: Dataset, config: RolloutConfig,
                     instruments: Instruments) -> Pairs:  # fmt: skip
    """What compares with the real game under other actions.

    Where the game cannot be played again the reason is recorded, and only what needs no game is measured.
    """
    device, batch, count = pipeline.device, config.batch, instruments.counterfactuals
    replay, played, began = None, None, time.perf_counter()
    if not scenes.acted:
        why = f"no action varies in the data (actions: {dataset.source}), so nothing tells whether they are obeyed"
        yield "counterfactual/game_refused", why
        return
    try:
        if count:
            replay = Replay(dataset)
            played = play_random(pipeline, replay, scenes, config, count)
            made, left_out = forced_rollouts(pipeline, replay, replace(config, clips=count))
    except UserError as refusal:
        yield "counterfactual/game_refused", f"no other actions in the real game: {refusal}"
        replay = None
    yield from delta_psnr(scenes, played, device=device, batch=batch)
    if replay is None:
        return
    yield "counterfactual/starts", len(made[0].real)
    yield "counterfactual/left_out", left_out
    yield "counterfactual/game_seconds", round(time.perf_counter() - began, 1)
    for curve in counterfactual(made, device=device, batch=batch):
        yield from pairs(curve)
        yield from drift(curve) if curve.name == "counterfactual/psnr" else ()
    if instruments.reader is not None:
        yield from measured(counterfactual_state(made, instruments.reader, dataset.state_names))


def suite_of_bank(models: list[DiT], bank: Bank, batch: int, patch: tuple[slice, slice] | None) -> Pairs:
    """What needs no rollout, of the last of the models; with smaller ones before it, also what can still be learned."""
    true = bank_losses(models[-1], bank, bank.actions, batch).mean(1).numpy()
    if acted(bank):
        wrong = bank_losses(models[-1], bank, shuffled(bank), batch).mean(1).numpy()
        yield from loss_ratio(true, wrong, bank.episode)
    yield from surprise(true, bank)
    if len(models) > 1:
        yield from learnable(models, bank, batch, patch)


def about(scenes: Scenes, dataset: Dataset, instruments: Instruments) -> dict[str, object]:
    """What must be equal before two runs' numbers compare."""
    starts = json.dumps([scenes.episode.tolist(), scenes.first.tolist(), scenes.context])
    return {
        "clips": len(scenes.episode),
        "episodes": len(np.unique(scenes.episode)),
        "context": scenes.context,
        "horizon": scenes.horizon,
        "starts": short_hash(starts),
        "data": dataset.hash,
        "actions": dataset.source,
        "reader": instruments.reader.hash if instruments.reader else None,
        "features": instruments.features.hash if instruments.features else None,
        "detector": instruments.detector.hash if instruments.detector else None,
    }


def ranked(scenes: Scenes) -> dict[str, int]:
    """The numbers of the clips that a page shows: best, median and worst by PSNR over the predicted frames."""
    error = (scenes.future("dreamed") - scenes.future("truth")).square().flatten(2).mean(2)
    order = torch.log10(error.clamp_min(1e-10)).mean(1).argsort().tolist()
    return {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
