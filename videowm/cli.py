"""The command line: it turns arguments into calls of `videowm.api`, and errors into one sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from videowm import __version__, api, shipped
from videowm.agents.verbs import dream_verb
from videowm.arguments import Parser, add_options, options_from, parse_args
from videowm.exits import carry_out, printable
from videowm.reference import keys

DESCRIPTION = """Video world models and their scaling laws.

examples:
  videowm quickstart                                          the whole loop, small, on a laptop's CPU
  videowm record carracing --out data/carracing --episodes 200 --seed 0 --workers 2
  videowm train configs/vae/quickstart.yaml train.steps=2000
  videowm caption data/carracing --from-state                 words for every clip
  videowm label data/carracing --share 0.05                   actions that nobody wrote down
  videowm encode data/carracing --vae runs/vae --out latents/carracing
  python -m videowm.launch --multi_gpu train configs/world/quickstart.yaml depth=6
  videowm latents runs/vae --data data/carracing --out latents.png
  videowm probe runs/world --factor speed turn                what is known in which layer
  videowm generate runs/world --from data/carracing --episode 3 --actions "left*8 gas*16" --out clip.mp4
  videowm evaluate runs/world
  videowm play runs/world                                     in a browser
  videowm dream train runs/world --out runs/agent             an agent that learns in the dream
  videowm info runs/world
  videowm push runs/world user/name                           to the hub, with a card; pull brings it back
  videowm config list                                         the configurations that come with the package
  python -m scaling run configs/sweep/quickstart.yaml"""

FROM = {"data": "--from"}  # dataset of the first frames
STOPPED = {  # what is true after Ctrl-C
    "quickstart": "the same command goes on with the stage that was stopped",
    "record": "the same command records the files that are missing",
    "caption": "the same command captions the clips that have none",
    "encode": "the same command encodes the shards that are missing",
    "train": "the same command goes on from the last checkpoint",
    "label": "the same command goes on from the last checkpoint",
    "play": "what was saved is kept",
    "dream": "the same command goes on from what was written",
    "push": "nothing is seen yet, the same command uploads what is missing",
    "pull": "the same command downloads what is missing",
    "evaluate": "nothing was kept, the same command measures from the start",
}
Verb = Callable[[str, str, str], argparse.ArgumentParser]  # (name, help, example) -> its parser


class Version(argparse.Action):
    """Print the versions and exit; they are looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(versions())
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """The parser of all verbs; each one's default `function` is the one that carries it out."""
    top = Parser("videowm", description=DESCRIPTION)
    top.add_argument("--version", action=Version, nargs=0, help="versions of videowm, torch, diffusers and Python")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function: Callable, help: str, example: str) -> argparse.ArgumentParser:
        name = function.__name__.removesuffix("_")
        p = verbs.add_parser(name, help=help, description=help, epilog=f"example:\n  {example}")
        p.set_defaults(function=function)
        return p

    for add in (data_verbs, word_verbs, model_verbs, run_verbs, dream_verb, hub_verbs, config_verb):
        add(verb)
    return top


def data_verbs(verb: Verb) -> None:
    """The whole loop, and where data come from."""
    p = verb(quickstart, "record, train, sweep and report, small, on a CPU", "videowm quickstart --out runs/quickstart")
    p.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="run directory (default: %(default)s)")
    add_options(p, api.QuickstartOptions)

    p = verb(record, "play a game and record a dataset",
             "videowm record carracing --out data/carracing --episodes 200 --seed 0 --workers 2\n"
             "  videowm record gym:ALE/Pong-v5 --out data/pong --episodes 100 --workers 2\n"
             "  videowm record gym:my_package:My-v0 --out data/my --episodes 50 --policy my_agent:act")  # fmt: skip
    worlds = ("carracing, carracing-noisy, takecover, doomrooms, fourrooms, pusht, one of another package, or gym:ID "
              "of any gymnasium environment; gym:PACKAGE:ID imports its package first")  # fmt: skip
    p.add_argument("world", help=worlds)
    p.add_argument("--out", type=Path, required=True, help="dataset directory to write")
    add_options(p, api.RecordOptions)

    p = verb(import_, "bring in a LeRobot folder, or videos with action tables",
             "videowm import ~/robot_videos --out data/robot --size 96x128\n"
             "  videowm import ~/hub/pusht --out data/pusht --camera observation.image --episodes 0-99")  # fmt: skip
    p.add_argument("source", type=Path, help="LeRobot folder, or a.mp4 + a.csv|npz|parquet (+ a.txt) side by side")
    p.add_argument("--out", type=Path, required=True, help="dataset directory to write")
    add_options(p, api.ImportOptions)


