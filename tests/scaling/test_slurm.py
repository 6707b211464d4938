"""A sweep on a real SLURM cluster of one node: submitted, requeued at its time limit's signal, ended once."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from forked import free_port

from scaling import slurm
from scaling.__main__ import parser, run
from scaling.plan import plan
from scaling.point import load_sweep, planned
from videowm.data.recording import record_episodes
from videowm.types import UserError

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "tests/scaling/slurm.sh"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, environment):
    """A cluster for this file, and the environment that its jobs inherit."""
    if missing := [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(name) is None]:
        pytest.skip(f"{missing[0]} is not installed (apt-get install slurm-wlm munge): SLURM is not tested")
    if os.geteuid() != 0:
        pytest.skip("a SLURM cluster is started by root only: SLURM is not tested")
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(ROOT)
        subprocess.run([CLUSTER, "up", folder, str(free_port()), str(free_port())], check=True)
        try:
            yield folder
        finally:
            subprocess.run([CLUSTER, "down", folder], check=True)


@pytest.fixture
def sweep_file(world_arguments, tmp_path) -> Path:
    """A trunk of 400 steps and a branch off its end."""
    common = {key: yaml.safe_load(value) for key, value in (a.split("=", 1) for a in world_arguments)}
    trunk = {"train.steps": 400, "train.keep_at": [400], "train.trunk": True, "train.cooldown": 0}
    start = {"run": str(tmp_path / "out/trunk"), "step": 400}
    sweep = {
        "base": str(ROOT / "configs/world/quickstart.yaml"),
        "out": str(tmp_path / "out"),
        "set": common | {"train.save_every": 10, "train.warmup": 5},
        "points": [
            {"name": "trunk", **trunk},
            {"name": "branch", "train.steps": 500, "train.start": start},
        ],
        "slurm": {"partition": "main", "gres": "gpu:1", "time": "0:30:00"},
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


def wait_for(condition, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


def sockets(cluster: Path, job: str) -> list[Path]:
    """Where the processes of a job listen while they live."""
    return list((cluster / "spool").glob(f"*_{job}.*"))


def hurried(job: str) -> None:
    """A requeued job need not wait its two minutes; said again, since the requeue sets them after it is seen."""
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False, stderr=subprocess.DEVNULL)


def test_submitted_once_requeued_and_ended_once(cluster, sweep_file, capsys):
    """Guards a point submitted twice, a branch before its trunk, a signal that ends a run for good or doubles steps."""
    sweep = load_sweep(sweep_file)
    run(parser().parse_args(["run", str(sweep_file), "--slurm"]))
    assert capsys.readouterr().out.startswith("2 of 2 points submitted; 0 done")
    points = planned(sweep)
    assert slurm.submit(points, sweep).startswith("0 of 2 points submitted; 0 done, 2 queued")
    trunk, out = slurm.queue(sweep)["trunk"][0], Path(sweep.out)
    wait_for(lambda: slurm.queue(sweep)["trunk"][1] == "RUNNING")
    job = subprocess.check_output(["squeue", "--noheader", f"--jobs={trunk}", "--format=%A"]).decode().strip()
    assert slurm.states(points, sweep)["branch"].startswith("queued (SLURM ")
    wait_for(lambda: any((out / "trunk/checkpoints").glob("step-*")))
    seen = sockets(cluster, job)  # of the whole life so far: at RUNNING, SLURM has yet to start a process
    subprocess.run(["scancel", "--signal=USR1", "--batch", trunk], check=True)
    wait_for(lambda: slurm.queue(sweep)["trunk"][1] == "PENDING")
    # Started again before its last process has ended, the job would meet itself.
    assert seen, "the job's process was not found where it is to be gone from"
    wait_for(lambda: not sockets(cluster, job))
    time.sleep(2)  # its credential was revoked to the second, and one of the same second would be refused
    assert not (out / "trunk/record.json").exists(), "too short to be stopped"
    wait_for(lambda: hurried(trunk) or slurm.queue(sweep).get("trunk", (trunk, "ended"))[1] != "PENDING")
    wait_for(lambda: set(slurm.states(points, sweep).values()) == {"done"})
    for name, steps in {"trunk": range(1, 401), "branch": range(401, 501)}.items():
        lines = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "loss" in line] == list(steps), name
    assert slurm.submit(points, sweep).startswith("0 of 2 points submitted; 2 done, 0 queued")


def batch_scripts(job: str) -> dict[str, int]:
    """The processes that run the batch scripts of an array: its tasks' indices -> process ids."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, KeyError):
            if b"slurm_script" in (folder / "cmdline").read_bytes():
                about = dict(x.split("=", 1) for x in (folder / "environ").read_text().split("\0") if "=" in x)
                if about["SLURM_ARRAY_JOB_ID"] == job:
                    found[about["SLURM_ARRAY_TASK_ID"]] = int(folder.name)
    return found


