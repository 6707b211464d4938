"""Options of every command, as frozen dataclasses: one list for the Python API, the command line and the reference.

`videowm.api` takes these objects. `videowm.arguments` makes command-line options of them: a field `clip_frames` is
`--clip-frames`, and the comment at the end of its line is the help text. Ranges are checked before any work begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from videowm.limits import (
    Count,
    Fraction,
    Frames,
    Guidance,
    HeldOut,
    NonNegative,
    Positive,
    Range,
    Seed,
    Share,
    Size,
    Whole,
)

CACHE = Path("~/.cache/videowm/prompts")  # of expanded prompts

Pixels = Annotated[int, Range(at_least=16, at_most=2048)]


@dataclass(frozen=True)
class RecordOptions:
    """How a game is recorded; see `videowm.api.record`."""

    episodes: Count  # number of episodes
    seed: Seed = 0  # episode i draws its random numbers from (seed, i)
    workers: Count = 1  # processes; the recording is the same for any number
    frames: Frames = 261  # most frames of an episode
    frame_skip: Count | None = None  # game steps per frame (default: the world's own, 4 of those in this package)
    size: str | None = None  # HxW pixels, of gym: worlds (default: shorter side 64, longer a multiple of 16)
    policy: str | None = None  # who plays a gym: world: random, module:function or agent.zip (default: random)
    hold: Count | None = None  # frames at most that a random action of a gym: world is held (default: 8)
    state: str | None = None  # state of a gym: world: keys of its info, or attributes, with commas between
    image: str | None = None  # picture of a gym: world: render, observation or a key of it (default: render)
    trust: bool = False  # load a policy that holds code (.zip of stable-baselines3)
    world_args: tuple[str, ...] = ()  # more arguments of the world, as KEY=VALUE; of a gym: world gymnasium's
    test_share: HeldOut = 0.1  # share of the episodes that are held out
    lossless: bool = False  # store bit-exact video, several times larger
    part: str | None = None  # 3/8: record the third of eight parts; default: this task's of a SLURM array, else all


@dataclass(frozen=True)
class ImportOptions:
    """How foreign recordings are brought in; see `videowm.api.import_`."""

    size: str | Pixels = 64  # of the stored frames in pixels: HxW, one number for both, or keep
    fit: Literal["stretch", "crop", "pad"] = "stretch"  # how frames of another aspect become that size
    fps: Positive | None = None  # rate of the stored frames; others are resampled, frames and actions (default: theirs)
    episodes: str | None = None  # which to take, counted from 0, such as 0,2,5-9 (default: all)
    test_share: HeldOut | None = None  # share held out, the last ones; default: a LeRobot folder's own split, else 0.1
    camera: str | None = None  # which video of a LeRobot folder with several (default: its first)
    action_key: str | None = None  # feature, array of an .npz or column of a .parquet that holds the actions
    columns: tuple[str, ...] = ()  # columns that are actions, in this order (default: all that do not count time)
    one_hot: tuple[str, ...] = ()  # columns of text or whole numbers of which each value becomes a column
    no_actions: bool = False  # take video alone: every action is one 0
    lossless: bool = False  # store bit-exact video, several times larger


@dataclass(frozen=True)
class EndpointOptions:
    """An OpenAI-compatible server, and the settings of requests to it."""

    base_url: str | None = None  # address of an OpenAI-compatible server; most end in /v1
    model: str | None = None  # name of the model on that server; it must see pictures
    key_env: str | None = None  # environment variable that holds the key; without it OPENAI_API_KEY, if set
    answer: Literal["json", "text"] = "json"  # text: take any words, for models that cannot write JSON
    max_tokens: Count = 800  # longest answer
    temperature: Annotated[float, Range(at_least=0, at_most=100)] | None = None  # default: the server's own
    timeout: Positive = 120.0  # seconds without an answer
    retries: Whole = 5  # further tries after an error that may pass


@dataclass(frozen=True)
class CaptionOptions:
    """How the clips of a dataset are captioned; see `videowm.api.caption`."""

    from_state: bool = False  # from the state that the simulator recorded, without a model
    endpoint: EndpointOptions = EndpointOptions()  # the server that answers
    frames: Frames = 8  # frames of each clip that the model sees
    clip_frames: Frames = 65  # frames of a clip, as in encode
    image_size: Pixels = 256  # longer side of a frame that the model sees, in pixels
    concurrency: Count = 8  # questions that wait for an answer at the same time
    limit: Count | None = None  # caption at most this many clips now; a few give an estimate for the rest
    retry_failed: bool = False  # ask only for clips that failed before
    price_in: NonNegative = 0.0  # price of a million tokens sent, for the estimate
    price_out: NonNegative = 0.0  # price of a million tokens received, for the estimate


@dataclass(frozen=True)
class ExpandOptions:
    """How a short prompt is expanded; see `videowm.api.expand`."""

    endpoint: EndpointOptions = EndpointOptions()  # the server that answers
    data: Path | None = None  # dataset that holds the first frame
    episode: Whole = 0  # episode of the first frame
    start: Whole = 0  # number of the first frame within its episode
    cache: Path = CACHE  # folder of prompts that were expanded before


@dataclass(frozen=True)
class TrainOptions:
    """How a configuration is trained; see `videowm.api.train`."""

    overrides: tuple[str, ...] = ()  # dotted overrides such as "train.steps=2000"
    profile: bool = False  # also record ten steps: OUT/profile/trace.json.gz, kernels.json and a table


@dataclass(frozen=True)
class LabelOptions:
    """How a recording is labelled with actions; see `videowm.api.label`."""

    share: Fraction = 1.0  # of the training episodes whose recorded actions are learned from
    out: Path = Path("runs/label")  # run directory of the labeller, which is trained there
    by: Path | None = None  # finished run of task: label, or latent-actions; default: the one in --out
    learn_from: Path | None = None  # another recording with actions to learn from; default: the one to label
    steps: Count | None = None  # of the training; default: those of configs/label/base.yaml
    minutes: Positive | None = None  # of the training, in place of steps
    seed: Seed = 0  # of the training, and of which episodes are learned from


@dataclass(frozen=True)
class EncodeOptions:
    """How a dataset is encoded; see `videowm.api.encode`."""

    frames: Count = 65  # frames of a clip: 1 + k * time stride of the autoencoder
    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"  # number format of the stored latents
    batch: Count | None = None  # clips encoded at the same time; default: 64 on a GPU, 4 on a CPU
    play: Count | None = None  # train on this many new episodes, which are played and encoded but never stored
    seed: Seed = 1  # seed of the played episodes; it must differ from the dataset's
    workers: Count = 1  # processes that play; the latents are the same for any number
    states: bool = False  # also keep the simulator's state of every frame
    trust: bool = False  # load a policy that holds code (.zip of stable-baselines3) to play
    part: str | None = None  # 3/8: encode the third of eight parts; default: this task's of a SLURM array, else all


@dataclass(frozen=True)
class LatentsOptions:
    """How a latent space is explored; see `videowm.api.latents`."""

    directions: Count = 6  # principal directions, one row of the picture each
    clips: Count = 128  # about how many held-out clips


@dataclass(frozen=True)
class ProbeOptions:
    """How a world model's states are probed; see `videowm.api.probe`."""

    data: Path | None = None  # recording whose held-out clips are looked at (default: that of the training)
    factor: tuple[str, ...] = ()  # state columns, or a car's forward, sideways and turn (default: all that vary)
    clips: Count = 64  # about how many held-out clips
    test_data: Path | None = None  # another recording that probes are tested on (default: other episodes of the same)
    intervene: bool = False  # also push rollouts along every factor's direction, and read whether it moves as meant
    reader: Path | None = None  # run of task: reader that reads pushed rollouts (default: a probe of the latents)
    strength: Positive = 2.0  # of a push, in standard deviations of the states along the direction
    moments: Count = 32  # moments that are pushed, of other episodes than the directions come from
    horizon: Count = 16  # frames of a pushed rollout


