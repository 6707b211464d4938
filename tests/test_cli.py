"""The command line: quick help, one sentence for what a user gets wrong, and the verbs that need a model."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from videowm import cli

ROOT = Path(__file__).parents[1]
VERBS = ["quickstart", "record", "import", "caption", "expand", "train", "encode", "generate", "evaluate", "info"]


def test_help_imports_nothing_heavy(python):
    """Guards seconds of waiting for `--help`: nothing that takes long to import is imported."""
    ended = python("-m", "videowm", "--help")
    assert ended.returncode == 0 and all(verb in ended.stdout for verb in VERBS)
    code = "import sys\nfrom videowm.cli import main\ntry: main(['train', '--help'])\nfinally: print(*sys.modules)"
    modules = python("-c", code).stdout.split()
    assert "videowm.cli" in modules
    assert not {"torch", "diffusers", "scipy", "wandb", "accelerate", "decord", "gymnasium"} & set(modules)


def one_sentence(ended, *words: str) -> None:
    """Exit code 2 and a single line of error, which holds the words."""
    assert ended.code == 2, ended
    said = [line for line in ended.errors if line.startswith("videowm: ")]
    assert len(said) == 1 and ended.errors[-1] == said[0], ended.errors
    assert not any("Traceback" in line for line in ended.errors)
    assert all(word in said[0] for word in words), said[0]


def test_a_mistake_in_a_real_process(fork):
    """Guards a traceback that only the installed command shows: the whole of stderr is the one sentence."""
    ended = fork("train", "configs/vae/quickstart.yaml", "train.stesp=3")
    stdout, stderr = ended.communicate()
    assert ended.returncode == 2 and stdout == ""
    [line] = stderr.splitlines()
    assert line.startswith("videowm: ") and "unknown key 'train.stesp', did you mean 'train.steps'?" in line


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trian.steps=3"], ["unknown key 'trian', did you mean 'train'?"]),
        (["train.steps=many"], ["steps: expected int, got 'many'"]),
        (["train.precision=fp8"], ["'fp8' is not a choice"]),
        (["task=wolrd"], ["task is 'wolrd', expected one of detector, heads, label, latent-actions, reader,"]),
        (["vae.model=AutoencoderKLCosmo"], ["did you mean 'AutoencoderKLCosmos'"]),
        (["frames=10"], ["10 frames does not fit the time stride 4", "9 and 13"]),
        (["evaluate.frames=12"], ["12 frames does not fit the time stride 4", "9 and 13"]),
        (["frames=73"], ["no train episode of 73 frames"]),
        (["data=nowhere"], ["nowhere holds no finished dataset"]),
        (["frames"], ["'frames' is not of the form key.sub=value"]),
    ],
)
def test_configurations_that_are_wrong(videowm, dataset, tmp_path, overrides, words):
    """Guards tracebacks and misleading advice: each mistake of a user is one sentence with its own words."""
    given = [f"data={dataset}", f"out={tmp_path / 'run'}", "train.trackers=[]", *overrides]
    one_sentence(videowm("train", ROOT / "configs/vae/quickstart.yaml", *given), *words)
    assert not (tmp_path / "run").exists()


def test_a_yaml_file_with_a_mistake(videowm, tmp_path):
    """Guards files like overrides: a wrong key and a wrong type in the YAML itself, a folder, and no file at all."""
    path = tmp_path / "config.yaml"
    path.write_text("task: world\nout: x\nlatents: y\ndepht: 3\n")
    one_sentence(videowm("train", path), "unknown key 'depht', did you mean 'depth'?")
    path.write_text("task: world\nout: x\nlatents: y\ndepth: deep\n")
    one_sentence(videowm("train", path), "depth: expected int, got 'deep'")
    path.write_text("task: [world]\nout: x\n")
    one_sentence(videowm("train", path), "task is ['world']")
    one_sentence(videowm("train", tmp_path), "no configuration at")
    one_sentence(videowm("train", tmp_path / "missing.yaml"), "no configuration at")


def test_the_directory_of_another_run(videowm, world_run, world_arguments):
    """Guards a finished run overwritten by another: named with the key that differs."""
    given = [*world_arguments, f"out={world_run}", "train.ema=0.5", "train.lr=1"]
    ended = videowm("train", ROOT / "configs/world/quickstart.yaml", *given)
    one_sentence(ended, "holds another run: train.lr is 0.004 there and 1.0 here")


def test_latents_of_another_autoencoder(videowm, dataset, vae_run, latents, tmp_path):
    """Guards `encode` into the folder of another VAE, from the command line."""
    import torch

    from videowm.vae.codec import load_vae

    vae = load_vae(vae_run)
    with torch.no_grad():
        next(vae.parameters()).add_(0.01)
    vae.save_pretrained(tmp_path / "vae")
    ended = videowm("encode", dataset, "--vae", tmp_path / "vae", "--out", latents, "--frames", 33)
    one_sentence(ended, "was encoded with vae_hash", "choose another --out")
    ended = videowm("encode", dataset, "--vae", vae_run, "--out", tmp_path / "x", "--frames", 34)
    one_sentence(ended, "34 frames does not fit the time stride 4", "33 and 37")
    one_sentence(videowm("encode", dataset, "--vae", tmp_path / "none", "--out", tmp_path / "y"), "no autoencoder at")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--actions", "lefft*3"], ["unknown action 'lefft', did you mean 'left'?"]),
        (["--actions", "left*0"], ["number of actions above 0"]),
        (["--actions", "nan.csv"], ["row 1 of nan.csv is [nan, 0.0, 0.0], expected finite numbers"]),
        (["--actions", "two.csv"], ["(2, 2), expected (frames - 1, 3)"]),
        (["--actions", "missing.csv"], ["missing.csv is no action table"]),
        (["--episode", "17"], ["no episode 17"]),
        (["--start", "66"], ["episode 4 has 2 actions from frame 66 on: too few for 9 frames"]),
        (["--start", "60"], ["leave nothing to predict"]),
        (["--start", "-3"], ["--start: -3 is out of range"]),
        (["--context", "0"], ["--context: 0 is out of range, expected a number that is at least 1"]),
        (["--frames", "0"], ["--frames: 0 is out of range"]),
        (["--sampling-steps", "0"], ["--sampling-steps: 0 is out of range"]),
        (["--sampler", "contxt_level=0.3"], ["--sampler", "contxt_level", "did you mean 'context_level'"]),
        (["--sampler", "method=rk4"], ["--sampler", "rk4", "euler", "heun"]),
        (["--sampler", "context_level=3"], ["--sampler: context_level: 3.0 is out of range", "at most 1"]),
        (["--guidance", "2"], ["action guidance 2", "flow.drop_actions"]),
        (["--out", "clip.avi"], ["clip.avi", ".mp4"]),
    ],
)
def test_futures_that_cannot_be(videowm, world_run, dataset, tmp_path, monkeypatch, arguments, words):
    """Guards `generate`: unknown actions, tables with NaN or too few columns, places that are not in the recording."""
    monkeypatch.chdir(tmp_path)
    Path("nan.csv").write_text("steer,gas,brake\n0,0,0\nnan,0,0\n")
    Path("two.csv").write_text("0,0\n0,1\n")
    one_sentence(videowm("generate", world_run, "--from", dataset, "--context", 9, *arguments), *words)
    assert not list(tmp_path.glob("clip*"))


def test_a_name_is_refused_before_the_work(videowm, tmp_path):
    """Guards minutes of rollout whose video then has a wrong name: not even the model is looked for."""
    one_sentence(videowm("generate", tmp_path / "none", "--from", tmp_path, "--out", "clip.avi"), "clip.avi", ".mp4")


def test_a_run_without_a_finished_checkpoint(videowm, world_run, dataset, tmp_path):
    """Guards tracebacks of diffusers for a run that was stopped early, for every verb that takes a run."""
    run = shutil.copytree(world_run, tmp_path / "run")
    (run / "record.json").unlink()
    one_sentence(videowm("generate", run, "--from", dataset), "no finished world model", "finish it")
    one_sentence(videowm("evaluate", run), "no finished run", "finish it")
    one_sentence(videowm("generate", tmp_path / "nothing", "--from", dataset), "no finished world model")
    one_sentence(videowm("info", tmp_path / "nothing"), "name one of these")


@pytest.mark.parametrize("damage", ["cut off", "no video", "gone"])
def test_a_dataset_with_a_broken_video(videowm, dataset, vae_run, tmp_path, damage):
    """Guards frames decoded wrong in silence from a video that was cut off, is something else, or is gone."""
    broken = shutil.copytree(dataset, tmp_path / "data")
    video = next(broken.rglob("*.mp4"))
    size = video.stat().st_size
    if damage == "cut off":
        os.truncate(video, size // 2)
    elif damage == "gone":
        video.unlink()
    else:
        video.write_bytes(b"no video".ljust(size))
    ended = videowm("encode", broken, "--vae", vae_run, "--out", tmp_path / "latents", "--frames", 33)
    one_sentence(ended, str(video), "missing or changed", "run the same record command again")
    assert not (tmp_path / "latents/latents.json").exists()


def test_a_file_that_is_no_dataset(videowm, tmp_path):
    """Guards `info` and `import` of anything else: a text file, and a folder without videos."""
    (tmp_path / "notes.mp4").write_text("no video")
    one_sentence(videowm("info", tmp_path / "notes.mp4"), "name one of these")
    ended = videowm("import", tmp_path, "--out", tmp_path / "data")
    assert ended.code == 2 and sum(line.startswith("videowm: ") for line in ended.errors) == 1, ended


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, ["no room for runs/x", "free disk space"]),
        (errno.EDQUOT, ["no room for runs/x", "raise the quota"]),
        (errno.EACCES, ["runs/x: permission denied", "read and write"]),
        (errno.EROFS, ["runs/x: read-only file system"]),
        (errno.ELOOP, ["runs/x: too many levels of symbolic links"]),
    ],
)
def test_what_a_disk_refuses(videowm, monkeypatch, number, words):
    """Guards a traceback when a disk is full or a path cannot be used, in any verb."""
    monkeypatch.setattr(cli, "run", raises(OSError(number, os.strerror(number), "runs/x")))
    one_sentence(videowm("info", "x"), *words)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        OSError(errno.EIO, "input/output", "x"),
        OSError(errno.EACCES, "x"),
        FileNotFoundError(2, "", "x"),
    ],
)
def test_faults_of_ours_keep_their_traceback(monkeypatch, error):
    """Guards a fault of the program that is taken for one of its user's."""
    monkeypatch.setattr(cli, "run", raises(error))
    with pytest.raises(type(error)):
        cli.main(["info", "x"])


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("record", "files that are missing"),
        ("encode", "shards that are missing"),
        ("evaluate", "nothing was kept"),
        ("train", "last checkpoint"),
    ],
)
def test_ctrl_c(videowm, monkeypatch, verb, said):
    """Guards a promise that a verb does not keep: only `train` has checkpoints."""
    given = {"record": ["carracing", "--out", "x", "--episodes", 1], "encode": ["x", "--vae", "y", "--out", "z"]}
    monkeypatch.setattr(cli, "run", raises(KeyboardInterrupt()))
    ended = videowm(verb, *given.get(verb, ["x"]))
    assert ended.code == 130 and said in ended.errors[-1] and ("checkpoint" in ended.errors[-1]) == (verb == "train")