def test_one_task_alone_is_requeued(cluster, tmp_path):
    """Guards a whole array that is requeued, all its steps lost, by the task whose id is the array's own; and logs
    that are lost where the sweep's folder has a % in its name, of which sbatch makes something else."""
    folder = tmp_path / "100%A" / "plan"
    folder.mkdir(parents=True)
    (folder / "slurm.sh").write_text(slurm.SCRIPT.format(command="bash -c 'echo \"$2\"; exec sleep 300' --"))
    names = ("p0", "p1", "p2")
    tasks = slurm.send([SimpleNamespace(name=name) for name in names], folder, [], None)
    job = tasks["p0"].partition("_")[0]
    try:
        wait_for(lambda: len(batch_scripts(job)) == 3)
        ids = [f"{job}_{index}" for index in range(3)]
        shown = {task: subprocess.check_output(["scontrol", "show", "job", task], text=True) for task in ids}
        (own,) = [task for task in ids if shown[task].startswith(f"JobId={job} ")]
        wait_for(lambda: (folder / f"slurm-{own}.log").exists() and (folder / f"slurm-{own}.log").read_text())
        os.kill(batch_scripts(job)[own.partition("_")[2]], signal.SIGUSR1)
        wait_for(lambda: restarts(own) == 1)
        time.sleep(1)
        assert [restarts(task) for task in ids] == [int(task == own) for task in ids]
        assert (folder / f"slurm-{own}.log").read_text().startswith(names[int(own[-1])])
    finally:
        subprocess.run(["scancel", job], check=True)


def restarts(task: str) -> int:
    """How often a task was requeued."""
    shown = subprocess.check_output(["scontrol", "show", "job", task], text=True)
    return int(re.search(r"Restarts=(\d+)", shown)[1])


def test_an_array_records_one_dataset(cluster, tiny_package, tmp_path, monkeypatch):
    """Guards tasks of an array that record the same groups, none, or an unfinished dataset: the bytes of one host."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tiny_package}")
    alone, out = tmp_path / "alone", tmp_path / "array"
    record_episodes("tiny", alone, episodes=22, frames=9)
    command = f"{sys.executable} -m videowm record tiny --out {out} --episodes 22 --frames 9"
    subprocess.run(["sbatch", "--wait", "--array=1-2", f"--output={tmp_path}/%a.log", f"--wrap={command}"], check=True)
    logs = [(tmp_path / f"{task}.log").read_text() for task in (1, 2)]
    assert "part 1 of 2" in logs[0] and "part 2 of 2" in logs[1], logs
    files = [{p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
             for root in (alone, out)]  # fmt: skip
    assert files[0] == files[1] and len(files[0]) > 10


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"time": 5400}, "slurm.time 5400 is a number to YAML"),
        ({"array": "0-3"}, "slurm.array is set by the launcher itself"),
        ({"gres": ["gpu:1"]}, "slurm.gres ['gpu:1'] cannot be used"),
    ],
)
def test_wrong_options_are_one_sentence(given, sentence):
    """Guards 90 minutes that YAML reads as 5,400, of which sbatch makes 90 hours; and an array of other tasks."""
    with pytest.raises(UserError) as refused:
        slurm.options(given)
    assert str(refused.value).startswith(sentence)


def test_options_as_sbatch_takes_them():
    """Guards names that sbatch does not know."""
    given = {"partition": "a", "gpus_per_task": 1, "exclusive": True, "nice": None, "time": "1:30:00"}
    assert slurm.options(given) == ["--partition=a", "--gpus-per-task=1", "--exclusive", "--time=1:30:00"]


def test_more_points_than_an_array_may_have(cluster, sweep_file, tmp_path):
    """Guards a sweep above SLURM's MaxArraySize (1001 by default, 4 here), which sbatch refuses, and points lost."""
    sweep = load_sweep(sweep_file, [f"out={tmp_path / 'many'}", "slurm={hold: true}"])
    alone = plan(sweep)[0]
    points = [replace(alone, name=f"p{i}", run=alone.run.with_name(f"p{i}")) for i in range(6)]
    try:
        assert slurm.submit(points, sweep).startswith("6 of 6 points submitted")
        tasks = [slurm.queue(sweep)[point.name][0].split("_") for point in points]
        assert [index for _, index in tasks] == ["0", "1", "2", "3", "0", "1"] and len({job for job, _ in tasks}) == 2
        assert slurm.submit(points, sweep).startswith("0 of 6 points submitted")
    finally:
        subprocess.run(["scancel", "--name=many"], check=True)


def test_what_slurm_refuses_is_one_sentence(cluster, sweep_file):
    """Guards a traceback, or silence, where sbatch says no."""
    sweep = load_sweep(sweep_file, ["slurm={partition: nowhere}"])
    with pytest.raises(UserError, match=r"sbatch refused \(.*partition"):
        slurm.submit(plan(sweep), sweep)
