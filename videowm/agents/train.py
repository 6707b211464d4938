"""Train an agent in the dream: one loop for PPO and CMA-ES, which goes on where it was stopped."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from videowm.agents.agent import ABOUT, Agent, AgentConfig, hashes_of
from videowm.agents.practice import Practice
from videowm.data.recording import Recording
from videowm.dream.env import Actions
from videowm.dream.rows import DreamConfig
from videowm.files import finite, read_json, write_atomic
from videowm.lock import FolderLock
from videowm.options import DreamTrainOptions
from videowm.types import UserError

CHECKPOINT = "checkpoint.safetensors"
SAVE_EVERY = 20.0  # s between checkpoints, at least
MINUTES = 10.0  # of training where no budget is given
LEAST = 3  # candidates of a generation
BUDGET = ("minutes", "steps", "generations")  # options that may be raised later
HERE = ("data", "device")  # options that only say where things are
FITTED, MEASURED = 6, 7  # what the seeds are for


class Learner(Protocol):
    """How an agent learns: see `Evolution` and `Improvement`."""

    rounds: int
    steps: int
    at_rest: bool

    def advance(self, left: float) -> dict[str, float]:
        """One round, with a share of the budget left; what dreams earned in it."""
        ...

    def finish(self) -> None:
        """Give the agent what was learned."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs."""
        ...

    def restore(self, state: dict[str, Tensor], rounds: int, steps: int) -> None:
        """Go on from a checkpoint."""
        ...


@dataclass
class Course:
    """How far a training is."""

    options: DreamTrainOptions
    seconds: float = 0.0  # of training, over all parts
    curve: list[dict[str, float]] = field(default_factory=list)

    def done(self, steps: int, rounds: int) -> float:
        """The share of the budget that is used, at most 1; of several limits the first one counts."""
        o = self.options
        minutes = MINUTES if o.minutes is None and o.steps is None and o.generations is None else o.minutes
        used = ((self.seconds / 60, minutes), (steps, o.steps), (rounds, o.generations))
        return min(1.0, max(spent / limit for spent, limit in used if limit is not None))


def train_agent(run: Path, out: Path, options: DreamTrainOptions) -> dict[str, Any]:
    """See `videowm.api.dream_train`.

    Raises:
        UserError: see there.
    """
    check_folder(out)
    check_options(options)
    lock = FolderLock(out, f"another process trains in {out}: wait for it, or choose another --out")
    try:
        saved = Checkpoint.read(out, options)
        course = Course(options) if saved is None else Course(options, saved.note["seconds"], saved.note["curve"])
        if saved is not None and course.done(saved.steps, saved.rounds) >= 1:
            about = read_json(out / ABOUT, f"delete {out}, and train anew")
            if "dream" in about:
                tqdm.write(f"{out} is already trained: raise --minutes, --steps or --generations to go on")
                return about
        practice = opened(run, options)
        agent = begun(run, practice, options)
        learner = learner_of(agent, practice, options)
        if saved is not None:
            saved.restore(learner, agent)
        learn(out, learner, agent, practice, course)
        learner.finish()
        return keep(out, learner, agent, course, dream=measured(agent, practice))
    finally:
        lock.release()


def check_options(o: DreamTrainOptions) -> None:
    """Refuse what cannot be, before anything is read.

    Raises:
        UserError: CMA-ES of an mlp, or dreams that its candidates cannot share evenly.
    """
    if o.by == "cma" and o.agent != "linear":
        raise UserError("CMA-ES is slow in the many weights of an mlp: give --agent linear, or --by ppo")
    if o.by == "cma" and (o.dreams % o.population or o.population < LEAST):
        raise UserError(f"{o.dreams} dreams cannot be shared by a population of {o.population}: give {LEAST} or more, "
                        "and a multiple of it as --dreams")  # fmt: skip


