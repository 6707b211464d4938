"""The verbs. Imports nothing heavy before a verb needs it."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable
from pathlib import Path

from videowm.config import parse_args
from videowm.types import UserError

DESCRIPTION = """Video world models and their scaling laws.

examples:
  videowm quickstart                                          the whole loop, small, on a laptop's CPU
  videowm record carracing --out data/carracing --episodes 200 --seed 0 --workers 2
  videowm train configs/vae/quickstart.yaml train.steps=2000
  videowm caption data/carracing --from-state                 words for every clip
  videowm encode data/carracing --vae runs/vae --out latents/carracing
  accelerate launch -m videowm train configs/world/quickstart.yaml depth=6
  videowm latents runs/vae --data data/carracing --out latents.png
  videowm generate runs/world --from data/carracing --episode 3 --actions "left*8 gas*16" --out clip.mp4
  videowm evaluate runs/world
  videowm info runs/world
  python -m scaling run configs/sweep/quickstart.yaml"""

CACHE = Path("~/.cache/videowm/prompts")  # of expanded prompts
Verb = Callable[[str, str, str], argparse.ArgumentParser]  # (name, help, example) -> its parser


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "videowm", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help: str, example: str) -> argparse.ArgumentParser:
        raw = argparse.RawDescriptionHelpFormatter
        return verbs.add_parser(name, help=help, description=help, epilog=f"example:\n  {example}", formatter_class=raw)

    for add in (data_verbs, word_verbs, model_verbs, run_verbs):
        add(verb)
    return top


def data_verbs(verb: Verb) -> None:
    """The whole loop, and where data come from."""
    p = verb(
        "quickstart", "record, train, sweep and report, small, on a CPU", "videowm quickstart --out runs/quickstart"
    )
    p.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="run directory (default: %(default)s)")
    p.add_argument("--workers", type=int, default=2, help="recording processes (default: %(default)s)")

    p = verb("record", "play a game with a scripted driver and record a dataset",
             "videowm record carracing --out data/carracing --episodes 200 --seed 0 --workers 2")  # fmt: skip
    p.add_argument("world", help="the game: carracing, carracing-noisy, takecover or fourrooms")
    p.add_argument("--out", type=Path, required=True, help="dataset directory to write")
    p.add_argument("--episodes", type=int, required=True)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--workers", type=int, default=1, help="processes; they change nothing in the data")
    p.add_argument("--frames", type=int, default=261, help="frames an episode (default: %(default)s)")
    p.add_argument("--frame-skip", type=int, default=4, help="game steps a frame (default: %(default)s)")
    p.add_argument("--test-share", type=float, default=0.1, help="share of episodes held out (default: %(default)s)")
    p.add_argument("--lossless", action="store_true", help="bit-exact video, several times larger")

    p = verb("import", "bring in a LeRobot v3 folder, or videos with action tables",
             "videowm import ~/robot_videos --out data/robot --size 64")  # fmt: skip
    p.add_argument("source", type=Path, help="LeRobot v3 folder, or a.mp4 + a.csv|npz|parquet (+ a.txt) side by side")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--size", type=int, default=64, help="height and width of the stored frames (default: %(default)s)")


def word_verbs(verb: Verb) -> None:
    """Words for clips and prompts."""
    p = verb("caption", "put every clip into words, by a model that sees frames or from the recorded state",
             "videowm caption data/carracing --base-url http://127.0.0.1:8000/v1 --model NAME --limit 20")  # fmt: skip
    p.add_argument("data", type=Path)
    p.add_argument("--from-state", action="store_true", help="from the simulator's recorded state, without a model")
    endpoint_options(p)
    p.add_argument("--frames", type=int, default=8, help="frames shown of a clip (default: %(default)s)")
    p.add_argument("--clip-frames", type=int, default=65, help="frames a clip, as in encode (default: %(default)s)")
    p.add_argument("--image-size", type=int, default=256, help="longer side of a shown frame (default: %(default)s)")
    p.add_argument("--concurrency", type=int, default=8, help="questions at once (default: %(default)s)")
    p.add_argument("--limit", type=int, default=None, help="clips to ask for now; a few of them give an estimate")
    p.add_argument("--retry-failed", action="store_true", help="ask only for clips that failed before")
    p.add_argument("--price-in", type=float, default=0.0, help="price of a million tokens asked, for the estimate")
    p.add_argument("--price-out", type=float, default=0.0, help="price of a million tokens answered")

    p = verb("expand", "rewrite a short prompt in the style of the captions",
             'videowm expand "a red car turns left" --base-url http://127.0.0.1:8000/v1 --model NAME')  # fmt: skip
    p.add_argument("prompt")
    endpoint_options(p)
    p.add_argument("--from", dest="data", type=Path, default=None, help="dataset the first frame comes from")
    p.add_argument("--episode", type=int, default=0)
    p.add_argument("--start", type=int, default=0, help="the first frame's number within the episode")
    p.add_argument("--cache", type=Path, default=CACHE, help="default: %(default)s")


def model_verbs(verb: Verb) -> None:
    """From a dataset to models."""
    p = verb("train", "train what a configuration describes; the same command again resumes",
             "videowm train configs/world/quickstart.yaml depth=6 train.steps=5000 out=runs/deeper\n"
             "  videowm train configs/world/quickstart.yaml --profile out=runs/profiled")  # fmt: skip
    p.add_argument("config", type=Path, help="YAML file; runs/x/config.yaml repeats a run")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides")
    p.add_argument("--profile", action="store_true",
                   help="also record ten steps: OUT/profile/trace.json.gz, kernels.json and a table")  # fmt: skip

    p = verb("encode", "encode a dataset to latents, once; under torchrun or accelerate launch by several processes",
             "torchrun --nproc_per_node 4 -m videowm encode data/cars --vae runs/vae --out latents/cars\n"
             "  accelerate launch --multi_gpu --num_processes 4 -m videowm encode data/cars --vae runs/vae --out z\n"
             "On a CPU too: there, accelerate launch without --multi_gpu starts one process.")  # fmt: skip
    p.add_argument("data", type=Path)
    p.add_argument("--vae", required=True, help="run directory, diffusers folder or hub name")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--frames", type=int, default=65, help="frames a clip, 1 + k * time stride (default: %(default)s)")
    p.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp16", help="default: %(default)s")
    p.add_argument("--batch", type=int, help="clips encoded at once (default: 64 on a GPU, 4 on a CPU)")
    p.add_argument("--play", type=int, metavar="N", help="train on N new episodes, played and encoded but never stored")
    p.add_argument(
        "--seed", type=int, default=1, help="of the played episodes, not the dataset's (default: %(default)s)"
    )
    p.add_argument("--workers", type=int, default=1, help="playing processes; they change nothing in the latents")

    p = verb("latents", "move each principal direction of a latent space and look; writes a picture, and JSON beside",
             "videowm latents runs/vae --data data/carracing --out latents.png")  # fmt: skip
    p.add_argument("vae", help="run directory, diffusers folder or hub name")
    p.add_argument("--data", type=Path, required=True, help="dataset whose held-out clips are encoded")
    p.add_argument("--out", type=Path, default=Path("latents.png"), help="default: %(default)s")
    p.add_argument("--directions", type=int, default=6, help="rows of the picture (default: %(default)s)")
    p.add_argument("--clips", type=int, default=128, help="about how many clips (default: %(default)s)")


def run_verbs(verb: Verb) -> None:
    """What finished runs and datasets are asked for."""
    p = verb(
        "generate",
        "continue held-out frames under given actions; writes truth, prediction and difference",
        'videowm generate runs/world --from data/carracing --actions "left*8 gas*16" --out clip.mp4\n'
        '  videowm generate runs/worded --from data/carracing --prompt "a red car turns left" --out clip.mp4',
    )
    p.add_argument("run", type=Path)
    p.add_argument("--from", dest="data", type=Path, required=True, help="dataset the first frames come from")
    p.add_argument("--episode", type=int, default=None, help="episode (default: the first of the test split)")
    p.add_argument("--start", type=int, default=0, help="first context frame (default: %(default)s)")
    p.add_argument("--context", type=int, default=9, help="context frames (default: %(default)s)")
    p.add_argument(
        "--actions", default=None, help='"left*8 gas*16", a table (.csv .npy .npz), or leave out: the episode\'s own'
    )
    p.add_argument("--frames", type=int, default=64, help="frames to predict under the episode's own actions")
    p.add_argument("--sampling-steps", type=int, default=None, help="noise levels a latent step (default: 5, Heun's)")
    p.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        help="on the actions, of a run with flow.drop_actions; 1: none (default: %(default)s)",
    )
    p.add_argument("--sampler", nargs="+", default=[], metavar="KEY=VALUE",
                   help="more of it: method=euler shift=2 context_level=0 (noise on what it remembers, 0.3 by default: "
                   "steadier over hundreds of frames) history_guidance=1.5 sinks=2 levels=[1,0.6,0.2,0]")  # fmt: skip
    p.add_argument(
        "--prompt",
        default=None,
        metavar="TEXT",
        help="what is to be seen, of a run with text: as in its captions, or a few words with --expand",
    )
    p.add_argument("--text-guidance", type=float, default=1.0, help="on the prompt; 1: none (default: %(default)s)")
    p.add_argument(
        "--expand",
        action="store_true",
        help="have the prompt and the last context frame put in the style of captions, by a model",
    )
    endpoint_options(p)
    p.add_argument("--cache", type=Path, default=CACHE, help="of expanded prompts (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("clip.mp4"))

    p = verb("evaluate", "measure a finished run; writes evaluation.json, of a world model a page and clips too",
             "videowm evaluate runs/world --reader runs/reader --clips 64 --horizon 64")  # fmt: skip
    p.add_argument("run", type=Path)
    p.add_argument(
        "--reader", type=Path, default=None, help="run of task: reader; reads actions and state off rollouts"
    )
    p.add_argument("--features", default=None, help="network of the Fréchet distance: reader (default where one is "
                   "given and clips suffice), an I3D TorchScript file, or VideoMAE's folder or hub name")  # fmt: skip
    p.add_argument("--clips", type=int, default=None, help="held-out starts, about (default: the run's rollout.clips)")
    p.add_argument("--horizon", type=int, default=None, help="predicted frames (default: the run's rollout.horizon)")
    p.add_argument("--context", type=int, default=None, help="given frames (default: the run's rollout.context_frames)")
    p.add_argument("--batch", type=int, default=None, help="clips at once (default: the run's rollout.batch)")
    p.add_argument("--counterfactuals", type=int, default=16, metavar="N",
                   help="starts that the real game continues under other actions (default: %(default)s)")  # fmt: skip
    p.add_argument("--text-guidance", type=float, default=1.0,
                   help="where it is looked whether words are obeyed; 1: none (default: %(default)s)")  # fmt: skip
    p.add_argument("--smaller", type=Path, nargs="*", default=[], metavar="RUN",
                   help="runs of rising smaller budgets on the same latents: which error can be learned")  # fmt: skip

    p = verb("info", "say what a dataset, a latents folder or a run holds", "videowm info data/carracing")
    p.add_argument("path", type=Path)
    p.add_argument("--verify", action="store_true", help="also compare every file with its sha256")


def endpoint_options(p: argparse.ArgumentParser) -> None:
    """Options of the verbs that ask an OpenAI-compatible server."""
    p.add_argument("--base-url", default=None, help="address of an OpenAI-compatible server, mostly ends in /v1")
    p.add_argument("--model", default=None, help="the model's name there; it must see pictures")
    p.add_argument("--key-env", default=None, help="environment variable with the key (default: OPENAI_API_KEY if set)")
    p.add_argument("--answer", choices=("json", "text"), default="json",
                   help="text: take any words, from models that cannot write JSON (default: %(default)s)")  # fmt: skip
    p.add_argument("--max-tokens", type=int, default=800, help="of an answer (default: %(default)s)")
    p.add_argument("--temperature", type=float, default=None, help="default: the server's")
    p.add_argument("--timeout", type=float, default=120.0, help="seconds without an answer (default: %(default)s)")
    p.add_argument("--retries", type=int, default=5, help="after errors that may pass (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Carry out one verb; the heavy imports happen here."""
    if args.verb == "record":
        from videowm.data.recording import record_episodes

        record_episodes(args.world, args.out, episodes=args.episodes, seed=args.seed, workers=args.workers,
                        frames=args.frames, frame_skip=args.frame_skip, test_share=args.test_share,
                        lossless=args.lossless)  # fmt: skip
    elif args.verb == "import":
        from videowm.data.import_ import import_dataset

        import_dataset(args.source, args.out, size=(args.size, args.size))
    elif args.verb in ("caption", "expand"):
        from videowm import caption

        return getattr(caption, args.verb)(args) or 0
    elif args.verb == "train":
        from videowm.train.loop import launch

        launch(args.config, args.overrides, profiled=args.profile)
    elif args.verb == "info":
        from videowm.info import info

        print(info(args.path, verify=args.verify))
    else:
        from videowm import commands

        return getattr(commands, args.verb)(args) or 0
    return 0


def main(argv: list[str] | None = None) -> None:
    args = parse_args(parser(), argv)
    try:
        sys.exit(run(args))
    except UserError as error:
        print(f"videowm: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" for {error.filename}" if error.filename else ""
        print(f"videowm: no space left on the disk{where}: free some and run the same command again", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("videowm: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
