"""The whole loop on a laptop's CPU: record, train the VAE, encode, sweep, report."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

from videowm import shipped
from videowm.types import UserError

EPISODES, TEST_SHARE, SEED = 130, 0.2, 0  # 26 episodes held out: fewer leave wide error bars
SIDE_BY_SIDE = 2  # world models that share the cores: a step so small gains little by a second one
IMPORTED = ("videowm.train.loop", "videowm.train.tasks.vae", "videowm.train.tasks.world")  # seconds, for every process
SIGNALLED = 128  # exit codes above it tell of a signal


def main(out: Path, *, workers: int) -> Path:
    """Run the five stages and return the report's path. Each stage resumes, so the same call goes on after a stop.

    Raises:
        UserError: a stage stopped with an error.
    """
    began = time.perf_counter()
    configs = shipped.folder()
    data, vae, latents = out / "data", out / "vae", out / "latents"
    sweep = [str(configs / "sweep/quickstart.yaml"), f"out={out}", f"base={configs / 'world/quickstart.yaml'}",
             f"set={{latents: {latents}}}"]  # fmt: skip
    stages = {
        "record": ["videowm", "record", "carracing", "--out", data, "--episodes", EPISODES, "--seed", SEED,
                   "--test-share", TEST_SHARE, "--workers", workers],
        "train the VAE": ["videowm", "train", configs / "vae/quickstart.yaml", f"data={data}", f"out={vae}"],
        "encode": ["videowm", "encode", data, "--vae", vae, "--out", latents],
        "train the world models": ["scaling", "run", *sweep, "--jobs", SIDE_BY_SIDE],
        "report": ["scaling", "report", *sweep],
    }  # fmt: skip
    for number, (name, (module, *arguments)) in enumerate(stages.items(), 1):
        print(f"\n[{number}/{len(stages)}] {name}   ({time.perf_counter() - began:.0f} s so far)", flush=True)
        carry_out = in_another_process if name == "record" else in_this_process
        code = carry_out(module, [str(argument) for argument in arguments])
        if code > SIGNALLED:  # which the stage has told
            sys.exit(code)
        if code:
            raise UserError(f"the quickstart stopped while it was to {name}: mend the fault above, run it again")
    print(f"\ndone in {(time.perf_counter() - began) / 60:.1f} minutes: open {out / 'report.html'}")
    return out / "report.html"


def in_another_process(module: str, arguments: list[str]) -> int:
    """Exit code of a command beside this process, which meanwhile imports what the later ones need."""
    with subprocess.Popen([sys.executable, "-m", module, *arguments]) as process:
        for name in IMPORTED:
            import_module(name)
    return process.returncode


def in_this_process(module: str, arguments: list[str]) -> int:
    """Exit code of a command that finds everything imported."""
    try:
        import_module(f"{module}.__main__").main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