def word_verbs(verb: Verb) -> None:
    """Captions of clips, and prompts in their style."""
    p = verb(caption, "put every clip into words, by a model that sees frames or from the recorded state",
             "videowm caption data/carracing --base-url http://127.0.0.1:8000/v1 --model NAME --limit 20")  # fmt: skip
    p.add_argument("data", type=Path, help="dataset directory")
    add_options(p, api.CaptionOptions)

    p = verb(expand, "rewrite a short prompt in the style of the captions",
             'videowm expand "a red car turns left" --base-url http://127.0.0.1:8000/v1 --model NAME')  # fmt: skip
    p.add_argument("prompt", help="a few words")
    add_options(p, api.ExpandOptions, FROM)


def model_verbs(verb: Verb) -> None:
    """From a dataset to models."""
    p = verb(train, "train what a configuration describes; the same command again resumes",
             "videowm train configs/world/quickstart.yaml depth=6 train.steps=5000 out=runs/deeper\n"
             "  videowm train configs/vae/quickstart.yaml train.minutes=9 data=null play.world=carracing "
             "play.episodes=200 out=runs/played\n"
             "  videowm train configs/world/quickstart.yaml --profile out=runs/profiled\n\n"
             "key=value changes one key of the file; a dot goes down a level, and the value is YAML: train.lr=1e-3\n"
             "train.keep_at=[1000,2000] hidden=null. A wrong key or value is refused before anything is made.\n"
             "`videowm config keys TASK` lists every key with its limits and default, as does the documentation\n"
             "(reference, configuration). OUT/config.yaml keeps all of them.")  # fmt: skip
    p.add_argument("config", type=Path, help="YAML file; runs/x/config.yaml repeats a run")
    p.add_argument("overrides", nargs="*", metavar="key=value",
                   help="dotted overrides of the file, such as train.lr=1e-3")  # fmt: skip
    p.add_argument("--profile", action="store_true",
                   help="also record ten steps: OUT/profile/trace.json.gz, kernels.json and a table")  # fmt: skip

    p = verb(label, "label a recording with actions by its frames, learned from a share of its episodes",
             "videowm label data/carracing --share 0.05 --out runs/label\n"
             "  videowm label data/videos --learn-from data/carracing --out runs/label\n"
             "  videowm label data/carracing --by runs/codes            actions that were discovered")  # fmt: skip
    p.add_argument("data", type=Path, help="dataset directory")
    add_options(p, api.LabelOptions)

    p = verb(encode, "encode a dataset to latents, once; under torchrun or accelerate launch by several processes",
             "torchrun --nproc_per_node 4 -m videowm encode data/cars --vae runs/vae --out latents/cars\n"
             "  accelerate launch --multi_gpu --num_processes 4 -m videowm encode data/cars --vae runs/vae --out z\n"
             "On a CPU too: there, accelerate launch without --multi_gpu starts one process.")  # fmt: skip
    p.add_argument("data", type=Path, help="dataset directory")
    p.add_argument("--vae", required=True, help="run directory, diffusers folder or hub name")
    p.add_argument("--out", type=Path, required=True, help="latents directory to write")
    add_options(p, api.EncodeOptions)

    p = verb(latents, "move each principal direction of a latent space and look; writes a picture, and JSON beside",
             "videowm latents runs/vae --data data/carracing --out latents.png")  # fmt: skip
    p.add_argument("vae", help="run directory, diffusers folder or hub name")
    p.add_argument("--data", type=Path, required=True, help="dataset whose held-out clips are encoded")
    p.add_argument("--out", type=Path, default=Path("latents.png"), help="default: %(default)s")
    add_options(p, api.LatentsOptions)

    p = verb(probe, "read the simulator's state off every layer of world models; writes a picture, and JSON beside",
             "videowm probe runs/world --factor speed turn\n"
             "  videowm probe runs/quickstart/1x runs/quickstart/16x --factor speed --intervene --reader runs/reader"
             )  # fmt: skip
    p.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories of task: world")
    p.add_argument("--out", type=Path, default=Path("probe.png"), help="default: %(default)s")
    add_options(p, api.ProbeOptions)


