"""`videowm caption` and `videowm expand`: clips and prompts put into words by a model that sees frames.

As in DALL-E 3 (Betker et al. 2023) and Sora, synthetic captions describe in detail what happens. Short prompts are
expanded to the same style.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from videowm import config as configuration
from videowm.data import captions
from videowm.data.captions import ClipKey
from videowm.data.dataset import Dataset
from videowm.data.state_captions import caption_from_state
from videowm.endpoint import FORMS, Access, AskConfig, Endpoint, NoCaption, picture, text
from videowm.files import read_json, write_json
from videowm.options import CaptionOptions, EndpointOptions, ExpandOptions
from videowm.types import UserError

STYLE = (
    "Describe the scene, the objects in it with their colours and places, how each of them and the camera move, and "
    "what changes from the first frame to the last. Write in the present tense about the world that is shown, not "
    "about frames, images or a video. Name no keys, buttons, steering inputs or other controls, and guess nothing "
    "that cannot be seen."
)
CAPTION = "These are {frames} frames of one video clip, in order, {seconds:.1f} seconds from the first to the last. "
LABEL = "Frame {number} of {frames}, at {seconds:.1f} s:"
EXPAND = (
    "A user asks a video model for what the prompt below says. Write the captions of the clip that the user would "
    "like to see: keep to everything in the prompt{start}, and fill in what is left open. "
)
FIRST = 4  # clips whose tokens and seconds the estimate is made from
IMAGE_SIZE = 256  # pixels of a picture's longer side
GIVE_UP = 20  # failures in a row, or four rounds of them, after which no further request is sent


def instructions(opening: str, config: AskConfig) -> str:
    """The instructions to the model, in one style for clips and prompts."""
    return f"{opening}{STYLE} {FORMS[config.answer]}"


@dataclass(frozen=True)
class CaptionConfig:
    """What decides the captions of a dataset; hashed, with the instructions, into the name of their file."""

    ask: AskConfig
    frames: int = 8  # shown of each clip
    clip_frames: int = 65
    image_size: int = IMAGE_SIZE

    def __post_init__(self) -> None:
        if not 2 <= self.frames <= self.clip_frames:
            raise UserError(f"{self.frames} frames of clips of {self.clip_frames}: show 2 or more, at most all")

    def header(self, dataset: Dataset) -> dict[str, Any]:
        """How the captions are made, for the file that names them."""
        settings = configuration.to_dict(self)
        ask, clip_frames = settings.pop("ask"), settings.pop("clip_frames")
        return {"schema": 1, "source": "model", "dataset": dataset.hash, "clip_frames": clip_frames, **ask, **settings,
                "instructions": instructions(CAPTION, self.ask), "label": LABEL}  # fmt: skip


@dataclass(frozen=True)
class Price:
    """Dollars, or whatever else, for a million tokens."""

    tokens_in: float = 0.0
    tokens_out: float = 0.0

    def of(self, tokens_in: float, tokens_out: float) -> str:
        """The price of some tokens for a person, nothing where no price is known."""
        cost = (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6
        return f", cost {cost:.2f}" if self.tokens_in or self.tokens_out else ""


class Captioning:
    """The captions of one dataset by one model with one set of settings: what there is, and the work on the rest.

    Opening it takes the file for this process; `close` ends that.
    """

    def __init__(self, dataset: Dataset, config: CaptionConfig, endpoint: Endpoint, price: Price) -> None:
        self.dataset, self.config, self.endpoint, self.price = dataset, config, endpoint, price
        self.clips, self.header = captions.clips_to_caption(dataset, config.clip_frames), config.header(dataset)
        self.path = captions.captions_path(dataset.root, captions.header_name(self.header))
        self.lines = captions.LineWriter(self.path)
        self.failures = captions.LineWriter(self.path.with_suffix(".failed.jsonl"))
        self.done = set(captions.read_lines(self.path))
        failed = captions.read_lines(self.failures.path, ("reason", "detail"))
        self.failed = {key: line for key, line in failed.items() if key not in self.done}
        self.answered, self.in_a_row = 0, 0
        self.seconds: list[float] = []  # that each answer took, with its retries

    def todo(self, *, only_failed: bool) -> list[ClipKey]:
        """The clips without a caption, those that failed before last."""
        fresh = [clip for clip in self.clips if clip not in self.done and clip not in self.failed]
        return [*([] if only_failed else fresh), *self.failed]

    async def run(self, clips: list[ClipKey], concurrency: int) -> None:
        """Ask for every clip, at most `concurrency` at once; each ends in one of the two files."""
        queue, self.give_up = deque(clips), max(GIVE_UP, 4 * concurrency)
        async with self.endpoint:
            with tqdm(total=len(clips), desc="caption", unit="clip", dynamic_ncols=True) as self.bar:
                await self._one(queue.popleft(), first=True)
                await self._all([queue.popleft() for _ in range(min(FIRST - 1, len(queue)))], concurrency)
                self._say_estimate(len(queue), concurrency)
                await self._all(queue, concurrency)

    async def _all(self, clips: Iterable[ClipKey], concurrency: int) -> None:
        queue = deque(clips)

        async def worker() -> None:
            while queue:
                await self._one(queue.popleft())

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(queue))):
                    group.create_task(worker())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _one(self, clip: ClipKey, *, first: bool = False) -> None:
        ask, began = self.endpoint.ask_first if first else self.endpoint.ask, time.monotonic()
        try:
            if self.in_a_row >= self.give_up:
                raise NoCaption(f"not sent after {self.give_up} failures in a row")
            short, detailed = await ask(self.question(clip))
        except NoCaption as error:
            line = {**clip._asdict(), "reason": error.reason, "detail": error.detail}
            self.failed[clip] = line
            self.failures.write(line)
            self.in_a_row += 1
        else:
            self.seconds.append(time.monotonic() - began)
            if not self.answered:
                write_json(self.path.with_suffix(".json"), self.header)
            self.lines.write({**clip._asdict(), "short": short, "detailed": detailed, "source": "model"})
            self.done.add(clip)
            self.failed.pop(clip, None)
            self.answered, self.in_a_row = self.answered + 1, 0
        self.bar.set_postfix_str(f"{len(self.failed)} failed, {self.spent()}", refresh=False)
        self.bar.update()

    def question(self, clip: ClipKey) -> list[dict[str, Any]]:
        """The instructions and the clip's frames, evenly spaced, first and last among them."""
        shown = np.linspace(0, clip.frames - 1, self.config.frames).round().astype(int)
        frames = self.dataset.frames(clip.episode, clip.start + shown)
        seconds = (clip.frames - 1) / self.dataset.fps
        content = [text(instructions(CAPTION.format(frames=len(frames), seconds=seconds), self.config.ask))]
        for number, (offset, frame) in enumerate(zip(shown, frames, strict=True), 1):
            label = LABEL.format(number=number, frames=len(frames), seconds=offset / self.dataset.fps)
            content.append(text(label))
            content.append(picture(frame, self.config.image_size))
        return content

    def spent(self) -> str:
        """Tokens of all answers so far, and their price."""
        used = self.endpoint.tokens_in, self.endpoint.tokens_out
        return f"{used[0]} + {used[1]} tokens{self.price.of(*used)}"

    def _say_estimate(self, queued: int, concurrency: int) -> None:
        """Tokens, price and time of the rest of the dataset, from the first answers."""
        rest = len(self.clips) - len(self.done)
        if not (rest and self.answered):
            return
        used = self.endpoint.tokens_in, self.endpoint.tokens_out
        each = [(total - check) / self.answered for total, check in zip(used, self.endpoint.check_tokens, strict=True)]
        seconds = sum(self.seconds) / len(self.seconds)
        tqdm.write(
            f"a clip takes {each[0]:.0f} + {each[1]:.0f} tokens and {seconds:.1f} s; the {rest} clips without one: "
            f"about {each[0] * rest:.0f} + {each[1] * rest:.0f} tokens{self.price.of(each[0] * rest, each[1] * rest)}, "
            f"{seconds * rest / concurrency / 60:.1f} minutes at {concurrency} at once; {queued} of them are sent now"
        )

    def summary(self) -> str:
        """One sentence: clips with a caption, failures and their reasons, tokens."""
        reasons = Counter(line["reason"] for line in self.failed.values())
        why = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
        failed = f", {len(self.failed)} failed ({why}; the same command tries them again)" if self.failed else ""
        return f"{self.path}: {len(self.done)} of {len(self.clips)} clips captioned{failed}; {self.spent()} this time"

    def close(self) -> None:
        """Let go of the files, with only those that still have no caption among the failures."""
        captions.write_lines(self.failures.path, list(self.failed.values()))
        for writer in (self.lines, self.failures):
            writer.close()


