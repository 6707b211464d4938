"""What a player feels: frames a second and the time from key to frame, in a real browser and without one; a soak.

    python benchmarks/play.py browser RUN --data DATA --out play.json     # a real Chromium, on the CPU
    python benchmarks/play.py soak RUN --data DATA --minutes 30 --out play_soak.json
    python benchmarks/play.py speed --depth 8 14 21 --out play_speed.json     # random weights; on a GPU

`browser` lets a bot press keys for a while: at the world's own frame rate, where the time from key to frame is taken by
the page (key event to the first frame drawn that the key conditions), and as fast as frames come. That time is the wait
for the next latent step and the rest; the bar is on the rest. `soak` has bots without a browser that press keys, start
anew, branch, pick and move latents; the server's memory and its answers' time are taken every minute. `speed` times a
latent step, from actions to pixels on the CPU, beside its floor: each pass of the sampler reads all weights of the body
once, and the modulations once a step. On an H200 some 110 s are expected, half of them compilation; `--stop-after 110`
leaves out what comes later, and the same command again measures that.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import timing

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
KEYS = ["ArrowUp", "ArrowLeft", "ArrowRight", "ArrowDown"]
BARS = {"frames/s": 30.0, "beyond the wait, p95": 60.0}
BANDWIDTH = {"H200": 4.8e12, "H100": 3.35e12}  # bytes/s, of the data sheets
# name -> (half precision, compiled and one CUDA graph, evaluations)
TRICKS = {
    "fp32": (False, False, 9),
    "bf16": (True, False, 9),
    "bf16, graph": (True, True, 9),
    "bf16, graph, 2 evaluations": (True, True, 2),
    "bf16, graph, 1 evaluation": (True, True, 1),
}

COLUMNS = {"body_m": ("M in the blocks", ".0f"), "stride": ("frames a step", ""), "model": ("trick", ""),
           "floor_ms": ("floor ms", ".2f"), "ms": ("ms a step", ".2f"), "ms_p95": ("p95", ".2f"),
           "pixels_ms": ("of it pixels", ".2f"), "gain": ("x fp32", ".2f"), "frames_s": ("frames/s", ".0f"),
           "key_max": ("key to frame ms, p50 / p95", ""), "key_paced": ("at the frame rate", ""),
           "first_ms": ("first ms", ".0f"), "filling_ms": ("window fills, ms", ".2f")}  # fmt: skip


def quantiles(values: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    ordered = sorted(values)
    at = lambda q: round(ordered[min(len(ordered) - 1, int(q * len(ordered)))], 2)  # noqa: E731
    return {"p50": at(0.5), "p95": at(0.95), "count": len(ordered)} if ordered else {"count": 0}


@contextmanager
def serving(runs: list[Path], data: Path, *more: str):
    """A server of its own process: (its address, the process as psutil sees it)."""
    with tempfile.TemporaryDirectory() as out, (Path(out) / "log").open("w+") as log:
        command = [sys.executable, "-m", "videowm", "play", *map(str, runs), "--from", str(data), "--port", "0",
                   "--out", out, "--device", "cpu", *more]  # fmt: skip
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            while not (found := re.search(r"play at (\S+)", Path(log.name).read_text())):
                if process.poll() is not None:
                    raise RuntimeError(Path(log.name).read_text())
                time.sleep(0.1)
            yield found[1], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(20)


def browser(args: argparse.Namespace) -> dict:
    """A bot in a real Chromium: with the real game beside the dream, and without."""
    from playwright.sync_api import sync_playwright

    found = {}
    with serving(args.runs, args.data) as (address, _), sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        path = own if os.path.exists(own) else shutil.which("chromium")
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        for name in ("dream", "dream and real game"):
            page = chromium.new_page(viewport={"width": 1280, "height": 800})
            page.goto(address)
            until(page, "videowm.state.steps > 3")
            if name == "dream":
                page.uncheck("#real")
            found[name] = at_pace(page, args.seconds) | at_most(page, args.seconds)
            timing.say(f"{name}: {found[name]}")
            page.close()
        chromium.close()
    alone = found["dream"]
    verdicts = {"frames/s": alone["frames/s"] >= BARS["frames/s"],
                "beyond the wait, p95": alone["beyond the wait"]["p95"] <= BARS["beyond the wait, p95"]}  # fmt: skip
    return {"runs": [run.name for run in args.runs], "bars": BARS, "held": verdicts, **found}


def until(page, expression: str) -> None:
    """Wait until the page says so."""
    while not page.evaluate(f"window.videowm && (({expression}))"):
        time.sleep(0.05)


def at_pace(page, seconds: float) -> dict:
    """Keys at random moments, at the world's own frame rate."""
    draw, end = random.Random(0), time.monotonic() + seconds
    page.evaluate("setTimeout(() => videowm.forget(), 1000)")
    time.sleep(1.2)
    while time.monotonic() < end:
        key = draw.choice(KEYS)
        page.keyboard.down(key)
        time.sleep(draw.uniform(0.05, 0.6))
        page.keyboard.up(key)
        time.sleep(draw.uniform(0.05, 0.6))
    taken = page.evaluate("videowm.latencies")
    names = {"key to frame": "totals", "wait for the step": "waits", "beyond the wait": "rests",
             "from asking to answer": "trips", "model": "models"}  # fmt: skip
    return {name: quantiles(taken[key]) for name, key in names.items()} | {
        "frames/s, paced": page.evaluate("videowm.state.fps")
    }


