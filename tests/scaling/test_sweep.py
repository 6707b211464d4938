"""A sweep end to end: planned, launched, killed, resumed, fitted, reported. Real processes only."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import prepare_simple_launcher_cmd_env
from wandb_offline import load

from scaling import dispatch, records, summary
from scaling.__main__ import main
from scaling.local import share_gpus
from scaling.plan import Speeds, plan, resolve, table
from scaling.point import load_sweep
from videowm.launch import chosen
from videowm.types import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def sweep_file(world_arguments, tmp_path_factory) -> Path:
    """Two points of a tiny world model, 60 and 90 steps, a checkpoint every 10."""
    folder = tmp_path_factory.mktemp("sweep")
    common = dict(argument.split("=", 1) for argument in world_arguments)
    common = {key: yaml.safe_load(value) for key, value in common.items()} | {"train.save_every": 10}
    path = folder / "sweep.yaml"
    sweep = {
        "base": str(ROOT / "configs/world/quickstart.yaml"),
        "out": str(folder / "out"),
        "set": common,
        "points": [{"name": "1x", "train.steps": 60}, {"train.steps": 90, "depth": 2, "hidden": 32}],
        "strip_clips": 2,
        "strip_frames": 8,
    }
    path.write_text(yaml.safe_dump(sweep))
    return path


def test_one_setting_of_all_points(sweep_file):
    """Guards `set.train.x=y` that drops all other settings of `train`, of the sweep's file and of its base."""
    sweep = load_sweep(sweep_file, ["set.train.clip=2", "set.train.save_every=7"])
    train = resolve(sweep, sweep.points[0])[0]["train"]
    base = resolve(load_sweep(sweep_file), sweep.points[0])[0]["train"]
    assert base["save_every"] == 10 and train == base | {"clip": 2, "save_every": 7}
    arms = load_sweep(sweep_file, ["points=[]", "grid={budgets: [1e9], sizes: [1]}", "grid.arms.muon.train.lr=1e-3"])
    assert arms.grid.arms == {"muon": {"train.lr": 1e-3}}
    with pytest.raises(UserError, match="points is a list"):
        load_sweep(sweep_file, ["points.0.train.steps=5"])