@dataclass(frozen=True)
class GenerateOptions:
    """How a run is rolled out; see `videowm.api.generate`."""

    episode: Whole | None = None  # episode of the first frames; default: the first of the test split
    start: Whole = 0  # first context frame within the episode
    context: Count = 9  # context frames
    actions: str | None = None  # "left*8 gas*16" or a table (.csv .npy .npz); default: the episode's own actions
    frames: Count = 64  # frames to predict under the episode's own actions
    sampling_steps: Count | None = None  # noise levels of a latent step; default: 5 steps of Heun's method
    guidance: Guidance = 1.0  # on the actions, for a run with flow.drop_actions; 1: none
    sampler: tuple[str, ...] = ()  # further keys of the sampler, such as "context_level=0"
    prompt: str | None = None  # what the video shall show, for a run with text
    text_guidance: Guidance = 1.0  # on the prompt; 1: none
    expand: bool = False  # have a server expand the prompt, which sees the last context frame
    endpoint: EndpointOptions = EndpointOptions()  # the server that expands the prompt
    cache: Path = CACHE  # folder of prompts that were expanded before
    seed: Seed = 0  # seed of the noise


@dataclass(frozen=True)
class PlanOptions:
    """How a planner searches, see `videowm.agents.plan`; a decision imagines `futures` times `iterations` futures."""

    by: Literal["cem", "mppi"] = "cem"  # cem: refit to the best courses of actions; mppi: weigh all by what they earn
    futures: Count = 64  # courses of actions that are imagined in each iteration
    horizon: Count = 32  # frames that are imagined, in whole latent steps
    iterations: Count = 2  # the plan is refitted after each, and kept for the next decision
    elite: Fraction = 0.05  # share of the courses that cem takes for the best
    sharpness: Positive = 3.0  # of mppi's weights: exp(sharpness * return), returns in standard deviations
    hold: Share = 0.8  # how likely, or how far, a course goes on with its action from step to step
    actions: Literal["auto", "named", "box"] = "auto"  # the world's named actions, or its numbers; auto: names if any
    beyond: NonNegative = 32.0  # frames that a game alive at the horizon still earns the mean of, if that is positive
    goal: Literal["reward", "latents", "state"] = "reward"  # judge by heads' rewards, or nearness to a goal picture
    goal_picture: str | None = None  # an image file, to come near to (default: the world's own goal)
    goal_hand: NonNegative = 0.02  # of a state: what the hand's distance from the thing counts beside the thing's own
    temperature: NonNegative = 1.0  # factor of the starting noise; 0 imagines what is most expected
    sampling_steps: Count | None = 4  # Euler's steps of an imagined latent step
    batch: Count = 2048  # futures computed at once