def run_verbs(verb: Verb) -> None:
    """What finished runs and datasets are used for."""
    p = verb(generate, "continue held-out frames under given actions; writes truth, prediction and difference",
             'videowm generate runs/world --from data/carracing --actions "left*8 gas*16" --out clip.mp4\n'
             '  videowm generate runs/worded --from data/carracing --prompt "a red car turns left" --out clip.mp4\n'
             "keys of --sampler: method=euler shift=2 history_guidance=1.5 sinks=2 levels=[1,0.6,0.2,0]\n"
             "context_level=0 (noise on finished steps; 0.3 holds longer, the default)")  # fmt: skip
    p.add_argument("run", type=Path, help="run directory of a world model")
    p.add_argument(FROM["data"], dest="data", type=Path,
                   help="dataset of the first frames; default: what a pushed run brought along")  # fmt: skip
    p.add_argument("--out", type=Path, default=Path("clip.mp4"), help="video to write (default: %(default)s)")
    add_options(p, api.GenerateOptions)

    p = verb(evaluate, "measure a finished run; writes evaluation.json, of a world model or an autoencoder a page too",
             "videowm evaluate runs/world --reader runs/reader --clips 64 --horizon 64\n"
             "  videowm evaluate runs/vae --reader runs/reader          what it keeps of small things")  # fmt: skip
    p.add_argument("run", type=Path, help="run directory")
    add_options(p, api.EvaluateOptions)

    p = verb(play, "play the dream of one or several runs in a browser, beside the real game",
             "videowm play runs/world\n"
             "  videowm play runs/quickstart/1x runs/quickstart/16x --from data/carracing\n"
             "  videowm play runs/world --agent runs/agent   an agent may take over, or the planner")  # fmt: skip
    p.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories of world models of one world")
    add_options(p, api.PlayOptions, FROM)

    p = verb(info, "describe what a dataset, a latents folder or a run holds", "videowm info data/carracing")
    p.add_argument("path", type=Path, help="dataset, latents or run directory")
    p.add_argument(
        "--verify",
        action="store_true",
        help="also compare every file with its sha256, and say what looks wrong in a dataset",
    )


def hub_verbs(verb: Verb) -> None:
    """To the hub and back."""
    p = verb(push, "push a finished run or a dataset to the Hugging Face Hub, with a card made of its record",
             "videowm push runs/world user/name --license apache-2.0\n"
             "  videowm push data/carracing user/carracing --private\n"
             "  videowm push runs/world folder:demos/carracing --dtype fp16 --starts 4\n"
             "No checkpoint goes, and paths of this machine are shortened to their last part.")  # fmt: skip
    p.add_argument("source", type=Path, help="run directory of a world model or an autoencoder, or dataset")
    p.add_argument("to", help="user/name on the hub, or folder:DIR for a new folder of the same layout")
    add_options(p, api.PushOptions, FROM)

    p = verb(pull, "download a run or a dataset from the Hugging Face Hub, whole or not at all",
             "videowm pull user/name --out runs/x")  # fmt: skip
    p.add_argument("name", help="user/name on the hub")
    p.add_argument("--out", type=Path, required=True, help="new folder")
    add_options(p, api.PullOptions)


