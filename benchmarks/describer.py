"""A small vision-language model that really describes clips, for the axis raw against recaptioned without a download.

A LLaVA of 3M parameters, taught on clips of one recording and the captions that its simulator's states give (as
`videowm caption --from-state` words them, in one phrasing), then served by `transformers serve` like any other model.
It looks at frames alone, so its captions of another recording are a describer's, with its mistakes; `score` says how
many. Run from the repository root; serving needs pip install "transformers[serving]":

    videowm record carracing --out data/teach --episodes 300 --frames 301 --seed 7 --test-share 0.1 --workers 16
    python benchmarks/describer.py teach data/teach --out runs/describer --minutes 5 --workers 8
    python benchmarks/describer.py describe data/carracing --model runs/describer --servers 4
    videowm caption data/carracing --from-state --clip-frames 33
    python benchmarks/describer.py score data/carracing
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from caption_server import FRAMES, IMAGE, Counting, Size, make_model, question, serve
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from videowm.data.captions import Captions, ClipKey, captions_of, captions_path, read_lines, write_lines
from videowm.data.dataset import Dataset
from videowm.worlds import open_world, world_class

CLIP_FRAMES = 33
SIZE = Size(words=700, image=IMAGE, patch=16, vision=(128, 512, 4, 4), text=(192, 512, 4, 4), phrases=True)


class Clips:
    """All frames, states and actions of a split in memory; windows of them and what their states say of them.

    Always in the same phrases: what is left to learn then is what can be seen.
    """

    def __init__(self, dataset: Dataset, split: str) -> None:
        self.world, self.episodes = open_world(dataset.name), dataset.split(split)
        self.frames = [scaled(dataset.frames(e, np.arange(dataset.lengths[e]))) for e in self.episodes]
        self.states = [dataset.states(e) for e in self.episodes]
        self.actions = [dataset.actions(e) for e in self.episodes]
        self.shown = np.linspace(0, CLIP_FRAMES - 1, FRAMES).round().astype(int)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """Frames uint8 "f H W 3" of a window and the answer that describes it."""
        i = int(rng.integers(len(self.frames)))
        start = int(rng.integers(len(self.frames[i]) - CLIP_FRAMES + 1))
        states = self.states[i][start : start + CLIP_FRAMES]
        actions = self.actions[i][start : start + CLIP_FRAMES - 1]
        words = np.random.default_rng(0)
        facts = self.world.facts(states)  # all of them, where a caption may leave some out
        short = self.world.sentence(facts, words) if facts else self.world.caption(states, actions, words)
        answer = {"short": short, "detailed": f"{short} {self.world.details(states, actions, words)}"}
        return self.frames[i][start + self.shown], json.dumps(answer)


def scaled(frames: np.ndarray) -> np.ndarray:
    """Frames "f H W 3" with a longer side of IMAGE pixels, as `videowm caption` sends them."""
    height, width = frames.shape[1:3]
    if max(height, width) == IMAGE:
        return frames
    size = width * IMAGE // max(height, width), height * IMAGE // max(height, width)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in frames])


@dataclass
class Batches(IterableDataset):
    """Endless batches, other ones in every worker: the question, the answer after it, and the pictures as the server's
    processor makes them."""

    clips: Clips
    processor: Any
    asked: torch.Tensor
    size: int

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = get_worker_info()
        rng, images = np.random.default_rng([1, worker.id if worker else 0]), self.processor.image_processor
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (images.image_mean, images.image_std))
        while True:
            frames, answers = zip(*(self.clips.draw(rng) for _ in range(self.size)), strict=True)
            pictures = torch.from_numpy(np.concatenate(frames)).permute(0, 3, 1, 2).float() / 255
            told = self.processor.tokenizer([answer + "</s>" for answer in answers], padding=True, padding_side="right",
                                            return_tensors="pt")  # fmt: skip
            ids = torch.cat([self.asked.expand(self.size, -1), told.input_ids], 1)
            mask = torch.cat([torch.ones(self.size, self.asked.shape[1], dtype=torch.long), told.attention_mask], 1)
            answer = told.input_ids.masked_fill(told.attention_mask == 0, -100)
            labels = torch.cat([torch.full((self.size, self.asked.shape[1]), -100), answer], 1)
            yield {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": (pictures - mean) / std}


def teach(args: argparse.Namespace) -> None:
    """Train for `--minutes`, with the learning rate falling to zero at their end; save after that."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = Dataset(args.data)
    clips, rng = Clips(dataset, "train"), np.random.default_rng(0)
    content = question(args.data, 0, CLIP_FRAMES)
    words = [part["text"] for part in content if part["type"] == "text"]
    model, processor = make_model(args.out, [*words, *(clips.draw(rng)[1] for _ in range(500))], SIZE)
    asked = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, add_generation_prompt=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.01)
    began, step, shown = time.monotonic(), 0, 0.0
    loader = DataLoader(Batches(clips, processor, asked["input_ids"], args.batch), None, num_workers=args.workers)
    for batch in loader:
        done = (time.monotonic() - began) / (60 * args.minutes)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, (step + 1) / 100, 2 * (1 - done))
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(**{key: value.to(device) for key, value in batch.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if time.monotonic() - shown > 5:
            print(f"{done:4.0%} step {step}, loss {loss.item():.3f}", flush=True)
            shown = time.monotonic()
    model.eval().float().cpu().save_pretrained(args.out)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{args.out}: {parameters / 1e6:.1f}M parameters, {step} steps, loss {loss.item():.3f}")


@contextmanager
def served_by_many(model: Path, servers: int, port: int = 0) -> Iterator[Counting]:
    """Several servers of a model, spread over the GPUs, behind one port (0: any free one); SIGTERM ends them too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    gpus, started = torch.cuda.device_count(), []
    where = [{"CUDA_VISIBLE_DEVICES": str(i % gpus)} if gpus else {} for i in range(servers)]
    try:
        with ThreadPoolExecutor(servers) as pool:
            begun = [pool.submit(serve, model, model / f"serve-{i}.log", "cuda" if gpus else "cpu", **more)
                     for i, more in enumerate(where)]  # fmt: skip
            started = [future.result() for future in begun]
        yield Counting([port for _, port in started], port)
    finally:
        for server, _ in started:
            server.terminate()


def serve_until_stopped(args: argparse.Namespace) -> None:
    """Until Ctrl-C or SIGTERM."""
    with suppress(KeyboardInterrupt), served_by_many(args.model, args.servers, args.port) as counter:
        print(f"{args.servers} servers behind http://127.0.0.1:{counter.server_port}/v1", flush=True)
        counter.serve_forever()


def describe(args: argparse.Namespace) -> None:
    """Let the model caption a recording through its servers, as `videowm caption` does with any model.

    It states every fact that it was taught. Some are then left out of its short captions, as in those of the state.
    """
    with served_by_many(args.model, args.servers) as counter:
        threading.Thread(target=counter.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{counter.server_port}/v1"
        code = subprocess.run([
            sys.executable, "-m", "videowm", "caption", str(args.data), "--base-url", url, "--model", str(args.model),
            "--frames", str(FRAMES), "--clip-frames", str(CLIP_FRAMES), "--image-size", str(IMAGE),
            "--max-tokens", "200", "--concurrency", str(4 * args.servers)]).returncode  # fmt: skip
    leave_facts_out(args.data, str(args.model))
    sys.exit(code)


def leave_facts_out(data: Path, model: str) -> None:
    """Keep one to all facts of each short caption by a model, where the world states several; twice changes nothing."""
    name = next((n for n, header in captions_of(data).items() if header.get("model") == model), "")
    lines = read_lines(path := captions_path(data, name))
    if not lines or not (facts := len(told_of(Dataset(data), next(iter(lines))))):
        return
    lines = list(lines.values())
    for line in lines:
        rng = np.random.default_rng([line["episode"], line["start"]])
        line["short"] = fewer(line["short"], facts, rng)
    write_lines(path, lines)


def fewer(caption: str, facts: int, rng: np.random.Generator) -> str:
    """A sentence of `facts` phrases after "seen", with one to all of them; another sentence comes back as it is."""
    who, seen, rest = caption.partition(" seen ")
    phrases = rest.rstrip(".").split(", ")
    if not seen or len(phrases) != facts:
        return caption
    some = sorted(rng.permutation(facts)[: rng.integers(1, facts + 1)])
    return f"{who}{seen}{', '.join(phrases[i] for i in some)}."


def told_of(dataset: Dataset, key: ClipKey) -> dict[str, str]:
    """The facts that the state tells of a clip."""
    return world_class(dataset.name)().facts(dataset.states(key.episode)[key.start : key.start + key.frames])


def score(args: argparse.Namespace) -> None:
    """How often the model's caption of a clip says of a fact what the state's says, beside always the commoner."""
    dataset = Dataset(args.data)
    model, state = (Captions.open(args.data, name) for name in (args.model, "state"))
    held = set(dataset.split("test"))
    both = [key for key in model if key in state and (not args.test or key.episode in held)]
    print(f"{len(both)} clips captioned by both")
    for fact in world_class(dataset.name).FACTS:
        told, seen = np.array([[fact.side_of(captions[key].short) for captions in (state, model)] for key in both]).T
        commonest = max((told == side).mean() for side in (-1, 0, 1))
        opposite = (told * seen == -1).mean()
        print(f"{fact.name} ({fact.high[0]}, {fact.low[0]} or neither): {(told == seen).mean():.1%} alike, "
              f"{opposite:.1%} say the opposite; always the commonest would be {commonest:.1%} alike")  # fmt: skip
    told = [told_of(dataset, key) for key in both]
    for name in told[0] if told else ():
        said = [facts[name] in model[key].detailed for facts, key in zip(told, both, strict=True)]
        print(f"{name}: {np.mean(said):.1%} of the detailed captions say what the state tells")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    p = verbs.add_parser("teach")
    p.add_argument("data", type=Path, help="recording whose training episodes it learns from")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--minutes", type=float, default=3)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--workers", type=int, default=0, help="processes that make the batches")
    p.add_argument("--lr", type=float, default=1e-3)
    p = verbs.add_parser("serve")
    p.add_argument("model", type=Path)
    p.add_argument("--port", type=int, default=8000)
    p.add_argument("--servers", type=int, default=1)
    p = verbs.add_parser("describe")
    p.add_argument("data", type=Path, help="recording that it captions")
    p.add_argument("--model", type=Path, required=True)
    p.add_argument("--servers", type=int, default=1)
    p = verbs.add_parser("score")
    p.add_argument("data", type=Path, help="recording captioned both by the model and from state")
    p.add_argument("--model", default="model", help="name or hash of the captions (default: those by a model)")
    p.add_argument("--test", action="store_true", help="held-out episodes only")
    args = parser.parse_args()
    {"teach": teach, "serve": serve_until_stopped, "describe": describe, "score": score}[args.verb](args)


if __name__ == "__main__":
    main()