def at_most(page, seconds: float) -> dict:
    """Frames a second as fast as they come; no more than the screen's own."""
    page.click("#speeds [data-value='Infinity']")
    time.sleep(2)
    seen = []
    for _ in range(max(1, round(seconds / 2))):
        time.sleep(1)
        seen.append(page.evaluate("videowm.state.fps"))
    page.click("#speeds [data-value='1']")
    return {"frames/s": statistics.median(seen)}


class Bot(threading.Thread):
    """A player without a browser, who does everything that a page does, at the pace of frames or faster."""

    def __init__(self, address: str, seed: int, stop: threading.Event, pace: float) -> None:
        super().__init__(daemon=True)
        self.address, self.draw, self.stop, self.pace = address, random.Random(seed), stop, pace
        self.took: list[float] = []
        self.refused: list[str] = []
        self.steps = 0

    def run(self) -> None:
        from websockets.sync.client import connect

        with connect(self.address.replace("http", "ws") + "play", max_size=None) as web:
            self.web, hello = web, json.loads(web.recv())
            self.actions = [control["action"] for control in hello["controls"]]
            self.episodes, self.frames = hello["episodes"], hello["frames"]
            self.ask(type="start", episode=0, frame=20)
            while not self.stop.is_set():
                self.turn(self.frames / (hello["fps"] * self.pace))

    def ask(self, **message) -> float:
        """Send a message, wait for its answer; milliseconds."""
        began = time.perf_counter()
        self.web.send(json.dumps(message))
        answer = self.web.recv()
        took = 1e3 * (time.perf_counter() - began)
        if isinstance(answer, str) and json.loads(answer).get("refused"):
            self.refused.append(answer)
        return took

    def turn(self, seconds: float) -> None:
        """One step, and now and then something else."""
        began, chance = time.perf_counter(), self.draw.random()
        self.took.append(
            self.ask(type="step", number=self.steps, actions=[self.draw.choice(self.actions)] * self.frames)
        )
        self.steps += 1
        if chance < 0.01:
            episode = self.draw.randrange(len(self.episodes))
            self.ask(type="start", episode=episode, frame=self.draw.randrange(self.episodes[episode]))
        elif chance < 0.03:
            self.ask(type="branch", kind=self.draw.choice(["chance", "actions"]))
            for number in range(3):
                self.ask(type="step", number=number, actions=[self.actions[0]] * self.frames)
            self.ask(type="pick", row=0)
        elif chance < 0.04:
            self.ask(type="move", where="frame", values={"0": self.draw.uniform(-3, 3)})
        elif chance < 0.05:
            self.ask(type="tune", steps=self.draw.choice([1, 2, 3]), temperature=self.draw.choice([0.5, 1.0]))
        elif chance < 0.06:
            self.ask(type="drive", by=self.draw.choice(["episode", "random", "person"]))
        time.sleep(max(0.0, seconds - (time.perf_counter() - began)))


