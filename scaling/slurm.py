"""Run what is missing through SLURM: job arrays, one point a task, requeued before the time limit hits."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from scaling import dispatch
from scaling.point import Point, SweepConfig
from videowm import config as configuration
from videowm.files import write_atomic
from videowm.lock import locked
from videowm.types import UserError

# USR1 comes before the time limit: the processes end, the task goes back into the queue and later on from its last
# checkpoint. TERM (scancel, preemption, a node that goes down) is passed on; whether to requeue is then SLURM's choice.
SCRIPT = """#!/bin/bash
mapfile -t points < "$1"
pid= again= code=0
trap '[ -n "$pid" ] && kill -TERM $pid' TERM
trap 'again=1; [ -n "$pid" ] && kill -TERM $pid' USR1
{command} --only "${{points[$SLURM_ARRAY_TASK_ID]}}" &
pid=$!
while kill -0 $pid 2> /dev/null; do wait $pid; code=$?; done
if [ -n "$again" ] && [ $code -ne 0 ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"  # SLURM_JOB_ID of one task is the whole array's
fi
exit $code
"""
OURS = ("array", "dependency", "comment", "parsable", "wrap")  # options that the launcher itself gives to sbatch


def ask(command: list[str]) -> str:
    """The output of a SLURM command.

    Raises:
        UserError: the command is not installed, or it refused.
    """
    if shutil.which(command[0]) is None:
        raise UserError(f"{command[0]} is not installed here: log in where SLURM is, or leave out --slurm")
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        line = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        raise UserError(f"{command[0]} refused ({line}): check the sweep's `slurm` options and the cluster")
    return ended.stdout


def options(given: dict) -> list[str]:
    """The sweep's `slurm` mapping as sbatch takes it: `partition: x` is --partition=x, `requeue: true` --requeue.

    Raises:
        UserError: a key is one that the launcher sets, or its value cannot be an sbatch option.
    """
    found = []
    for key, value in given.items():
        name = str(key).replace("_", "-")
        if name in OURS:
            raise UserError(f"slurm.{key} is set by the launcher itself: leave it out")
        if name == "time" and not isinstance(value, str):
            raise UserError(f"slurm.time {value!r} is a number to YAML: put it in quotes, as in '1:30:00'")
        if value is True:
            found.append(f"--{name}")
        elif isinstance(value, (str, int, float)) and value is not False:
            found.append(f"--{name}={value}")
        elif value is not None and value is not False:
            raise UserError(f"slurm.{key} {value!r} cannot be used: give a text, a number or true")
    return found


def queue(sweep: SweepConfig) -> dict[str, tuple[str, str]]:
    """The points that SLURM holds: name -> (task JOB_INDEX, state). A task's comment names the list that it indexes."""
    folder = (Path(sweep.out) / "plan").resolve()
    found = {}
    for line in ask(["squeue", "--me", "--array", "--noheader", "--format=%F|%K|%T|%k"]).splitlines():
        job, index, state, comment = line.split("|", 3)
        if Path(comment).parent == folder and Path(comment).exists():
            found[Path(comment).read_text().splitlines()[int(index)]] = (f"{job}_{index}", state)
    return found


def states(points: list[Point], sweep: SweepConfig) -> dict[str, str]:
    """The state of every point, what waits in SLURM's queue included."""
    held = {}
    if (Path(sweep.out) / "plan/slurm.sh").exists():
        try:
            held = queue(sweep)
        except UserError as error:
            print(f"scaling: {error}; what follows is without its queue", file=sys.stderr)
    found = {}
    for point in points:
        state = dispatch.state(point)
        if state == "stopped":
            state = f"stopped by its {dispatch.stopped(point)}"
        elif state != "done" and point.name in held:
            task, there = held[point.name]
            state = f"{'queued' if there == 'PENDING' else 'running'} (SLURM {task})"
        found[point.name] = state
    return found


def groups(points: list[Point], tasks: dict[str, str], waiting: set[str]) -> Iterable[tuple[str | None, list[Point]]]:
    """Points that may begin together, with the name of the point that they wait for; `tasks` grows meanwhile.

    Those stay out whose trunk is neither done nor in SLURM's hands.
    """
    left = list(points)
    while left:
        first = next((p for p in left if p.after not in waiting or p.after in tasks), None)
        if first is None:
            return
        after = first.after if first.after in waiting else None
        group = [p for p in left if (p.after if p.after in waiting else None) == after]
        left = [p for p in left if p not in group]
        yield after, group


def longest_array() -> int:
    """Tasks that an array may have on this cluster: its MaxArraySize, which is 1001 unless the site sets another."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask(["scontrol", "show", "config"]), re.MULTILINE)
    return max(1, int(found[1])) if found else 1001


def submit(points: list[Point], sweep: SweepConfig, jobs: int | None = None) -> str:
    """Submit every point that is neither done nor queued nor trained already; a sentence on what was submitted.

    The tasks read a copy of the sweep in its plan. Of one array at most `jobs` tasks run at once.

    Raises:
        UserError: SLURM is not here, or refuses an option.
    """
    folder, given = Path(sweep.out) / "plan", [f"--job-name={Path(sweep.out).name}", *options(sweep.slurm)]
    with (folder / ".slurm.lock").open("w") as lock:
        while not locked(lock, exclusive=True):
            time.sleep(0.1)
        held = queue(sweep)  # before the records are read: what ends in between is then done, not missing
        now = {point.name: dispatch.state(point) for point in points}
        missing = [p for p in points if p.name not in held and now[p.name] in ("todo", "failed", "diverged")]
        tasks = {name: task for name, (task, _) in held.items()}
        waiting = {name for name, state in now.items() if state not in dispatch.ENDED}
        write_script(folder, sweep)
        sent, most = 0, longest_array()
        for after, group in groups(missing, tasks, waiting):
            wait = [] if after is None else [f"--dependency=afterok:{tasks[after]}", "--kill-on-invalid-dep=yes"]
            for first in range(0, len(group), most):
                part = group[first : first + most]
                tasks |= send(part, folder, [*wait, *given], jobs)
                sent += len(part)
    return submitted(list(now.values()), len(waiting), sent)


def submitted(states: list[str], waiting: int, sent: int) -> str:
    """What a submission did, of points in these states, of which `waiting` had not ended."""
    stopped = states.count("stopped")
    gated = f", {stopped} stopped by the action gate" if stopped else ""
    done = f"{len(states) - waiting - stopped} done{gated}"
    other = waiting - sent
    return f"{sent} of {len(states)} points submitted; {done}, {other} queued, running or waiting for such"


def write_script(folder: Path, sweep: SweepConfig) -> None:
    """Write what a task runs: `scaling run --only` on a copy of the sweep, all of its settings resolved."""
    copy = folder / ".sweep.yaml"  # no point can have this name
    write_atomic(copy, configuration.dump(sweep).encode())
    command = [sys.executable, "-m", "scaling", "run", str(copy), "--jobs", "1"]
    write_atomic(folder / "slurm.sh", SCRIPT.format(command=shlex.join(command)).encode())


def send(group: list[Point], folder: Path, given: list[str], jobs: int | None) -> dict[str, str]:
    """Submit one array; name -> task. The list of its points is there before the job is, so no kill can part them."""
    names = folder.resolve() / f"slurm-{time.time_ns()}.txt"
    log = f"{str(folder).replace('%', '%%')}/slurm-%A_%a.log"  # sbatch replaces %A by the job, %% by %
    write_atomic(names, "".join(f"{point.name}\n" for point in group).encode())
    array = f"--array=0-{len(group) - 1}" + (f"%{jobs}" if jobs else "")
    ours = [array, f"--comment={names}", f"--output={log}", "--open-mode=append", "--requeue", "--signal=B:USR1@120"]
    job = ask(["sbatch", "--parsable", *ours, *given, str(folder / "slurm.sh"), str(names)]).strip().split(";")[0]
    return {point.name: f"{job}_{index}" for index, point in enumerate(group)}