def config_verb(verb: Verb) -> None:
    """The configurations that come with the package."""
    p = verb(config, "list, show or copy the configurations that come with the package; list their keys",
             "videowm config copy world/quickstart my.yaml")  # fmt: skip
    whats = p.add_subparsers(dest="what", required=True, metavar="list|show|copy|keys")
    whats.add_parser("list", help="every configuration with its first comment: the command, and what it costs")
    show = whats.add_parser("show", help="print one")
    copy = whats.add_parser("copy", help="copy one, to change it")
    for sub in (show, copy):
        sub.add_argument("name", help="such as world/quickstart")
    listed = whats.add_parser("keys", help="every key of a task, with its type, limits, default and what it does")
    listed.add_argument("task", help="vae, world, reader, label, latent-actions, …, or a task of a package")
    copy.add_argument("to", type=Path, nargs="?", help="file or folder (default: configs/NAME.yaml here)")


def quickstart(args: argparse.Namespace) -> None:
    api.quickstart(args.out, options_from(api.QuickstartOptions, args))


def record(args: argparse.Namespace) -> None:
    api.record(args.world, args.out, options_from(api.RecordOptions, args))


def import_(args: argparse.Namespace) -> None:
    api.import_(args.source, args.out, options_from(api.ImportOptions, args))


def caption(args: argparse.Namespace) -> int:
    """Exit code 1 where some clips failed."""
    found = api.caption(args.data, options_from(api.CaptionOptions, args))
    print(found.summary)
    return 1 if found.failed else 0


def expand(args: argparse.Namespace) -> None:
    print(api.expand(args.prompt, options_from(api.ExpandOptions, args, FROM)))


def train(args: argparse.Namespace) -> None:
    api.train(args.config, options_from(api.TrainOptions, args))


def label(args: argparse.Namespace) -> None:
    print(api.label(args.data, options_from(api.LabelOptions, args)).summary)


def encode(args: argparse.Namespace) -> None:
    """Encode a dataset. Only the first process prints what was made."""
    from videowm.data.latents import FILE, LatentsIndex
    from videowm.device import Process

    out = api.encode(args.data, args.vae, args.out, options_from(api.EncodeOptions, args))
    if Process.current().rank > 0 or not (out / FILE).exists():  # other parts are not made yet
        return
    index = LatentsIndex.read(out)
    lossless = index.rounding_db is None
    cost = "" if lossless else f", {index.dtype} costs {index.rounding_rms:.1e} ({index.rounding_db:.0f} dB)"
    print(f"{out}: clips of {index.frames} frames, {index.clips}, made by VAE {index.vae_hash}{cost}")


def latents(args: argparse.Namespace) -> None:
    """One line for each direction."""
    found = api.latents(args.vae, args.data, args.out, options_from(api.LatentsOptions, args))
    from videowm.explore import labels

    for label, row in zip(labels(found["directions"]), found["directions"], strict=True):
        print(label + (f" ± {row['r2_se']:.2f}" if row["best"] else ""))
    followed = ", then the state column of the highest R²" if any(row["best"] for row in found["directions"]) else ""
    print(f"{args.out}: share of variance{followed} over {found['episodes']} episodes")


def probe(args: argparse.Namespace) -> None:
    """One line for each run and factor: the best layer, the two controls, and how far a push moved it."""
    found = api.probe(args.runs, args.out, options_from(api.ProbeOptions, args))
    for run in found["runs"]:
        for row in run["factors"]:
            r2, best, unit = row["r2"], row["best"], row["unit"]
            name = f"{run['run']}, {row['factor']}" if len(args.runs) > 1 else row["factor"]
            print(f"{name}: {r2[best]:.2f} in {best}, {r2['latents']:.2f} in the latents, {r2['random']:.2f} in a "
                  f"random network; unit {unit['unit']} of {unit['block']} alone {unit['r2']:.2f}")  # fmt: skip
        for push in run["interventions"]:
            print("  " + pushed(push))
    tested = f"on {run['test_data']}" if run["test_data"] else "each read by probes of the others"
    print(f"{args.out}: R² over {run['episodes']} held-out episodes, {tested}")