@dataclass(frozen=True)
class Captioned:
    """What a captioning left: the file, how many of the dataset's clips have a caption now, and how many failed."""

    path: Path
    done: int
    clips: int
    failed: int
    summary: str  # the same in a sentence, with tokens and price


def caption(data: Path, options: CaptionOptions) -> Captioned:
    """Caption the clips of a dataset that have no caption yet."""
    if options.from_state:
        name, count = caption_from_state(data, clip_frames=options.clip_frames)
        path = captions.captions_path(data, name)
        return Captioned(path, count, count, 0, f"{path}: {count} clips captioned from the recorded state")
    endpoint = make_endpoint(options.endpoint)
    config = CaptionConfig(endpoint.config, options.frames, options.clip_frames, options.image_size)
    work = Captioning(Dataset(data), config, endpoint, Price(options.price_in, options.price_out))
    try:
        clips = work.todo(only_failed=options.retry_failed)[: options.limit]
        if clips:
            asyncio.run(work.run(clips, options.concurrency))
    finally:
        work.close()
    return Captioned(work.path, len(work.done), len(work.clips), len(work.failed), work.summary())


def make_endpoint(options: EndpointOptions) -> Endpoint:
    """The endpoint that the options name.

    Raises:
        UserError: the options lack the server's address or the model.
    """
    if not (options.base_url and options.model):
        raise UserError("no --base-url and --model are given: name a server and one of its models")
    config = AskConfig(options.model, options.answer, options.max_tokens, options.temperature)
    return Endpoint(Access(options.base_url, options.key_env, options.timeout, options.retries), config)


