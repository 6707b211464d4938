"""`videowm evaluate` of a world model or an autoencoder: instruments, rollouts, numbers, page."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from videowm import config as configuration
from videowm.data.dataset import Dataset
from videowm.data.latents import FILE as LATENTS
from videowm.data.mixture import listed
from videowm.data.starts import STARTS, acted_dataset
from videowm.device import default_device
from videowm.dit import DiT
from videowm.dit.heads import Heads
from videowm.evaluate.choices import DecisionConfig
from videowm.evaluate.counterfactual import Replay
from videowm.evaluate.decision import decision
from videowm.evaluate.detector import Detector, check_detector
from videowm.evaluate.features import open_features
from videowm.evaluate.keeps import held_out, read_back, small_things
from videowm.evaluate.outcomes import Frozen, off_by
from videowm.evaluate.reader import Reader, check_reader
from videowm.evaluate.reconstruction import reconstructed, through, training_pca
from videowm.evaluate.rollouts import RolloutConfig, rollouts
from videowm.evaluate.scenes import make_scenes
from videowm.evaluate.suite import Instruments, suite, suite_of_bank
from videowm.evaluate.surprise import among_latents
from videowm.files import finite, write_json
from videowm.options import EvaluateOptions
from videowm.page import write_autoencoder_page, write_page
from videowm.pipeline import WorldModelPipeline
from videowm.record import RunRecord
from videowm.train.registry import finished_task
from videowm.train.tasks.vae import VAETask
from videowm.train.tasks.world import WorldTask
from videowm.types import UserError
from videowm.worlds import find_world


def measure(run: Path, options: EvaluateOptions) -> dict[str, Any]:
    """Measure a finished run and write evaluation.json. Returns its content: name -> value.

    Raises:
        UserError: the run is not finished, or the options do not fit it.
    """
    if not (run / "record.json").exists():
        raise UserError(f"{run} holds no finished run (no record.json): finish it with videowm train")
    if brought_starts(run):
        return measure_starts(run, options)
    task = finished_task(run, default_device())
    rolled = isinstance(task, WorldTask) and (options.clips or task.config.rollout.clips)
    if isinstance(task, VAETask):
        metrics = measure_autoencoder(run, options, task)
    else:
        if rolled:
            more = measure_world(run, options, task)
        else:
            more = measure_decisions(run, options, task) if isinstance(task, WorldTask) else {}
        metrics = finite(dict(task.evaluate()) | more)
    write_json(run / "evaluation.json", metrics)
    return metrics


def measure_world(run: Path, options: EvaluateOptions, task: WorldTask) -> dict[str, Any]:
    """Everything that is measured of a world model: on its bank, and on rollouts of it."""
    began = time.perf_counter()
    pipeline, dataset = task.pipeline(), task.dataset()
    config = rollout_config(pipeline, task.config.rollout, options)
    instruments, metrics = instruments_of(options, dataset, pipeline.device)
    smaller = [finished_model(run, task, pipeline.device) for run in options.smaller]
    metrics |= dict(suite_of_bank([*smaller, task.model], task.bank, task.config.heldout.batch, patch_of(pipeline)))
    metrics["evaluate/bank_seconds"] = round(time.perf_counter() - began, 1)
    metrics |= decisions(run, pipeline, dataset, config, options)
    return measure_rollouts(run, pipeline, dataset, config, instruments, metrics, began)


def measure_decisions(run: Path, options: EvaluateOptions, task: WorldTask) -> dict[str, Any]:
    """Decisions alone, of a run that has no rollouts to measure."""
    if not options.decisions:
        return {}
    pipeline = task.pipeline()
    config = rollout_config(pipeline, task.config.rollout, options)
    return decisions(run, pipeline, task.dataset(), config, options)


def decisions(
    run: Path, pipeline: WorldModelPipeline, dataset: Dataset, config: RolloutConfig, options: EvaluateOptions
) -> dict[str, Any]:
    """How good the model is to decide in, where that is asked.

    Raises:
        UserError: the run has no heads, or the game cannot be played again.
    """
    if not options.decisions:
        return {}
    began = time.perf_counter()
    heads = Heads.open(run, WorldModelPipeline.load_config(run).get("transformer_hash")).to(pipeline.device)
    frozen = Frozen(pipeline.transformer, config.sampler, pipeline.shift, pipeline.trained_on.window,
                    pipeline.text_conditioning(None, 1, 1))  # fmt: skip
    asked = DecisionConfig(moments=options.decisions, futures=options.futures)
    found = dict(decision(pipeline, frozen, heads, Replay(dataset), asked))
    return found | {"decision/futures": asked.futures, "decision/calibration": off_by(found["decision/reliability"]),
                    "decision/seconds": round(time.perf_counter() - began, 1)}  # fmt: skip


def rollout_config(pipeline: WorldModelPipeline, config: RolloutConfig, options: EvaluateOptions) -> RolloutConfig:
    """The run's own rollouts, with what the options say of them.

    Raises:
        UserError: the model was not trained for such a sampler.
    """
    given = {"clips": options.clips, "context_frames": options.context, "horizon": options.horizon,
             "batch": options.batch}  # fmt: skip
    config = replace(config, **{k: v for k, v in given.items() if v is not None})
    pipeline.check_sampler(replace(config.sampler, text_guidance=options.text_guidance))
    return config


def brought_starts(run: Path) -> bool:
    """Whether a run was pushed with stretches to start from, and came without its latents."""
    latents = configuration.read(run / "config.yaml").get("latents") if (run / STARTS).is_dir() else None
    return latents is not None and not all((Path(folder) / LATENTS).exists() for folder in listed(latents))


def measure_starts(run: Path, options: EvaluateOptions) -> dict[str, Any]:
    """What can be measured without latents: rollouts from the stretches that a pushed run brought along.

    Raises:
        UserError: decisions are asked for, which need whole games.
    """
    if options.decisions:
        raise UserError(f"{run} brings only stretches of games, and decisions need whole ones: leave out --decisions, "
                        "or evaluate a run beside its recording and latents")  # fmt: skip
    began, dataset = time.perf_counter(), acted_dataset(run, run / STARTS)
    pipeline = WorldModelPipeline.open(run).to(default_device())
    own = configuration.read(run / "config.yaml").get("rollout", {})
    config = rollout_config(pipeline, configuration.build(RolloutConfig, own, where=f"{run}/config.yaml"), options)
    instruments, metrics = instruments_of(options, dataset, pipeline.device)
    metrics = dict(rollouts(pipeline, dataset, config)) | metrics
    metrics = finite(measure_rollouts(run, pipeline, dataset, config, instruments, metrics, began))
    write_json(run / "evaluation.json", metrics)
    return metrics


def measure_rollouts(
    run: Path, pipeline: WorldModelPipeline, dataset: Dataset, config: RolloutConfig, instruments: Instruments,
    metrics: dict[str, Any], began: float,
) -> dict[str, Any]:  # fmt: skip
    """`metrics` and everything that is measured on rollouts; their page and clips are written."""
    laps = [time.perf_counter()]

    def lap(what: str) -> None:
        laps.append(time.perf_counter())
        metrics[f"evaluate/{what}_seconds"] = round(laps[-1] - laps[-2], 1)

    scenes = make_scenes(pipeline, dataset, config)
    lap("rollouts")
    metrics |= dict(suite(scenes, pipeline, dataset, config, instruments))
    lap("suite")
    trained_on, record = pipeline.trained_on, RunRecord.read(run)
    metrics["about"]["model"] = {"world": trained_on.world, "depth": record.depth, "steps": record.steps,
                                 "parameters": record.params["body"], "flops": record.flops["train"]}  # fmt: skip
    metrics = finite(metrics)
    write_page(run, metrics, scenes, trained_on.action_names, trained_on.fps)
    lap("page")
    metrics["evaluate/seconds"] = round(laps[-1] - began, 1)
    return metrics


@torch.no_grad()
def measure_autoencoder(run: Path, options: EvaluateOptions, task: VAETask) -> dict[str, Any]:
    """What an autoencoder keeps of held-out clips and of small things in them; its page is written."""
    began = time.perf_counter()
    config, dataset = task.config.evaluate, task.dataset
    given = {"clips": options.clips, "batch": options.batch}
    config = replace(config, **{k: v for k, v in given.items() if v is not None})
    reader = None
    if options.reader is not None:
        reader = Reader.open(options.reader).to(default_device())
        check_reader(reader, dataset)
    metrics = dict(task.evaluate())
    held, refusal = held_out(dataset, clips=config.clips, frames=config.frames)
    decoded = reconstructed(held.frames, through(task.codec), config.batch)
    pca = reconstructed(held.frames, training_pca(task.codec, dataset).reconstruct, config.batch)
    metrics |= dict(small_things(held, {"": decoded, "_floor": pca}))
    if refusal:
        metrics["keeps/game_refused"] = refusal
    if reader is not None:
        metrics |= dict(read_back(reader, dataset, held, decoded))
    metrics = finite(metrics)
    write_autoencoder_page(run, metrics, held, decoded)
    metrics["evaluate/seconds"] = round(time.perf_counter() - began, 1)
    return metrics


def finished_model(run: Path, task: WorldTask, device: torch.device) -> DiT:
    """The transformer of a smaller run on the same latents as the task's.

    Raises:
        UserError: the smaller run was trained on latents of another autoencoder.
    """
    smaller = WorldModelPipeline.open(run)
    if smaller.trained_on.vae_hash != task.latents.index.vae_hash:
        raise UserError(f"{run} was trained on latents of another autoencoder: name runs of the same sweep")
    return smaller.transformer.to(device).eval()


def patch_of(pipeline: WorldModelPipeline) -> tuple[slice, slice] | None:
    """Where the world has a patch of pure noise, among its latents."""
    world = find_world(pipeline.trained_on.world)
    return among_latents(world.NOISE, pipeline.codec.stride) if world and world.NOISE else None


def instruments_of(
    options: EvaluateOptions, dataset: Dataset, device: torch.device
) -> tuple[Instruments, dict[str, Any]]:
    """The networks that read rollouts, refused before anything is rolled out, and their own held-out errors."""
    reader, own = None, {}
    if options.reader is not None:
        reader = Reader.open(options.reader).to(device)
        check_reader(reader, dataset)
        own = RunRecord.read(options.reader).metrics
    detector = None
    if options.leaks is not None:
        detector = Detector.open(options.leaks).to(device)
        check_detector(detector, dataset)
        own = own | RunRecord.read(options.leaks).metrics
    named = options.features or ("reader" if reader is not None else None)
    features = open_features(named, reader, device) if named else None
    return (
        Instruments(reader, features, options.counterfactuals, options.returns, options.text_guidance, detector),
        own,
    )