def soak(args: argparse.Namespace) -> dict:
    """Bots press keys; a row a minute."""
    stop, rows = threading.Event(), []
    with serving(args.runs, args.data, "--sessions", str(args.players)) as (address, process):
        bots = [Bot(address, i, stop, args.pace) for i in range(args.players)]
        for bot in bots:
            bot.start()
        began = time.monotonic()
        while time.monotonic() - began < 60 * args.minutes:
            time.sleep(min(60.0, 60 * args.minutes / 12))
            took = [t for bot in bots for t in bot.took]
            for bot in bots:
                bot.took = []
            minute, rss = round((time.monotonic() - began) / 60, 2), round(process.memory_info().rss / 2**20, 1)
            row = {"minute": minute, "rss_mb": rss, "threads": process.num_threads()}
            rows.append(row | {f"ms_{name}": value for name, value in quantiles(took).items()})
            timing.say(str(rows[-1]))
            if not all(bot.is_alive() for bot in bots):
                raise RuntimeError("a bot ended early")
        stop.set()
        for bot in bots:
            bot.join(30)
    refused = [text for bot in bots for text in bot.refused]
    steps = sum(bot.steps for bot in bots)
    return {"players": args.players, "pace": args.pace, "steps": steps, "refused": len(refused),
            "first_refused": refused[:1], "summary": drift(rows), "minutes": rows}  # fmt: skip


