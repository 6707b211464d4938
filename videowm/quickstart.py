"""The whole loop on a laptop's CPU: record, train the VAE, encode, sweep, report."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from videowm import shipped
from videowm.types import UserError

EPISODES, TEST_SHARE, SEED = 130, 0.2, 0  # 26 episodes held out: fewer leave wide error bars
SIDE_BY_SIDE = 2  # world models that share the cores: a step so small gains little by a second one


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
        ended = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=False)
        if ended.returncode:
            raise UserError(f"the quickstart stopped while it was to {name}: mend the fault above, run it again")
    print(f"\ndone in {(time.perf_counter() - began) / 60:.1f} minutes: open {out / 'report.html'}")
    return out / "report.html"
