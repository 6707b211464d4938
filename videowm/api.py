"""The Python API: one function for every command of `videowm`. Importing this module imports no torch.

Each function takes paths and one frozen dataclass of options (`videowm.options`), whose values are checked before any
work begins. What was finished earlier is kept: the same call again goes on where it was interrupted, or does nothing.

Example:
    >>> from videowm import api
    >>> data = api.record("carracing", "data/cars", api.RecordOptions(episodes=20))
    >>> api.train("configs/vae/quickstart.yaml", api.TrainOptions(overrides=(f"data={data}", "out=runs/vae")))
    >>> latents = api.encode(data, "runs/vae", "latents/cars")
    >>> record = api.train("configs/world/quickstart.yaml", api.TrainOptions(overrides=(f"latents={latents}",)))
    >>> record.metrics["heldout/loss"]

Every function raises `videowm.types.UserError` for a value out of range, a path that holds something else, or a damaged
file. The message is one sentence. Progress is shown on stderr.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videowm import config as configuration
from videowm.options import (
    CaptionOptions,
    DreamRecordOptions,
    DreamScoreOptions,
    DreamTrainOptions,
    DreamWatchOptions,
    EncodeOptions,
    EndpointOptions,
    EvaluateOptions,
    ExpandOptions,
    GenerateOptions,
    ImportOptions,
    LabelOptions,
    LatentsOptions,
    PlayOptions,
    ProbeOptions,
    PullOptions,
    PushOptions,
    QuickstartOptions,
    RecordOptions,
    TrainOptions,
)
from videowm.types import UserError

if TYPE_CHECKING:
    from videowm.caption import Captioned
    from videowm.generation import Generated
    from videowm.label import Labelled
    from videowm.publish import Pushed
    from videowm.record import RunRecord

__all__ = [
    "CaptionOptions", "DreamRecordOptions", "DreamScoreOptions", "DreamTrainOptions", "DreamWatchOptions",
    "EncodeOptions", "EndpointOptions", "EvaluateOptions", "ExpandOptions", "GenerateOptions", "ImportOptions",
    "LabelOptions", "LatentsOptions", "PlayOptions", "ProbeOptions", "PullOptions", "PushOptions", "QuickstartOptions",
    "RecordOptions", "TrainOptions", "UserError",
    "caption", "dream_record", "dream_score", "dream_train", "dream_watch", "encode", "evaluate", "expand", "generate",
    "import_", "info", "label", "latents", "play", "pull", "push", "quickstart", "record", "train",
]  # fmt: skip

AnyPath = str | Path


def record(world: str, out: AnyPath, options: RecordOptions) -> Path:
    """Play a game with its scripted driver and record a dataset; returns the folder `out`.

    Args:
        world: name of the game, such as "carracing" (`videowm.worlds` lists them) or "gym:CartPole-v1".
        out: folder of the dataset. Of an interrupted recording only the missing files are made.
        options: how many episodes, and how they are played.

    Raises:
        UserError: an unknown world, or a folder that holds something else.
    """
    from videowm.data.recording import record_episodes
    from videowm.parts import Part

    o = configuration.check(options)
    named = {"size": o.size, "policy": o.policy, "hold": o.hold, "state": o.state, "image": o.image}
    arguments: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    for argument in o.world_args:
        configuration.apply_override(arguments, argument)
    return record_episodes(world, out, episodes=o.episodes, seed=o.seed, workers=o.workers, frames=o.frames,
                           frame_skip=o.frame_skip, test_share=o.test_share, lossless=o.lossless,
                           arguments=arguments, trust=o.trust, part=Part.current(o.part))  # fmt: skip


def import_(source: AnyPath, out: AnyPath, options: ImportOptions = ImportOptions()) -> Path:
    """Bring foreign recordings into a new dataset; returns the folder `out`.

    Args:
        source: a LeRobot folder (layout v2.0, v2.1 or v3), or a folder of videos with action tables: a.mp4 beside
            a.csv, a.npy, a.npz or a.parquet, and a.txt where there is a caption.
        out: new or empty folder. Of an interrupted import only the missing episodes are made.
        options: what is taken, and how frames are stored.

    Raises:
        UserError: a video that is cut off, actions that do not fit the frames, or a folder that holds something else.
    """
    from videowm.data.import_ import import_dataset

    return import_dataset(source, out, configuration.check(options))


def caption(data: AnyPath, options: CaptionOptions = CaptionOptions()) -> Captioned:
    """Put the clips of a dataset into words; returns the file of captions and how many clips have one.

    Args:
        data: dataset. Clips that have a caption already are not captioned again.
        options: from the recorded state, or by a model on an OpenAI-compatible server.

    Raises:
        UserError: no server is named, it does not answer, or its model does not see pictures.
    """
    from videowm.caption import caption as caption_clips

    return caption_clips(Path(data), configuration.check(options))


def expand(prompt: str, options: ExpandOptions) -> str:
    """A short prompt rewritten by a model in the style of the training captions.

    Args:
        prompt: a few words.
        options: the server, and the first frame that the model shall see.

    Raises:
        UserError: an empty prompt, or a server without a usable answer.
    """
    from videowm.caption import expand as expand_prompt

    return expand_prompt(prompt, configuration.check(options))


def label(data: AnyPath, options: LabelOptions = LabelOptions()) -> Labelled:
    """Label a recording with actions by its frames; returns the labels' name and how good they are.

    Args:
        data: dataset, which gets a table of labels beside what was recorded.
        options: how many of its episodes are learned from, or another recording, or a finished labeller.

    Raises:
        UserError: there are no actions to learn from, or frames of another size than were learned from.
    """
    from videowm.label import label as label_recording

    return label_recording(Path(data), configuration.check(options))


def train(config: AnyPath, options: TrainOptions = TrainOptions()) -> RunRecord | None:
    """Train what a configuration describes; returns the record of the finished run.

    Args:
        config: YAML file. A path such as "configs/world/quickstart.yaml" that is not there is looked for among the
            configurations that come with the package.
        options: dotted overrides such as "train.steps=2000", and whether to profile.

    Returns:
        the record, or None in every process of `accelerate launch` but the first.

    Raises:
        UserError: a wrong key or value, data that are not there, or a directory that holds another run.
    """
    from videowm.device import Process

    o, _ = configuration.check(options), Process.current()  # refuses what accelerate would end on with a traceback
    from videowm.train.loop import launch

    return launch(Path(config), list(o.overrides), profiled=o.profile)


def encode(data: AnyPath, vae: AnyPath, out: AnyPath, options: EncodeOptions = EncodeOptions()) -> Path:
    """Encode a dataset to latents, once; returns the folder `out`.

    Under torchrun or accelerate launch each process encodes its share, and the first writes latents.json at the end.

    Args:
        data: dataset.
        vae: run directory of an autoencoder, a diffusers folder or a hub name.
        out: folder of the latents. Shards that are there already are kept.
        options: frames of a clip, number format, episodes that are played instead of read.

    Raises:
        UserError: frames that do not fit the autoencoder's time stride, or latents of another autoencoder in `out`.
    """
    from videowm.data.dataset import Dataset
    from videowm.data.encode import encode_dataset
    from videowm.data.played import PlayedSource
    from videowm.device import Process, default_device
    from videowm.parts import Part
    from videowm.vae.codec import DiffusersCodec, load_vae, to_float

    o, process, dataset = configuration.check(options), Process.current(), Dataset(data)
    device = default_device(process)
    codec = DiffusersCodec(load_vae(str(vae)).to(device).eval())
    played = None if o.play is None else PlayedSource(dataset, episodes=o.play, seed=o.seed, workers=o.workers,
                                                        trust=o.trust)  # fmt: skip
    encode_dataset(dataset, codec, Path(out), frames=o.frames, vae=str(vae), dtype=o.dtype, played=played,
                   part=Part.current(o.part), batch=o.batch or (64 if device.type == "cuda" else 4), process=process,
                   states=o.states, to_frames=lambda pixels: to_float(pixels, device))  # fmt: skip
    return Path(out)


def latents(
    vae: AnyPath, data: AnyPath, out: AnyPath = "latents.png", options: LatentsOptions = LatentsOptions()
) -> dict[str, Any]:
    """Draw what each principal direction of a latent space changes; returns what the JSON beside the picture holds.

    Args:
        vae: run directory of an autoencoder, a diffusers folder or a hub name.
        data: dataset whose held-out clips are encoded.
        out: the picture, whose name ends in .png.
        options: how many directions and clips.

    Raises:
        UserError: another ending, or more directions than there are latent steps.
    """
    from videowm.explore import write_directions

    return write_directions(str(vae), Path(data), Path(out), configuration.check(options))


def probe(
    runs: AnyPath | Sequence[AnyPath], out: AnyPath = "probe.png", options: ProbeOptions = ProbeOptions()
) -> dict[str, Any]:
    """Read the simulator's factors off every layer of world models; returns what the JSON beside the picture holds.

    Each run also gets its own part as probe.json, and as probe.safetensors the directions of its latents, which
    `videowm play` shows as sliders.

    Args:
        runs: finished run of `task: world`, or several that are drawn together.
        out: the picture, whose name ends in .png.
        options: which factors, of which recording; and whether states are pushed along them.

    Raises:
        UserError: another ending, a factor that is not there or does not vary, a recording without states, or a reader
            of another one.
    """
    from videowm.explore import write_probe

    several = [Path(run) for run in ([runs] if isinstance(runs, (str, Path)) else runs)]
    return write_probe(several, Path(out), configuration.check(options))


def generate(
    run: AnyPath, data: AnyPath | None = None, out: AnyPath | None = None,
    options: GenerateOptions = GenerateOptions(),
) -> Generated:  # fmt: skip
    """Continue frames of a dataset under given actions; returns the frames, uint8 "f H W 3", and what led to them.

    Args:
        run: finished world model.
        data: dataset that the first frames come from; None: the stretches that a pushed run brought along.
        out: video of truth, prediction and difference to write, whose name ends in .mp4; None: write nothing.
        options: first frames, actions, prompt, sampler, seed.

    Raises:
        UserError: an unfinished run, frames that were not recorded, unknown actions, or guidance that the run was not
            trained for.
    """
    from videowm.generation import generate as roll_out

    data, out = (None if path is None else Path(path) for path in (data, out))
    return roll_out(Path(run), data, out, configuration.check(options))


def evaluate(run: AnyPath, options: EvaluateOptions = EvaluateOptions()) -> dict[str, Any]:
    """Measure a finished run; returns metric name -> value, as `videowm.metrics` describes them.

    Writes evaluation.json into the run, and for a world model or an autoencoder evaluation.html with pictures.

    Args:
        run: finished run of any task.
        options: clips, horizon, networks that read rollouts. What is None is taken from the run's configuration.

    Raises:
        UserError: an unfinished run, or a reader of another dataset.
    """
    from videowm.measure import measure

    return measure(Path(run), configuration.check(options))


def play(runs: AnyPath | Sequence[AnyPath], options: PlayOptions = PlayOptions()) -> None:
    """Serve a page on which finished world models are played in a browser, until Ctrl-C.

    Args:
        runs: one finished world model, or several of one world, which play side by side under the same keys.
        options: recording that games begin in, address, token, device.

    Raises:
        UserError: an unfinished run, runs of unlike worlds, a port that is taken, or `videowm[play]` is not installed.
    """
    from videowm.play.launch import play as serve

    o = configuration.check(options)
    serve([Path(run) for run in ([runs] if isinstance(runs, str | Path) else runs)], o)


def dream_train(run: AnyPath, out: AnyPath, options: DreamTrainOptions = DreamTrainOptions()) -> dict[str, Any]:
    """Train an agent in the dream of a world model; returns what its agent.json says.

    Args:
        run: finished world model with heads.
        out: folder of the agent: agent.safetensors, agent.json, and a checkpoint. The same call again goes on.
        options: agent, algorithm, budget, and how is dreamt.

    Raises:
        UserError: the run has no heads, the folder holds something else or what was begun with other options, or
            `videowm[agents]` is not installed.
    """
    from videowm.agents.train import train_agent

    return train_agent(Path(run), Path(out), configuration.check(options))


def dream_score(player: AnyPath, options: DreamScoreOptions = DreamScoreOptions()) -> dict[str, Any]:
    """Play the real game and write what came of it; returns the content of scores.json.

    Args:
        player: folder of an agent, `plan:RUN`, or random, still, driver or expert.
        options: game, number of games, and the folder of all players' scores. The same call again goes on.

    Raises:
        UserError: the player, its run or its game cannot be used, or the folder holds scores of another protocol.
    """
    from videowm.agents.score import score

    return score(str(player), configuration.check(options))


def dream_record(player: AnyPath, out: AnyPath, options: DreamRecordOptions = DreamRecordOptions()) -> Path:
    """Let a player play the real game and record its games into the folder `out`; returns it.

    Args:
        player: folder of an agent, `plan:RUN`, or random, still, driver or expert.
        out: new folder, or one of the same recording, of which the rest is made.
        options: game, number of games, and the share of decisions that are drawn at random.

    Raises:
        UserError: the player, its run or its game cannot be used, or `out` holds something else.
    """
    from videowm.agents.collect import record_games

    return record_games(str(player), Path(out), configuration.check(options))


def dream_watch(
    player: AnyPath, out: AnyPath = "watch.mp4", options: DreamWatchOptions = DreamWatchOptions()
) -> dict[str, float]:
    """Show a player in the real game and in the dream, from the same moment; returns what it earned in both.

    Args:
        player: folder of an agent, or `plan:RUN`.
        out: mp4 to write.
        options: which game, and how is dreamt.

    Raises:
        UserError: the player cannot dream, its run cannot be used, or the game ended before the dream begins.
    """
    from videowm.agents.watch import watch

    return watch(str(player), Path(out), configuration.check(options))


def info(path: AnyPath, *, verify: bool = False) -> str:
    """Describe a dataset, a latents folder or a run in a few lines; `verify` also checks every file's sha256.

    Of a dataset it also says what looks wrong: shifted, constant or clipped actions, copies, black or frozen frames.

    Raises:
        UserError: the folder is none of these, or a file is not as it was written.
    """
    from videowm.info import info as describe

    return describe(Path(path), verify=verify)


def push(source: AnyPath, to: str, options: PushOptions = PushOptions()) -> Pushed:
    """Push a run or a dataset to the hub, with a card made of its record; returns where it is and what went.

    Args:
        source: finished run of a world model or an autoencoder, or dataset.
        to: user/name on the hub, or folder:DIR for a new folder of the same layout.
        options: licence, number format, held-out stretches that go along.

    Raises:
        UserError: it is unfinished, the hub cannot be reached or refuses the key, or the folder holds something.
    """
    from videowm.publish import push as publish

    return publish(Path(source), to, configuration.check(options))


def pull(name: str, out: AnyPath, options: PullOptions = PullOptions()) -> Path:
    """Download a run or a dataset from the hub; returns the folder `out`, which is whole or not there.

    Args:
        name: user/name on the hub.
        out: new folder.
        options: branch, tag or commit.

    Raises:
        UserError: no repository has that name, the hub cannot be reached, or `out` holds something else.
    """
    from videowm.publish import pull as fetch

    return fetch(name, Path(out), configuration.check(options))


def quickstart(out: AnyPath = "runs/quickstart", options: QuickstartOptions = QuickstartOptions()) -> Path:
    """Record, train, encode, sweep and report, small, on a CPU; returns the report, an HTML page.

    Args:
        out: run directory of everything.
        options: how many processes record.

    Raises:
        UserError: one of the stages failed.
    """
    from videowm.quickstart import main

    return main(Path(out), workers=configuration.check(options).workers)