def drift(rows: list[dict]) -> dict:
    """How memory and answers moved from the first third, warm-up left out, to the last."""
    warm = rows[len(rows) // 6 :]
    third = max(1, len(warm) // 3)
    first, last = warm[:third], warm[-third:]
    mean = lambda part, key: round(statistics.mean(row[key] for row in part), 2)  # noqa: E731
    keys = ("rss_mb", "ms_p50", "ms_p95")
    slope = np.polyfit([row["minute"] for row in warm], [row["rss_mb"] for row in warm], 1)[0] if len(warm) > 2 else 0.0
    return {key: [mean(first, key), mean(last, key)] for key in keys} | {"rss_mb_a_minute": round(float(slope), 3)}


def speed(args: argparse.Namespace) -> list[dict]:
    """A latent step of models of random weights, by depth and trick; a table after each depth."""
    results = timing.Results(args.out, ("depth", "model", "stride"))
    rate = timing.opening()
    for depth in args.depth:
        timing.free()
        pipeline = None
        for trick in args.tricks:
            row = {"depth": depth, "model": trick, "stride": args.stride, "matmul_tflops": rate}

            def measured(depth: int = depth, trick: str = trick) -> dict:
                nonlocal pipeline
                pipeline = pipeline or random_pipeline(depth, args).to(timing.device())
                return stepped(pipeline, trick, args)

            timing.attempt(results, row, measured, args, fresh=False)  # what was compiled serves all tricks of a depth
        print(timing.markdown(with_gains(results.rows), COLUMNS), flush=True)
    return results.rows


def with_gains(rows: list[dict]) -> list[dict]:
    """The rows, each with how many times as fast as float32 of the same model it is."""
    plain = {(row["depth"], row["stride"], row["device"]): row.get("ms") for row in rows if row["model"] == "fp32"}
    gain = lambda row, ms: round(ms / row["ms"], 2) if ms and row.get("ms") else None  # noqa: E731
    both = lambda row, name: (v := row.get(f"key_ms_{name}")) and f"{v['p50']:.1f} / {v['p95']:.1f}"  # noqa: E731
    return [row | {"gain": gain(row, plain.get((row["depth"], row["stride"], row["device"]))),
                   "key_max": both(row, "max"), "key_paced": both(row, "paced")} for row in rows]  # fmt: skip


def stepped(pipeline, trick: str, args: argparse.Namespace) -> dict:
    """Times of one model and trick, its floor, and the first steps with the window filled by the context or not."""
    import torch

    half, graph, evaluations = TRICKS[trick]
    pipeline.transformer.to(torch.bfloat16 if half else torch.float32)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    context = torch.rand(1, 1 + args.stride * (args.window - 2), 3, args.size, args.size) * 2 - 1
    stream = opened(pipeline, context, evaluations, graph=graph)
    first = [timed(stream) for _ in range(min(5, args.steps))]
    times, end = [], time.monotonic() + args.seconds
    while len(times) < args.steps and (len(times) < 20 or time.monotonic() < end):
        times.append(timed(stream))
    filling = []
    if not graph:  # compiled, masks are a variant of their own, which costs seconds here
        short = opened(pipeline, context[:, :1], evaluations, graph=False)
        filling = [timed(short) for _ in range(args.window - 2)]
    step, key = quantiles(times), {f"key_ms_{name}": quantiles(values) for name, values in waits(times, args).items()}
    timing.say(f"  {step}, first {first[0]:.0f} ms, while the window fills {quantiles(filling)}")
    return {"ms": step["p50"], "ms_p95": step["p95"], "frames_s": round(1e3 * args.stride / step["p50"], 1), **key,
            "steps": len(times), "pixels_ms": pixels(pipeline, stream), "first_ms": round(first[0], 1),
            "filling_ms": quantiles(filling).get("p50"), "gib": timing.peak_gib(),
            **floor(pipeline, evaluations, half=half)}  # fmt: skip


def waits(times: list[float], args: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds from a key at a random moment to its first frame, without web and screen.

    "max": steps follow one another, and a key counts for the one after that under way. "paced": at `--fps` a step is
    asked for so that nine in ten are there in time, as the page does.
    """
    draw = random.Random(0)
    ahead = [draw.uniform(0, now) + after for now, after in zip(times, times[1:]) for _ in range(10)]
    lead, between = sorted(times)[int(0.9 * len(times))], 1e3 * args.stride / args.fps
    return {"max": ahead, "paced": [draw.uniform(0, between) + max(lead, took) for took in times for _ in range(10)]}


def pixels(pipeline, stream) -> float:
    """Milliseconds of a latent step's decoding, to uint8 on the CPU."""
    from videowm.vae.codec import to_uint8

    def once() -> float:
        began = time.perf_counter()
        to_uint8(stream.decoder.step(pipeline.denormalise(stream.last)))
        return 1e3 * (time.perf_counter() - began)

    return quantiles([once() for _ in range(20)])["p50"]


def random_pipeline(depth: int, args: argparse.Namespace):
    """A pipeline of random weights of the studies' shape: 8x8 latents of 16 channels, patches of 2."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    from videowm.actions.group import grouped_size
    from videowm.dit import DiT
    from videowm.pipeline import WorldModelPipeline
    from videowm.vae.codec import weights_hash
    from videowm.vae.patch import PatchAutoencoder

    torch.manual_seed(0)
    side, channels = args.size // 8, 16
    vae = PatchAutoencoder(channels, args.stride, 8, 256, 4).eval()
    about = {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels, "action_mean": [0.0] * 3,
             "action_std": [1.0] * 3, "action_names": ["a", "b", "c"], "world": "none", "fps": 12.5,
             "window": args.window, "vae_hash": weights_hash(vae)}  # fmt: skip
    model = DiT(depth=depth, channels=channels, height=side, width=side, actions=grouped_size(3, args.stride),
                trained_on=about).eval()  # fmt: skip
    return WorldModelPipeline(vae, model, FlowMatchEulerDiscreteScheduler(shift=1.0))


def opened(pipeline, context, evaluations: int, *, graph: bool):
    """A video that goes on behind a context."""
    import torch

    from videowm.dit.sample import Sampler

    sampler = Sampler() if evaluations == 9 else Sampler(evaluations, "euler", context_level=0.0)
    return pipeline.start(context, torch.zeros(1, context.shape[1] - 1, 3), sampler=sampler, graph=graph)


def timed(stream) -> float:
    """Milliseconds of one latent step, from actions to uint8 pixels on the CPU."""
    import torch

    from videowm.vae.codec import to_uint8

    actions = torch.randn(1, stream.pipeline.time_stride, 3)
    began = time.perf_counter()
    to_uint8(stream.step(actions))
    return 1e3 * (time.perf_counter() - began)


def floor(pipeline, evaluations: int, *, half: bool) -> dict:
    """The least time of a latent step: weights over the memory's bandwidth, and operations over the card's rate."""
    model = pipeline.transformer
    size = 2 if half else 4
    body = sum(p.numel() for block in model.blocks for p in block.parameters())
    once = sum(p.numel() for p in model.parameters()) - body
    passes = evaluations + 1  # one more writes the finished step
    name = timing.device_name()
    bandwidth = next((rate for card, rate in BANDWIDTH.items() if card in name), None)
    read = size * (passes * body + once)
    flops = 2 * (passes * body * model.tokens + once * passes)
    return {"body_m": round(body / 1e6, 1), "all_m": round((body + once) / 1e6, 1), "read_gb": round(read / 1e9, 3),
            "tflop": round(flops / 1e12, 4), "floor_ms": bandwidth and round(1e3 * read / bandwidth, 3)}  # fmt: skip


def options() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = top.add_subparsers(dest="verb", required=True)
    for name in ("browser", "soak"):
        p = verbs.add_parser(name)
        p.add_argument("runs", type=Path, nargs="+")
        p.add_argument("--data", type=Path, required=True)
        p.add_argument("--out", type=Path)
        if name == "browser":
            p.add_argument("--seconds", type=float, default=40, help="of each of the two measurements")
        else:
            p.add_argument("--minutes", type=float, default=30)
            p.add_argument("--players", type=int, default=2)
            p.add_argument("--pace", type=float, default=1.0, help="times the world's frame rate")
    p = verbs.add_parser("speed")
    p.add_argument("--depth", type=int, nargs="+", default=[8, 14, 21], help="25M, 135M and 455M in the blocks")
    p.add_argument("--tricks", nargs="+", default=list(TRICKS), choices=list(TRICKS), metavar="TRICK")
    p.add_argument("--stride", type=int, default=4, help="frames of a latent step")
    p.add_argument("--window", type=int, default=16, help="latent steps")
    p.add_argument("--size", type=int, default=64, help="pixels of a side")
    p.add_argument("--steps", type=int, default=200, help="timed at most")
    p.add_argument("--seconds", type=float, default=1.5, help="of them, unless they are fewer than 20")
    p.add_argument("--fps", type=float, default=12.5, help="frame rate of the paced time from key to frame")
    p.add_argument("--out", type=Path)
    p.add_argument("--again", nargs="+", default=[], help="tricks to measure anew")
    p.add_argument("--stop-after", type=float)
    return top


def main(arguments: list[str] | None = None) -> dict | list[dict]:
    args = options().parse_args(arguments)
    if args.verb == "speed":
        return speed(args)
    found = {"browser": browser, "soak": soak}[args.verb](args)
    about = {"device": timing.device_name(), "cores": os.cpu_count(), "call": timing.CALL}
    found = about | {"versions": timing.versions(), "command": timing.command()} | found
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    print(json.dumps(main(), indent=1)[:4000])