def check_folder(out: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        UserError: it does.
    """
    other = [path.name for path in out.glob("*") if not path.name.startswith(".")] if out.is_dir() else []
    if other and not {CHECKPOINT, ABOUT} & set(other):
        raise UserError(f"{out} holds something else ({sorted(other)[0]}): choose another --out")


def opened(run: Path, o: DreamTrainOptions) -> Practice:
    """The dreams to learn in; on a GPU all that must be compiled is.

    Raises:
        UserError: the run cannot be dreamt in.
    """
    config = DreamConfig(observation="memory" if o.observation == "memory" else "latents", actions=o.actions,
                         horizon=o.horizon, begin=o.begin, context=o.context, temperature=o.temperature,
                         end_temperature=o.end_temperature)  # fmt: skip
    practice = Practice(run, config, o.dreams, starts=o.starts, seed=o.seed, sampler=o.sampler, data=o.data,
                        device=o.device)  # fmt: skip
    if practice.graph:
        practice.warm_up()
    return practice


def begun(run: Path, practice: Practice, o: DreamTrainOptions) -> Agent:
    """A new agent, with the principal components of a linear one."""
    shape, model = practice.pipeline.transformer.config, practice.pipeline.transformer
    actions, on = Actions(practice), practice.pipeline.trained_on
    limits = actions.table if actions.names else np.stack([actions.space.low, actions.space.high])
    config = AgentConfig(o.agent, o.observation, [shape.channels, shape.height, shape.width],
                         [model.tokens, model.hidden] if o.observation == "memory" else [], limits.tolist(),
                         actions.names, min(o.components, len(practice.starts)), o.hidden)  # fmt: skip
    agent = Agent(config, {
        "run": str(run), "world": on.world, "action_names": on.action_names, "frame_skip": frame_skip(practice),
        "stride": practice.stride, "fps": practice.dataset.fps, "hashes": hashes_of(practice.pipeline),
        "trained": trained_by(o),
    }).to(practice.device)  # fmt: skip
    if o.agent == "linear":
        agent.reads.fit(beginnings(agent, practice))
    return agent


def frame_skip(practice: Practice) -> int | None:
    """Game steps a frame of the recording that dreams begin in; None where that is not known."""
    try:
        return Recording.read(practice.dataset.root).frame_skip
    except UserError:
        return None


def beginnings(agent: Agent, practice: Practice) -> Float[Tensor, "m o"]:
    """What an agent sees in about as many beginnings as there are in stock."""
    practice.reseed(FITTED)
    seen = []
    for _ in range(-(-len(practice.starts) // practice.count)):
        practice.again()
        seen.append(practice.seen(agent))
    return torch.cat(seen)


def learner_of(agent: Agent, practice: Practice, o: DreamTrainOptions) -> Learner:
    """CMA-ES or PPO.

    Raises:
        UserError: its package is not installed, or cannot train such an agent.
    """
    try:
        if o.by == "cma":
            from videowm.agents.evolve import Evolution

            return Evolution(agent, practice, o.population)
        from videowm.agents.improve import Improvement

        return Improvement(agent, practice)
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install 'videowm[agents]'") from None


def learn(out: Path, learner: Learner, agent: Agent, practice: Practice, course: Course) -> None:
    """Round after round, until the budget is used up."""
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    began, saved, before, first = time.monotonic(), time.monotonic(), course.seconds, learner.steps
    done = course.done(learner.steps, learner.rounds)
    with tqdm(total=1.0, initial=done, desc=out.name, bar_format=form, dynamic_ncols=True) as bar:
        while done < 1:
            earned = learner.advance(1 - done)
            course.seconds = before + time.monotonic() - began
            course.curve.append({"steps": learner.steps, "seconds": round(course.seconds, 3), **earned})
            done = course.done(learner.steps, learner.rounds)
            speed = (learner.steps - first) * practice.stride / (course.seconds - before)
            bar.set_postfix_str(f"return {latest(course.curve):.6g}, {speed:,.0f} frames/s", refresh=False)
            bar.update(done - bar.n)
            if learner.at_rest and time.monotonic() - saved > SAVE_EVERY:
                learner.finish()
                keep(out, learner, agent, course)
                saved = time.monotonic()


def latest(curve: list[dict[str, float]]) -> float:
    """The mean return of the last round in which a dream was over."""
    return next((row["return"] for row in reversed(curve) if row["episodes"]), float("nan"))


def measured(agent: Agent, practice: Practice) -> dict[str, float]:
    """What the agent earns in one whole dream of every row, without a chance in what it does."""
    practice.alike = 1
    practice.reseed(MEASURED)
    played = practice.play(lambda dreams: dreams.held(agent.action_of(agent(dreams.seen(agent)))))
    error = float(played.returns.std() / np.sqrt(max(1, practice.count - 1)))
    return {"return": float(played.returns.mean()), "return_se": error, "episodes": practice.count,
            "frames": float(played.lengths.mean() * practice.stride)}  # fmt: skip


def keep(out: Path, learner: Learner, agent: Agent, course: Course, **more: Any) -> dict[str, Any]:
    """Write the checkpoint, then the agent as it is; returns what agent.json says."""
    note = {"rounds": learner.rounds, "steps": learner.steps, "seconds": course.seconds, "curve": course.curve,
            "trained": agent.about["trained"], "hashes": agent.about["hashes"]}  # fmt: skip
    tensors = {name: x.detach().cpu().contiguous() for name, x in learner.state().items()}
    write_atomic(out / CHECKPOINT, save(tensors, {"note": json.dumps(finite(note))}))
    speed = {"latent_steps": learner.steps, "rounds": learner.rounds, "seconds": round(course.seconds, 1)}
    agent.about = {**agent.about, **speed, **more, "curve": course.curve}
    agent.save(out)
    return read_json(out / ABOUT, "train it again")


@dataclass(frozen=True)
class Checkpoint:
    """What a training wrote, to go on from."""

    out: Path
    note: dict[str, Any]
    state: dict[str, Tensor]

    @property
    def steps(self) -> int:
        """Latent steps of all dreams so far."""
        return self.note["steps"]

    @property
    def rounds(self) -> int:
        """Updates or generations so far."""
        return self.note["rounds"]

    @classmethod
    def read(cls, out: Path, o: DreamTrainOptions) -> Checkpoint | None:
        """The checkpoint in a folder; None where there is none.

        Raises:
            UserError: it is damaged, or was begun with other options.
        """
        path = out / CHECKPOINT
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt", device="cpu") as file:
                note, names = json.loads(file.metadata()["note"]), file.keys()
                saved = cls(out, note, {name: file.get_tensor(name) for name in names})
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{path} is damaged: delete {out}, and train anew") from None
        for name, value in json.loads(json.dumps(trained_by(o))).items():
            if name not in BUDGET and note["trained"].get(name) != value:
                raise UserError(f"{out} was begun with {name}={note['trained'].get(name)!r}, not {value!r}: give that, "
                                "or choose another --out")  # fmt: skip
        return saved

    def restore(self, learner: Learner, agent: Agent) -> None:
        """Let a new learner go on from here.

        Raises:
            UserError: the training was begun in the dream of another world model.
        """
        if self.note["hashes"] != agent.about["hashes"]:
            raise UserError(f"{self.out} was begun in the dream of another world model: choose another --out")
        learner.restore(self.state, self.rounds, self.steps)


def trained_by(o: DreamTrainOptions) -> dict[str, Any]:
    """The options, as agent.json has them."""
    return {name: value for name, value in asdict(o).items() if name not in HERE}