def raises(error: BaseException):
    """A stand-in for `cli.run` that raises `error`."""

    def run(args):
        raise error

    return run


BAD = {  # command line -> words of its one line
    "trian x": ["invalid choice: 'trian'", "train"],
    "record carracing --out x": ["required: --episodes", "videowm record --help"],
    "record carracing --out x --episodes 0": ["--episodes: 0 is out of range"],
    "record carracing --out x --episodes 1.5": ["--episodes: expected int, got '1.5'"],
    "record carracing --out x --episodes 9 --seed -1": ["--seed: -1 is out of range"],
    "record carracing --out x --episodes 9 --test-share 1": ["--test-share: 1.0 is out of range"],
    "record carracing --out x --episodes 9 --test-share nan": ["--test-share: expected float, got 'nan'"],
    "record carracing --out x --episodes 9 --workers 0": ["--workers: 0 is out of range"],
    "import x --out y --size 9999": ["size 9999x9999 cannot be stored: give --size with even numbers, 16 to 2048"],
    "caption x --retries -1": ["--retries: -1 is out of range"],
    "caption x --timeout 0": ["--timeout: 0.0 is out of range"],
    "caption x --answer yaml": ["--answer: 'yaml' is not a choice"],
    "encode x --vae y --out z --batch 0": ["--batch: 0 is out of range"],
    "encode x --vae y --out z --dtype fp8": ["--dtype: 'fp8' is not a choice"],
    "encode x --vae y --out z --play -1": ["--play: -1 is out of range"],
    "latents x --data y --clips 0": ["--clips: 0 is out of range"],
    "latents x --data y --out z.jpg": ["z.jpg", ".png"],
    "generate x --from y --seed 18446744073709551616": ["--seed: 1.84e+19 is out of range"],
    "generate x --from y --episode 10000000000": ["--episode: 10000000000 is out of range"],
    "generate x --from y --context 0": ["--context: 0 is out of range"],
    "generate x --from y --guidance inf": ["--guidance", "inf"],
    "generate x --from y --sampler steps=0": ["--sampler: steps: 0 is out of range"],
    "evaluate x --clips 0": ["--clips: 0 is out of range"],
    "evaluate x --clips -1": ["--clips: -1 is out of range"],
    "evaluate x --batch 0": ["--batch: 0 is out of range"],
    "evaluate x --horizon 0": ["--horizon: 0 is out of range"],
    "evaluate x --counterfactuals -1": ["--counterfactuals: -1 is out of range"],
    "info x --verfy": ["unrecognized arguments: --verfy"],
    "config show worlds/x": ["no configuration is named 'worlds/x'", "world/quickstart"],
    "config": ["required: list|show|copy|keys"],
    "config keys wolrd": ["task is 'wolrd'", "world"],
    "quickstart --workers 0": ["--workers: 0 is out of range"],
}


