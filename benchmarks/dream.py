"""A world model as an environment: how fast it is, and how good it is to decide in.

`speed` steps N dreams at once under random actions and prints frames a second, days of play a day and memory, for each
N, with what a second of video costs and how fast the real game is. The sampler is the run's. `decide` encodes a
recording with rewards and ends by the run's own autoencoder, trains heads on the frozen run, whose folder gets them,
and ranks real courses of actions. `randomness` ranks them by a run with heads at several temperatures and levels of
noise. `practice` times what agents learn in: a latent step, dreams that begin anew from the stock or from video, and an
update of PPO. All print JSON, and write it with `--out`.

    python benchmarks/dream.py speed runs/world --rows 1 16 256 1024 --steps 400 --out benchmarks/dream_speed.json
    python benchmarks/dream.py decide runs/world --data data/takecover --moments 128 --out benchmarks/decision.json
    python benchmarks/dream.py randomness runs/world --moments 128 --out benchmarks/dream_randomness.json
    python benchmarks/dream.py practice runs/world --rows 256 1024 --context 4 --sampler steps=3 method=euler
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videowm.agents.practice import Practice
from videowm.agents.train import begun, learner_of
from videowm.agents.train import opened as opened_for_practice
from videowm.data.dataset import Dataset
from videowm.data.encode import encode_dataset
from videowm.data.recording import Recording
from videowm.device import default_device
from videowm.dit.heads import Heads
from videowm.dit.sample import sampler_of
from videowm.dream.env import DreamVectorEnv
from videowm.dream.rows import Dreams
from videowm.evaluate.choices import DecisionConfig
from videowm.evaluate.counterfactual import Replay
from videowm.evaluate.decision import decision
from videowm.evaluate.outcomes import Frozen
from videowm.files import as_json, finite, write_atomic
from videowm.options import DreamTrainOptions
from videowm.pipeline import WorldModelPipeline
from videowm.train.flops import model_flops
from videowm.train.loop import launch
from videowm.types import UserError
from videowm.vae.codec import to_float

CONFIG = Path(__file__).parents[1] / "configs/heads/base.yaml"
PEAKS = 10  # readings of the memory in a measurement of speed


def memory() -> float:
    """Peak so far in MB, of the device where there is one."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else host_memory()