def members(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
            found += [int(stat.parent.name)] if int(sid) == session and state != "Z" else []
    return found


def wait_for(condition, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def finished_sweep(sweep_file, fork) -> Path:
    """The sweep, two points at once on two pretended GPUs: stopped in its midst, its launcher killed beside a second
    launcher, which ends it.
    """
    out, two_gpus = Path(load_sweep(sweep_file).out), {"CUDA_VISIBLE_DEVICES": "5,7"}

    def launch():
        return fork("run", sweep_file, "--jobs", 2, module="scaling", session=True, **two_gpus)

    process = launch()
    wait_for(lambda: len(members(process.pid)) == 3)  # and a worker for each point
    gpus = {
        Path(f"/proc/{pid}/environ").read_bytes().split(b"CUDA_VISIBLE_DEVICES=")[1][:1]
        for pid in members(process.pid)
        if pid != process.pid
    }
    assert gpus == {b"5", b"7"}, "a GPU of its own for each point"
    wait_for((out / "1x/checkpoints/step-00000020").exists)
    process.terminate()
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "the same command goes on" in said, said
    assert members(process.pid) == [], "a stopped launcher leaves nothing behind"
    first, second = launch(), launch()
    wait_for(lambda: len(members(first.pid)) + len(members(second.pid)) == 4)
    first.kill()  # its worker may live on: the other has to wait for it, not to start a second one
    first.wait()
    assert second.wait(200) == 0, second.communicate()
    return out


@pytest.fixture
def scaling(capfd):
    """Call `python -m scaling` within this process: exit code, what it printed, its error lines."""

    def call(*arguments) -> SimpleNamespace:
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=exit.value.code, stdout=out, stderr=err)

    return call


def test_every_point_ends_once(finished_sweep, sweep_file):
    """A point that is trained twice, or lost, after kills: each has one record and each logged step exactly once."""
    points = plan(load_sweep(sweep_file))
    assert [dispatch.state(point) for point in points] == ["done", "done"]
    assert [point.name for point in points] == ["1x", "depth2_hidden32_steps90"]
    for point, steps in zip(points, (60, 90), strict=True):
        assert records.read_record(point.run).steps == steps
        lines = [json.loads(line) for line in (point.run / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "loss" in line] == list(range(1, steps + 1))


def test_accelerate_trains_the_same(finished_sweep, sweep_file, tmp_path, same, fork, monkeypatch):
    """Guards a launcher that changes what is computed: a point equals, bit for bit, its run in the process that
    accelerate would start under the user's own configuration."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate/default_config.yaml").write_text("{distributed_type: 'NO', mixed_precision: 'no'}")
    point = plan(load_sweep(sweep_file))[0]
    command = dispatch.launch_command(point.config)
    assert command[1:3] == ["-m", "videowm.launch"]
    args, *_ = _validate_launch_command(chosen(launch_command_parser(), command[3:]))
    command, variables = prepare_simple_launcher_cmd_env(args)
    assert command[1:] == ["-m", "videowm", "train", str(point.config)] and "ACCELERATE_MIXED_PRECISION" in variables
    ended = fork("train", point.config, f"out={tmp_path / 'here'}", **variables)
    assert ended.wait(60) == 0, ended.communicate()
    same(point.run, tmp_path / "here")


def test_short_points_are_spoken_of(sweep_file):
    """Guards the quickstart, whose points are too short for a law: planned all the same, and the table says so."""
    points = plan(load_sweep(sweep_file))
    said = table(points, Speeds([], None)).splitlines()[-1]
    assert said == "fewer than 1,000 steps, too few for a law: 1x, depth2_hidden32_steps90"


def test_a_finished_sweep_costs_nothing(finished_sweep, sweep_file, scaling):
    """A second call that trains again would touch the records."""
    before = {path: path.stat().st_mtime_ns for path in finished_sweep.glob("*/record.json")}
    ended = scaling("run", sweep_file)
    assert ended.returncode == 0 and "all 2 points" in ended.stdout and "started" not in ended.stdout
    assert before == {path: path.stat().st_mtime_ns for path in finished_sweep.glob("*/record.json")}


def test_a_changed_sweep_is_not_done(finished_sweep, sweep_file, tmp_path):
    """Guards old results under a new configuration: what has a record counts as done."""
    written = {path: path.read_bytes() for path in finished_sweep.glob("plan/*.yaml")}
    with pytest.raises(UserError, match="1x holds another run: train.lr is .* there and 0.5 here"):
        plan(load_sweep(sweep_file, ["set.train.lr=0.5"]))
    with pytest.raises(UserError, match="holds another run: heldout.clips is"):
        plan(load_sweep(sweep_file, ["set.heldout.clips=3"]))
    assert written == {path: path.read_bytes() for path in written}
    latents = Path(load_sweep(sweep_file).set["latents"])
    (tmp_path / "moved").symlink_to(latents)
    assert plan(load_sweep(sweep_file, [f"set.latents={tmp_path / 'moved'}", "set.train.save_every=7"]))
    plan(load_sweep(sweep_file))
    (tmp_path / "out/1x").mkdir(parents=True)  # where only records were brought
    (tmp_path / "out/1x/record.json").write_bytes((finished_sweep / "1x/record.json").read_bytes())
    assert dispatch.done(plan(load_sweep(sweep_file, [f"out={tmp_path / 'out'}"]))[0])
    with pytest.raises(UserError, match="1x holds another run: lr is .* in its record and 0.5 here"):
        plan(load_sweep(sweep_file, [f"out={tmp_path / 'out'}", "set.train.lr=0.5"]))


def test_planned_flops_are_the_recorded_ones(finished_sweep, sweep_file):
    """A plan that counts otherwise than the run does would put the law on another axis than was paid for."""
    for point in plan(load_sweep(sweep_file)):
        record = records.read_record(point.run)
        assert point.flops == record.flops["train"]
        assert point.params == record.params and point.tokens == record.tokens["processed"]


def test_the_page_and_the_wandb_summary(finished_sweep, sweep_file, fork):
    """A page with a missing part, an outside reference or another number than the records'; a summary without curve."""
    ended = fork("report", sweep_file, module="scaling", WANDB_MODE="offline")
    said = ended.communicate(240)
    assert ended.returncode == 0 and said[0].splitlines() == [str(finished_sweep / "report.html")], said
    page = (finished_sweep / "report.html").read_text()
    assert page.count("data:video/mp4;base64,") == 2 and page.count("data:image/png;base64,") == 5
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "budgets cannot" in page  # why no law is fitted to two points
    found = records.finished(plan(load_sweep(sweep_file)))
    for row in summary.table_rows(found):
        assert f"<td>{row['loss']}</td>" in page
    (run,) = finished_sweep.glob("wandb/offline-run-*/run-*.wandb")
    history = load(run)["history"][-1]
    assert {"quality_vs_compute", "strip_video", "loss"} <= {key.split("/")[0] for key in history}


def test_a_law_is_refused_with_its_reason(finished_sweep, sweep_file, scaling):
    """Two points fitted by five parameters would print a law that says nothing."""
    ended = scaling("fit", sweep_file)
    assert ended.returncode == 2 and ended.stderr.startswith("scaling: 2 runs cannot fix the 5 parameters")


def test_mixed_banks_are_refused(finished_sweep, sweep_file, tmp_path):
    """Losses over different banks do not compare, and a curve through them would look fine."""
    points = plan(load_sweep(sweep_file))
    path = points[0].run / "record.json"
    kept = path.read_text()
    changed = json.loads(kept)
    changed["hashes"]["bank"] = "0" * 16
    path.write_text(json.dumps(changed))
    try:
        with pytest.raises(UserError, match="different bank hashes"):
            records.finished(points)
    finally:
        path.write_text(kept)


def test_a_point_that_fails_is_tried_again_and_reported(sweep_file, tmp_path, scaling, monkeypatch):
    """A failing point must not stop the others, nor vanish: it is retried once, then the exit code is 1.

    What branches off it waits, and does not fail in its place. What is started is not our trainer, which imports
    for long, but a program of its name that fails.
    """
    sweep = yaml.safe_load(sweep_file.read_text()) | {"out": str(tmp_path / "out")}
    branch = {"name": "branch", "train.start": {"run": str(tmp_path / "out/bad"), "step": 10}}
    sweep["points"] = [{"name": "bad", "train.steps": 20}, branch]
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep))
    (tmp_path / "videowm").mkdir()
    (tmp_path / "videowm/__main__.py").write_text("raise SystemExit('videowm: this one cannot be trained')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ended = scaling("run", path)
    assert ended.returncode == 1 and "2 of 2 points are not done" in ended.stderr
    assert ended.stderr.count("this one cannot be trained") == 2
    assert "started   branch" not in ended.stdout
    states = [dispatch.state(point) for point in plan(load_sweep(path))]
    assert states == ["failed", "todo"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"points": [{"depht": 2}]}, "unknown key 'depht', did you mean 'depth'"),
        ({"points": []}, "at least one entry"),
        ({"points": [{"name": "a"}, {"name": "a"}]}, "two points are named 'a'"),
        ({"points": [{"name": "../../escaped"}]}, "a point cannot be named '../../escaped'"),
        ({"points": [{"latents": "data/x"}]}, "a point cannot be named 'latentsdata/x'"),
        ({"points": [{"name": "plan"}]}, "a point cannot be named 'plan'"),
        ({"points": [{"name": "a", "out": "runs/b"}]}, "points[0].out is 'runs/b', but a point's run directory is OUT"),
        ({"bse": "x"}, "unknown key 'bse', did you mean 'base'"),
        ({"cap": float("nan")}, "cap: nan is not a finite number"),
        ({"speed": 0}, "speed: 0.0 is out of range"),
        ({"retries": -1}, "retries: -1 is out of range"),
        ({"strip_clips": 0}, "strip_clips: 0 is out of range"),
        ({"base": str(ROOT / "configs/vae/quickstart.yaml")}, "must be a `task: world`"),
        (
            {"points": [{"name": "a", "train.steps": 9, "train.keep_at": [5, 12]}]},
            "train.keep_at 12 lies outside its 9",
        ),
        ({"points": [{"name": "a", "budget": None, "train.minutes": 2}]}, "point a: train.minutes 2 gives no compute"),
    ],
)
def test_a_wrong_sweep_is_one_sentence(change, sentence, sweep_file, tmp_path):
    """A typo in a sweep must name itself before anything is trained."""
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(sweep_file.read_text()) | change))
    with pytest.raises(UserError, match=re.escape(sentence)):
        plan(load_sweep(path))


def test_gpus_are_shared_out():
    """Guards two points on one GPU while another idles, and a choice where the user's own is to stand."""
    assert share_gpus(["0", "1"], None, each=1) == ["0", "1"]
    assert share_gpus(["4"], 3, each=1) == ["4", "4", "4"]
    assert share_gpus(["0", "1", "2", "3"], None, each=2) == ["0,1", "2,3"]
    assert share_gpus(["0", "1", "2"], 5, each=1) == ["0", "1", "2", "0", "1"]
    assert (
        share_gpus(["0"], None, each=1) == share_gpus([], None, each=1) == share_gpus(["0", "1"], 1, each=1) == [None]
    )
    assert share_gpus([], 2, each=1) == [None, None]
