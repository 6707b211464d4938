"""`videowm dream watch`: one player in the real game and in its dream, side by side from the same moment on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from videowm.agents.contest import Contest, contest_of
from videowm.agents.eyes import Eyes
from videowm.agents.games import Games, game_seeds
from videowm.agents.player import Seen
from videowm.dit import flow
from videowm.dit.stream import LatentStream
from videowm.files import check_output
from videowm.options import DreamScoreOptions, DreamWatchOptions
from videowm.show import FAINT, draw_actions, side_by_side, text, write_mp4
from videowm.types import UserError, pixel_frames
from videowm.vae.codec import to_uint8
from videowm.vae.stream import StreamDecoder

CELL = 256  # pixels of a picture's longer side
GAP = 8


@dataclass
class Side:
    """One of the two games: frames, the action and what is earned by each of them; its last frame stays."""

    frames: list[np.ndarray] = field(default_factory=list)  # uint8 "H W 3"
    actions: list[np.ndarray] = field(default_factory=list)  # float32 "a"
    earned: list[float] = field(default_factory=list)  # up to each frame
    ended: int | None = None  # frames that there were when it ended

    @property
    def over(self) -> bool:
        """Whether it ended."""
        return self.ended is not None

    def add(self, frames: np.ndarray, actions: np.ndarray, rewards: np.ndarray, count: int, *, over: bool) -> None:
        """A step of `count` frames, fewer of which may be there."""
        shown = [*frames, *[frames[-1] if len(frames) else self.frames[-1]] * (count - len(frames))]
        if over and not self.over:
            self.ended = len(self.frames) + len(frames)
        gained = np.cumsum([*rewards, *[0.0] * (count - len(rewards))])
        self.earned += (self.earned[-1] + gained).tolist()
        self.actions += [*actions, *[actions[-1]] * (count - len(actions))]
        self.frames += shown

    def stay(self, count: int) -> None:
        """A game that is over shows its last frame."""
        self.add(np.zeros((0,)), np.array(self.actions[-1:]), np.zeros(0), count, over=True)

    def copy(self) -> Side:
        """The same so far."""
        return Side(list(self.frames), list(self.actions), list(self.earned), self.ended)


class Dream:
    """A dream that goes on from what eyes have seen of one game.

    Args:
        eyes: of a run with heads.
        temperature: factor of the starting noise.
        seed: of what is drawn.
    """

    def __init__(self, eyes: Eyes, temperature: float, seed: int) -> None:
        self.eyes, self.temperature, pipeline = eyes, temperature, eyes.pipeline
        self.latents, self.grouped = eyes.latents, eyes.grouped
        self.generators = [torch.Generator().manual_seed(seed)]
        self.stream = LatentStream(
            pipeline.transformer, self.latents, self.grouped, sampler=eyes.sampler, shift=pipeline.shift,
            window=pipeline.trained_on.window, generator=self.generators, keep=eyes.heads.config.block,
            **pipeline.text_conditioning(None, 1, 1))  # fmt: skip
        self.decoder = StreamDecoder(pipeline.codec, otherwise=pipeline.trained_on.window)
        self.decoder.reset([0], pipeline.denormalise(self.latents))

    @property
    def seen(self) -> Seen:
        """What the player sees; its number is another than the real game's."""
        return Seen(self.latents, self.grouped, self.stream.kept.float(), (1,))

    @torch.no_grad()
    def step(self, side: Side, action: np.ndarray) -> None:
        """A latent step under an action "a"."""
        eyes, k = self.eyes, self.eyes.stride
        held = np.repeat(np.float32(action)[None], k, axis=0)
        grouped = eyes.actions_of(held[None])
        read = eyes.heads.read(self.stream.kept[:, None], grouped)
        chances = read.logits[0, 0].softmax(-1).float().cpu()
        end = int((torch.rand(1, generator=self.generators[0]) >= chances.cumsum(0)[:-1]).sum())
        noise = self.temperature * flow.normal(self.latents[:, :1].shape, self.generators, eyes.device)
        drawn = self.stream.step(grouped, noise).float()
        frames = to_uint8(self.decoder.step(eyes.pipeline.denormalise(drawn)))[0]
        self.latents = torch.cat([self.latents, drawn], dim=1)[:, -eyes.keeps :]
        self.grouped = torch.cat([self.grouped, grouped], dim=1)[:, -eyes.keeps :]
        rewards = np.full(k, read.reward[0, 0].item() / k) if not end else np.array([read.reward[0, 0].item()])
        side.add(frames[: end - 1 if end else k], held, rewards, k, over=end > 0)