@pytest.mark.parametrize("line", BAD)
def test_command_lines_that_are_wrong(videowm, line, tmp_path, monkeypatch):
    """Guards tracebacks and pages of usage: exit code 2 and one line that names the flag, before anything is made."""
    monkeypatch.chdir(tmp_path)
    one_sentence(videowm(*line.split()), *BAD[line])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["record", "encode", "train", "generate", "latents", "info"])
@pytest.mark.parametrize("kind", ["below a file", "circle", "too long"])
def test_paths_that_cannot_be(videowm, dataset, vae_run, world_run, latents, world_arguments, tmp_path, verb, kind):
    """Guards tracebacks of the file system: a folder below a file, a circle of links, a name over 255 bytes."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "circle").symlink_to("circle")
    path = tmp_path / {"below a file": "file/x", "circle": "circle/x", "too long": "x" * 300}[kind]
    given = {
        "record": ["carracing", "--episodes", 1, "--frames", 9, "--out", path],
        "encode": [dataset, "--vae", vae_run, "--frames", 33, "--out", path],
        "train": [ROOT / "configs/world/quickstart.yaml", *world_arguments, f"out={path}"],
        "generate": [world_run, "--from", dataset, "--context", 5, "--actions", "left", "--out", f"{path}.mp4"],
        "latents": [vae_run, "--data", dataset, "--clips", 2, "--directions", 1, "--out", f"{path}.png"],
        "info": [path],
    }
    one_sentence(videowm(verb, *given[verb]))


def test_a_folder_where_a_file_is_to_be(videowm, tmp_path):
    """Guards minutes of work whose picture or video then cannot be written: refused before anything is read."""
    (tmp_path / "x.mp4").mkdir()
    (tmp_path / "x.png").mkdir()
    one_sentence(videowm("generate", "none", "--from", "none", "--out", tmp_path / "x.mp4"), "x.mp4 is a folder")
    one_sentence(videowm("latents", "none", "--data", "none", "--out", tmp_path / "x.png"), "x.png is a folder")


def test_nobody_reads(environment, dataset):
    """Guards a traceback, or Python's complaint at its end, where a pager or `head` is closed early."""
    info = f'{sys.executable} -c \'import time, videowm.cli as c; time.sleep(1); c.main(["info", "{dataset}"])\''
    command = f"{info} | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 141 and ended.stderr == ""