def host_memory() -> float:
    """Peak so far of the process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """Frames a second of N dreams, after some steps in which a GPU records its graphs."""
    table = []
    for rows in args.rows:
        env = DreamVectorEnv(args.run, rows, data=args.data, observation=args.observation, horizon=args.horizon)
        env.action_space.seed(0)
        env.reset(seed=0)
        for _ in range(args.warm):
            env.step(env.action_space.sample())
        before, began, ends, peaks = memory(), time.perf_counter(), 0, []
        for step in range(1, args.steps + 1):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            ends += int((terminated | truncated).sum())
            if step * PEAKS // args.steps > len(peaks):
                peaks.append([round(memory(), 1), round(host_memory(), 1)])
        seconds = time.perf_counter() - began
        frames = args.steps * rows * env.dreams.stride / seconds
        table.append({"dreams": rows, "frames_per_second": round(frames, 1), "step_ms": 1000 * seconds / args.steps,
                      "days_a_day": round(frames / env.dreams.dataset.fps, 1), "begun_anew": ends,
                      "memory_mb": round(memory(), 1), "grown_mb": round(memory() - before, 1),
                      "device_and_host_mb_by_tenth": peaks})  # fmt: skip
        print(table[-1], flush=True)
    return {"run": Path(args.run).name, "observation": args.observation, **price(env.dreams), "speed": table}


def price(dreams: Dreams) -> dict[str, Any]:
    """FLOPs of a second of dreamed video with a full memory, and frames a second of the real game on one core.

    A latent step costs each evaluation of the sampler, and one pass that remembers it. Decoding is left out.
    """
    model, window, sampler = dreams.pipeline.transformer, dreams.pipeline.trained_on.window, dreams.sampler
    intervals = len(sampler.schedule(dreams.pipeline.shift)) - 1
    evaluations = 1 + (intervals if sampler.method == "euler" else 2 * intervals - 1)
    once = model_flops(model, window) - model_flops(model, window - 1)
    per_second = dreams.dataset.fps / dreams.stride * evaluations * once
    return {"evaluations": evaluations, "gflop_per_video_second": float(f"{per_second / 1e9:.4g}"),
            "real_frames_per_second": real_speed(dreams.dataset)}  # fmt: skip


def real_speed(dataset: Dataset, seconds: float = 2.0) -> float | None:
    """Frames a second that one core plays and draws of the recorded game; None where it is not here."""
    try:
        world = Recording.read(dataset.root).open()
    except UserError:
        return None
    world.reset(0)
    driver, frames, seed, began = world.driver(np.random.default_rng(0)), 0, 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        over = world.step(next(driver))[1]
        if over:
            world.reset(seed := seed + 1)
        else:
            world.render()
        frames += 1
    return round(frames / took, 1)


SETTINGS = (
    {}, *({"temperature": value} for value in (0.0, 0.5, 0.8, 1.15, 1.3)),
    *({"past_level": value} for value in (0.0, 0.1, 0.5)), *({"end_temperature": value} for value in (0.5, 2.0)),
)  # fmt: skip


def randomness(args: argparse.Namespace) -> dict[str, Any]:
    """Scores of decisions at each of `SETTINGS`, the default ones first."""
    pipeline, heads, frozen = opened(Path(args.run))
    replay, rows = Replay(Dataset(args.data)), []
    for settings in SETTINGS:
        config = DecisionConfig(moments=args.moments, courses=args.courses, futures=args.futures, ceiling=1, **settings)
        scores = dict(decision(pipeline, frozen, heads, replay, config))
        kept = ("regret", "regret_se", "spearman", "spearman_se", "auroc", "auroc_se", "brier", "brier_se")
        rows.append(settings | {key: scores.get(f"decision/{key}") for key in kept})
        print(rows[-1], flush=True)
    return {"run": Path(args.run).name, "moments": args.moments, "futures": args.futures, "settings": rows}


def opened(run: Path) -> tuple[WorldModelPipeline, Heads, Frozen]:
    """A run with heads on the default device."""
    pipeline = WorldModelPipeline.open(run).to(default_device())
    heads = Heads.open(run, pipeline.config.transformer_hash).to(pipeline.device)
    frozen = Frozen(pipeline.transformer.eval(), sampler_of(run), pipeline.shift, pipeline.trained_on.window,
                    pipeline.text_conditioning(None, 1, 1))  # fmt: skip
    return pipeline, heads, frozen


def decide(args: argparse.Namespace) -> dict[str, Any]:
    """Scores of heads, then of decisions."""
    pipeline, dataset, run = WorldModelPipeline.open(args.run), Dataset(args.data), Path(args.run)
    latents = Path(args.latents or run.parent / f"{run.name}-latents")
    if not (latents / "latents.json").exists():
        device = default_device()
        pipeline.to(device)
        encode_dataset(dataset, pipeline.codec, latents, vae=str(run / "vae"), frames=args.frames, batch=16,
                       to_frames=lambda clips: to_float(clips, device))  # fmt: skip
    heads_run = run.parent / f"{run.name}-heads"
    record = launch(CONFIG, [f"world={run}", f"latents={latents}", f"out={heads_run}", "train.trackers=[]",
                             *args.overrides])  # fmt: skip
    pipeline, heads, frozen = opened(run)
    began = time.perf_counter()
    config = DecisionConfig(moments=args.moments, courses=args.courses, futures=args.futures, ceiling=args.ceiling)
    found = dict(decision(pipeline, frozen, heads, Replay(dataset), config))
    return {"run": run.name, "heads": record.metrics, "decision": found, "seconds": time.perf_counter() - began}


def practice(args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds, medians of `--steps` repeats at most 20: a sixteenth of the dreams begins anew at once."""
    table = []
    for rows in args.rows:
        o = DreamTrainOptions(dreams=rows, starts=args.starts, context=args.context, sampler=tuple(args.sampler),
                              observation="memory" if args.observation == "memory" else "latents", data=args.data,
                              horizon=args.horizon)  # fmt: skip
        dreams = opened_for_practice(Path(args.run), o)
        learner = learner_of(begun(Path(args.run), dreams, o), dreams, o)
        idle = torch.zeros(rows, dreams.stride, len(dreams.dataset.action_names), device=dreams.device)
        learner.advance(1.0)
        some = list(range(max(1, rows // 16)))
        found = {"dreams": rows, "step_ms": median(lambda: dreams.step(idle), args.steps),  # noqa: B023
                 "stock_ms": median(lambda: dreams.again(some), args.steps),  # noqa: B023
                 "round_ms": median(lambda: learner.advance(1.0), min(3, args.steps)),  # noqa: B023
                 "update_ms": median(learner.ppo.train, min(3, args.steps))}  # fmt: skip
        dreams.generators = [torch.Generator() for _ in range(rows)]
        randoms = [np.random.default_rng(row) for row in some]
        begin = super(Practice, dreams).begin
        found["video_ms"] = median(lambda: begin(some, randoms, [None] * len(some)), min(5, args.steps))  # noqa: B023
        table.append(found)
        print(found, flush=True)
    return {"run": Path(args.run).name, "context": args.context, "observation": args.observation, "practice": table}


def median(work: Callable[[], Any], repeats: int) -> float:
    """Median milliseconds of some repeats, a GPU's work included."""
    taken = []
    for _ in range(min(repeats, 20)):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(1000 * (time.perf_counter() - began))
    return round(float(np.median(taken)), 2)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("speed", "decide", "randomness", "practice"))
    p.add_argument("run")
    p.add_argument("--data", type=Path, default=None, help="recording (default: that of the training)")
    p.add_argument("--out", type=Path, default=None)
    p.add_argument("--rows", type=int, nargs="+", default=[1, 16, 256])
    p.add_argument("--steps", type=int, default=200)
    p.add_argument("--warm", type=int, default=20)
    p.add_argument("--horizon", type=int, default=512)
    p.add_argument("--observation", choices=("frames", "latents", "memory"), default="latents")
    p.add_argument("--latents", default=None, help="latents with rewards and ends (default: made beside the run)")
    p.add_argument("--frames", type=int, default=33, help="frames of an encoded clip")
    p.add_argument("--moments", type=int, default=128)
    p.add_argument("--courses", type=int, default=16)
    p.add_argument("--futures", type=int, default=4)
    p.add_argument("--ceiling", type=int, default=32)
    p.add_argument("--starts", type=int, default=256, help="real moments in stock, of practice")
    p.add_argument("--context", type=int, default=None, help="latent steps before a dream, of practice")
    p.add_argument("--sampler", nargs="*", default=[], help="keys of the run's sampler to change, of practice")
    p.add_argument("--overrides", nargs="*", default=[], help="of configs/heads/base.yaml")
    return p


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    args = parser().parse_args(arguments)
    found = finite({"speed": speed, "decide": decide, "randomness": randomness, "practice": practice}[args.what](args))
    print(as_json(found).decode())
    if args.out:
        write_atomic(args.out, as_json(found))
    return found


if __name__ == "__main__":
    np.set_printoptions(precision=4)
    main()