def watch(player: str, out: Path, options: DreamWatchOptions) -> dict[str, float]:
    """Write an mp4, and return what was earned in the real game and in the dream.

    Raises:
        UserError: the player is a script, the game ended before the dream begins, or `out` is no mp4.
    """
    check_output(out, ".mp4")
    o = options
    contest = contest_of(player, DreamScoreOptions(
        world=o.world, run=o.run, seed=o.seed, plan=o.plan, delay=o.delay, predict=o.predict, device=o.device,
        frames=o.frames + 1))  # fmt: skip
    if contest.player is None:
        raise UserError(
            f"{player} acts on the game's own state, which no dream has: give an agent's folder or plan:RUN"
        )
    real, dreamed = play_both(contest, options)
    names = list(contest.world.action_names)
    panels = [panel(real, "real", names), panel(dreamed, f"dream, temperature {o.dream_temperature:g}", names)]
    gap = np.full((*panels[0].shape[:2], GAP, 3), 255, np.uint8)
    write_mp4(out, np.concatenate([panels[0], gap, panels[1]], axis=2), contest.world.fps)
    return {"real": real.earned[-1], "dream": dreamed.earned[-1], "frames": len(real.frames)}


def play_both(contest: Contest, options: DreamWatchOptions) -> tuple[Side, Side]:
    """The real game and the dream, one and the same until the dream begins.

    Raises:
        UserError: the game ended before.
    """
    eyes, seed = contest.eyes, game_seeds(options.seed, options.game + 1)[options.game]
    apart = pixel_frames(eyes.keeps, eyes.stride) if options.begin is None else options.begin
    dream: Dream | None = None
    with Games(contest.settings, 1, 1) as games:
        frames, earned = games.begin([seed])
        eyes.begin(frames, [seed])
        real = dreamed = Side([frames[0]], [], [float(earned[0])])
        while len(real.frames) <= options.frames and not (real.over and dreamed.over):
            if dream is None and len(real.frames) >= apart:
                dream, dreamed = Dream(eyes, options.dream_temperature, seed), real.copy()
            step_real(contest, games, real)
            if dream is None and real.over:
                raise UserError(f"game {options.game} ended after {len(real.frames)} frames, before the dream begins: "
                                f"give a lower --begin than {apart}, or another --game")  # fmt: skip
            if dream is not None and not dreamed.over:
                dream.step(dreamed, contest.player.act(dream.seen)[0])
            elif dream is not None:
                dreamed.stay(eyes.stride)
    return real, dreamed


def step_real(contest: Contest, games: Games, side: Side) -> None:
    """A latent step of the real game."""
    eyes = contest.eyes
    if side.over:
        side.stay(eyes.stride)
        return
    action = contest.player.act(eyes.seen([0]))[0]
    stretch = games.step({0: action}, eyes.stride, look=True)[0]
    side.add(stretch.frames, stretch.actions, stretch.rewards, eyes.stride, over=stretch.over)
    if not side.over:
        eyes.see(stretch.frames[None], stretch.actions[None])


def panel(side: Side, label: str, names: list[str]) -> np.ndarray:
    """Large frames under a label and what was earned so far, above the actions."""
    frames = side_by_side({label: np.stack(side.frames)}, cell=CELL)
    for i, earned in enumerate(side.earned):
        words = f"{'over, ' * (side.over and i >= side.ended)}{earned:.{0 if abs(earned) >= 10 else 2}f}"
        frames[i] = text(frames[i], (frames.shape[2] - 8 * len(words) - 6, 4), words, ink=FAINT)
    return draw_actions(frames, np.stack(side.actions), names)