@dataclass(frozen=True)
class PlayOptions:
    """How runs are played in a browser; see `videowm.api.play`."""

    data: Path | None = None  # recording that games begin in; default: the one that the first run was trained on
    port: Annotated[int, Range(at_least=0, at_most=65535)] = 8000  # to listen on; 0: any that is free
    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0: every network of this machine, with a token
    token: str | None = None  # secret in the page's address; default: none on this machine, else a new one
    device: str | None = None  # cpu or cuda; default: a GPU where there is one
    out: Path = Path("played")  # folder of what is saved: a dataset for each run, and mp4
    sessions: Count = 4  # players at the same time
    agent: tuple[Path, ...] = ()  # folders of agents that learned in the dream and may play
    futures: Count = 16  # courses of actions that the planner imagines, or fewer where a model is slow
    horizon: Count = 16  # frames of each


@dataclass(frozen=True)
class DreamTrainOptions:
    """How an agent learns in the dream; see `videowm.api.dream_train`."""

    agent: Literal["linear", "mlp"] = "mlp"  # linear: of principal components; mlp: two hidden layers
    by: Literal["cma", "ppo"] = "ppo"  # cma: CMA-ES, of a linear agent; ppo: of either
    observation: Literal["latents", "memory"] = "latents"  # memory: latents and the world model's own features
    minutes: Positive | None = None  # of training, without the start; default: 10, where no other budget is given
    steps: Count | None = None  # latent steps of all dreams together
    generations: Count | None = None  # of CMA-ES, or updates of PPO
    dreams: Count = 256  # at the same time
    population: Count = 16  # of CMA-ES; its candidates share the dreams
    horizon: Count = 512  # frames after which a dream is cut off
    temperature: NonNegative = 1.0  # factor of the dream's starting noise
    end_temperature: NonNegative = 1.0  # of the end's probabilities
    begin: Literal["any", "first"] = "any"  # moment of a recorded episode that a dream begins in
    context: Count | None = None  # latent steps before a dream (default: as many as the model sees)
    starts: Count | None = None  # real moments in stock, of the training split; default: 1024 on a GPU, 128 on a CPU
    actions: Literal["auto", "named", "box"] = "auto"  # the world's named actions, or numbers; auto: names if any
    sampler: tuple[str, ...] = ()  # keys of the run's sampler to change, such as steps=3 method=euler
    components: Count = 32  # principal components of a linear agent, of each of latents and features
    hidden: Size = 256  # width of an mlp's two hidden layers
    data: Path | None = None  # recording that dreams begin in (default: that of the training)
    device: str | None = None  # cpu or cuda; default: a GPU where there is one
    seed: Seed = 0  # of all that is drawn


@dataclass(frozen=True)
class DreamScoreOptions:
    """How a player is scored in the real game; see `videowm.api.dream_score`."""

    world: str | None = None  # game of a scripted player (default: that of the run)
    run: Path | None = None  # world model whose latents are seen (default: an agent's own)
    episodes: Count = 400  # games; those of a seed are the same for every player
    seed: Seed = 0  # of the games; none of them was ever recorded
    games: Count = 32  # at the same time
    workers: Count = 1  # processes that play; they change nothing
    frames: Count | None = None  # actions after which a game is cut off (default: the world's own number)
    frame_skip: Count | None = None  # game steps per frame (default: those of the run's data, or the world's own)
    held: Count | None = None  # frames for which a script holds an action; random otherwise a latent step, or 4
    dreams: Whole = 0  # games that the player also plays in the dream, from first frames of held-out episodes
    dream_temperatures: tuple[NonNegative, ...] = (1.0,)  # factors of the noise of these dreams
    data: Path | None = None  # recording whose held-out episodes these begin in (default: that of the training)
    plan: PlanOptions = PlanOptions()  # how a plan:RUN searches
    delay: Whole = 0  # latent steps between eye and hand
    predict: bool = False  # a late player dreams itself forward first
    name: str | None = None  # in the table (default: the agent's folder, or what was planned)
    out: Path | None = None  # folder of all players' scores (default: scores/WORLD)
    device: str | None = None  # cpu or cuda; default: a GPU where there is one