def pushed(push: dict) -> str:
    """A sentence on one factor's intervention: in the block where it does most, and where the factor is read best."""
    most = max(range(len(push["effect"])), key=lambda block: push["above"][block])

    def moved(block: int) -> str:
        clear = push["errors_above"][block]
        errors = "" if clear is None else f", {clear:.1f} standard errors above them"
        return f"{push['effect'][block]:+.2f} deviations (random directions {push['random'][block]:.2f}{errors})"

    best = f"; in block {push['block']}, where it is read best, by {moved(push['block'])}"
    return (f"pushed along it in block {most}, {push['factor']} moves by {moved(most)}"
            f"{best if most != push['block'] else ''}; read by {push['read_by']}")  # fmt: skip


def generate(args: argparse.Namespace) -> None:
    options = options_from(api.GenerateOptions, args)
    found = api.generate(args.run, args.data, args.out, options)
    if options.expand:
        print(f"prompt: {found.prompt}")
    predicted = len(found.frames) - found.context_frames
    print(f"{args.out}: {found.context_frames} context frames, {predicted} predicted")


def evaluate(args: argparse.Namespace) -> None:
    """What was found in sentences, then every number with its bounds."""
    from videowm.evaluate.findings import bounds, sentences, value_with_error
    from videowm.metrics import single

    metrics = api.evaluate(args.run, options_from(api.EvaluateOptions, args))
    if "evaluate/seconds" in metrics:
        laps = {name.split("/")[1].removesuffix("_seconds"): v for name, v in metrics.items() if "_seconds" in name}
        took = "".join(f"{name} {seconds}, " for name, seconds in laps.items())
        page = f"{args.run / 'evaluation.html'} (seconds: {took}{metrics['evaluate/seconds']} in all)"
        print("\n".join([*sentences(metrics), page]))
    for name in single(metrics):
        between = "  ".join(f"{label} {shown}" for label, shown in bounds(metrics, name).items())
        print(f"{name:44s} {value_with_error(metrics, name):20s} {between}".rstrip())


def play(args: argparse.Namespace) -> None:
    api.play(args.runs, options_from(api.PlayOptions, args, FROM))


def info(args: argparse.Namespace) -> None:
    print(printable(api.info(args.path, verify=args.verify)))


def push(args: argparse.Namespace) -> None:
    """Where it is, how much went, and in which files paths were shortened."""
    done = api.push(args.source, args.to, options_from(api.PushOptions, args, FROM))
    print(f"{done.where}: {done.files} files, {done.size / 1e6:.1f} MB")
    if done.shortened:
        print(f"paths of this machine were shortened to their last part in {', '.join(done.shortened)}")


def pull(args: argparse.Namespace) -> None:
    print(f"{api.pull(args.name, args.out, options_from(api.PullOptions, args))}: pulled from {args.name}")


def config(args: argparse.Namespace) -> None:
    """List, show or copy what comes with the package; list the keys that a configuration may have."""
    if args.what == "keys":
        from videowm.train.registry import config_class

        for key in keys(config_class(args.task, "config keys")):
            limits = f"{key.type}, {key.limits}" if key.limits else key.type
            print(f"{key.name} ({limits}; default: {key.default})\n    {key.comment}")
    elif args.what == "list":
        width = max(map(len, shipped.names()))
        for name, path in shipped.names().items():
            print(f"{name:{width}s}  {path.read_text().splitlines()[0].removeprefix('# ')}")
    elif args.what == "show":
        print(shipped.require(args.name).read_text(), end="")
    else:
        print(shipped.copy(args.name, args.to))


def versions() -> str:
    """The versions that a report of a fault should name, read without importing the packages."""
    others = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "diffusers"))
    return f"videowm {__version__} ({others}, Python {sys.version.split()[0]})"


def run(args: argparse.Namespace) -> int:
    """Carry out one verb and return its exit code; the heavy imports happen here."""
    return args.function(args) or 0


def main(argv: list[str] | None = None) -> None:
    args = parse_args(parser(), argv)
    stopped = STOPPED.get(args.verb, "run the same command again")
    carry_out("videowm", lambda: run(args), stopped=stopped)


if __name__ == "__main__":
    main()