def test_processes_that_cannot_be(videowm, dataset, vae_run, tmp_path, monkeypatch):
    """Guards a traceback where a launcher's variables hold no numbers."""
    for name, value in (("WORLD_SIZE", "abc"), ("RANK", "-1"), ("RANK", "1")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            one_sentence(videowm("encode", dataset, "--vae", vae_run, "--out", tmp_path / "x"), name)
            one_sentence(videowm("train", "configs/vae/quickstart.yaml", f"out={tmp_path / 'y'}"), name)


def test_names_that_steer_a_terminal(videowm, tmp_path):
    """Guards escape sequences in the name of a path, which a terminal would obey."""
    one_sentence(videowm("info", tmp_path / "\x1b[31mred"), "\\x1b[31mred")


@pytest.mark.parametrize("actions", [None, "left*6 gas*7", "table.csv"])
def test_generate(videowm, world_run, dataset, tmp_path, monkeypatch, actions):
    """Guards the verb as a user calls it: a video of context and future, one frame for every action.

    The written file is read back and counted; with the episode's own actions truth and difference stand beside it.
    """
    import av

    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_text("steer,gas,brake\n" + "0.1,0.2,0\n" * 13)
    given = ["--frames", 13] if actions is None else ["--actions", actions]
    ended = videowm("generate", world_run, "--from", dataset, "--context", 6, "--sampling-steps", 1, *given,
                    "--sampler", "method=heun", "context_level=0.2")  # fmt: skip
    assert ended.code == 0 and "5 context frames, 13 predicted" in ended.out
    with av.open("clip.mp4") as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 5 + 13
    assert frames[0].shape[1] > 2 * frames[0].shape[0] if actions is None else frames[0].shape[1] < 300


def test_evaluate_measures_the_record_again(videowm, world_run, vae_run, tmp_path):
    """Guards a second measurement that differs from the first: both tasks, every value of record.json."""
    for source in (world_run, vae_run):
        run = shutil.copytree(source, tmp_path / source.name)
        assert videowm("evaluate", run, "--counterfactuals", 0).code == 0
        measured = json.loads((run / "evaluation.json").read_text())
        recorded = json.loads((run / "record.json").read_text())["metrics"]
        assert measured == measured | recorded and len(recorded) >= 4


def test_info(videowm, world_run, vae_run, dataset, latents):
    """Guards a description of something else: what each kind of directory holds is named."""
    assert "4 train, 2 test" in videowm("info", dataset).out
    assert "every file is as recorded" in videowm("info", dataset, "--verify").out
    assert "8 train, 4 test, 33 frames each" in videowm("info", latents, "--verify").out
    assert "task: world" in videowm("info", world_run).out and "heldout/loss" in videowm("info", world_run).out
    assert "task: vae" in videowm("info", vae_run).out


def test_record_and_encode(videowm, tmp_path, vae_run):
    """Guards the first two commands of the guide, as they are typed."""
    data, out = tmp_path / "data", tmp_path / "latents"
    given = ["--episodes", 2, "--frames", 13, "--test-share", 0.5, "--seed", 1]
    assert videowm("record", "carracing", "--out", data, *given).code == 0
    assert videowm("encode", data, "--vae", vae_run, "--out", out, "--frames", 13, "--dtype", "fp32").code == 0
    index = json.loads((out / "latents.json").read_text())
    assert index["clips"] == {"train": 1, "test": 1} and index["dtype"] == "fp32" and index["steps"] == 4
    one_sentence(videowm("record", "carracin", "--out", tmp_path / "x", "--episodes", 1), "did you mean 'carracing'")


def test_a_machine_without_fcntl(python):
    """Guards Windows, where no file is locked: the commands start, and a sweep says what it lacks."""
    hidden = "import os, sys; sys.modules['fcntl'] = None; del os.killpg; sys.argv[:1] = []; "
    for module in ("videowm.cli", "scaling.__main__"):
        done = python(
            "-c", f"{hidden}import scaling.slurm, videowm; from {module} import main; main()", module, "--help"
        )
        assert done.returncode == 0 and "usage" in done.stdout, done.stderr
    done = python("-c", hidden + "from scaling.local import Launcher; Launcher([], 0, [])")
    assert "UserError: a sweep ends each of its runs as a group of processes" in done.stderr