@dataclass(frozen=True)
class DreamRecordOptions:
    """How a player's real games become a dataset; see `videowm.api.dream_record`."""

    world: str | None = None  # game of a scripted player (default: that of the run)
    run: Path | None = None  # world model whose latents are seen (default: an agent's own)
    episodes: Count = 100  # games
    seed: Seed = 0  # of the games; none of them is scored, or in the run's data
    random: Share = 0.1  # share of decisions that are drawn at random in the player's place
    frames: Count | None = None  # most frames of an episode (default: as many as a scored game may have)
    frame_skip: Count | None = None  # game steps per frame (default: those of the run's data, or the world's own)
    held: Count | None = None  # frames for which a script holds an action; random otherwise a latent step, or 4
    test_share: HeldOut = 0.1  # share of the episodes that are held out
    lossless: bool = False  # keep every bit of the frames, in about ten times larger files
    games: Count = 32  # at the same time, and in a file
    workers: Count = 1  # processes that play; they change no byte
    plan: PlanOptions = PlanOptions()  # how a plan:RUN searches
    device: str | None = None  # cpu or cuda; default: a GPU where there is one


@dataclass(frozen=True)
class DreamWatchOptions:
    """What is shown of a player in the real game and in its dream; see `videowm.api.dream_watch`."""

    world: str | None = None  # game (default: that of the run)
    run: Path | None = None  # world model that is dreamed in (default: an agent's own)
    seed: Seed = 0  # of the games, as in score
    game: Whole = 0  # which of the games of that seed
    begin: Count | None = None  # real frames before the dream parts from the game (default: as many as the model sees)
    frames: Count = 256  # to show, at most
    dream_temperature: NonNegative = 1.0  # factor of the dream's starting noise
    plan: PlanOptions = PlanOptions()  # how a plan:RUN searches
    delay: Whole = 0  # latent steps between eye and hand
    predict: bool = False  # a late player dreams itself forward first
    device: str | None = None  # cpu or cuda; default: a GPU where there is one


@dataclass(frozen=True)
class EvaluateOptions:
    """How a finished run is measured; see `videowm.api.evaluate`."""

    reader: Path | None = None  # run of task: reader, which reads actions and state off rollouts or reconstructions
    leaks: Path | None = None  # run of task: detector, which counts events that cannot happen in rollouts
    features: str | None = None  # network of the Fréchet distance; default: the reader, if there are enough clips
    clips: Count | None = None  # about how many held-out starts; default: the run's rollout.clips or evaluate.clips
    horizon: Count | None = None  # predicted frames; default: the run's rollout.horizon
    context: Count | None = None  # context frames; default: the run's rollout.context_frames
    batch: Count | None = None  # clips at the same time; default: the run's rollout.batch
    counterfactuals: Whole = 16  # starts that the real game continues under other actions
    returns: Whole = 0  # starts from which a view is left and seen again; 0: none
    text_guidance: Guidance = 1.0  # where the effect of captions is measured; 1: none
    decisions: Whole = 0  # moments from which courses of actions are ranked, of a world model with heads; 0: none
    futures: Count = 4  # dreams of each of these courses; 32 tell whether chance is calibrated
    smaller: tuple[Path, ...] = ()  # runs of rising smaller budgets on the same latents: which error can be learned


@dataclass(frozen=True)
class PushOptions:
    """How a run or a dataset is pushed; see `videowm.api.push`."""

    private: bool = False  # whether a new repository is seen by its owner alone
    revision: str | None = None  # branch; default: main
    license: str = "unknown"  # the hub's word for the licence, such as apache-2.0
    trained_on: str | None = None  # name of the training data on the hub, for the card
    dtype: Literal["fp32", "fp16", "bf16"] | None = None  # number format of the weights; default: as they are
    starts: Annotated[int, Range(at_least=2, at_most=1000)] | None = None  # held-out stretches that go along
    data: Path | None = None  # dataset of these stretches; default: the one that the run was trained on


@dataclass(frozen=True)
class PullOptions:
    """How a run or a dataset is pulled; see `videowm.api.pull`."""

    revision: str | None = None  # branch, tag or commit; default: main


@dataclass(frozen=True)
class QuickstartOptions:
    """How the quickstart runs; see `videowm.api.quickstart`."""

    workers: Count = 2  # processes that record