def expand(prompt: str, options: ExpandOptions) -> str:
    """A short prompt in the style of the training captions."""
    frame = None
    if options.data is not None:
        frame = Dataset(options.data).frames(options.episode, [options.start])[0]
    return expand_prompt(prompt, frame, make_endpoint(options.endpoint), cache=options.cache)


def expand_prompt(prompt: str, frame: np.ndarray | None, endpoint: Endpoint, *, cache: Path) -> str:
    """`prompt` as a detailed caption of a clip that starts with `frame`, uint8 "H W 3".

    The server answers each prompt once; the answer is then read from the folder `cache`.

    Raises:
        UserError: the prompt is empty, the cached answer is damaged, or the server returned no caption.
    """
    if not prompt.strip():
        raise UserError("the prompt is empty: describe what is to be seen")
    start = " and in its first frame, the picture below" if frame is not None else ""
    question = [text(instructions(EXPAND.format(start=start), endpoint.config)), text(prompt)]
    question += [picture(frame, IMAGE_SIZE)] if frame is not None else []
    key = {"ask": configuration.to_dict(endpoint.config), "question": question}
    path = cache.expanduser() / f"{captions.header_name(key)}.json"
    if path.exists():
        remedy = "remove it and run the same command again"
        cached = read_json(path, remedy).get("detailed")
        if not isinstance(cached, str):
            raise UserError(f"{path} is damaged: {remedy}")
        return cached

    async def ask() -> tuple[str, str]:
        async with endpoint:
            return await endpoint.ask_first(question)

    try:
        short, detailed = asyncio.run(ask())
    except NoCaption as error:
        raise UserError(f"the prompt {prompt!r} was not expanded ({error}): run the same command again") from None
    write_json(path, {"prompt": prompt, "model": endpoint.config.model, "short": short, "detailed": detailed})
    return detailed
