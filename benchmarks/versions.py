"""Two versions of this repository side by side: the training step and the rollout of the same networks, in turns.

Each round runs `train_step.py` and `rollout.py` of the one tree, then those of the other, so that a machine that slows
down slows both. The figure is the ratio after / before of the best time over the rounds; 1.00 means no change.

    git worktree add /tmp/before b1db229
    python benchmarks/versions.py /tmp/before . --out benchmarks/versions.json          # a GPU, five minutes
    python benchmarks/versions.py /tmp/before . --size tiny --tokens 16 --seconds 1     # on a CPU
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

KEYS = ("size", "tokens", "streams", "steps", "mode")


def measured(tree: Path, script: str, options: list[str]) -> dict[str, dict]:
    """Rows of one script of a tree by their name; the script imports that tree's own package."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, str(tree / "benchmarks" / script), "--models", "ours", "--out", str(out), *options]
        path = os.pathsep.join(filter(None, (str(tree), os.environ.get("PYTHONPATH"))))
        subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=True)
        content = json.loads(out.read_text())
    rows = content["rows"] if isinstance(content, dict) else content
    return {f"{script} " + " ".join(str(row[key]) for key in KEYS if key in row): row for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--size", nargs="+", default=["S", "B"])
    parser.add_argument("--tokens", nargs="+", default=["64"])
    parser.add_argument("--seconds", default="4")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    options = ["--size", *args.size, "--tokens", *args.tokens, "--seconds", args.seconds]
    trees = {"before": args.before.resolve(), "after": args.after.resolve()}
    times: dict[str, dict[str, list[float]]] = {}
    for _ in range(args.rounds):
        for version, tree in trees.items():
            for script in ("train_step.py", "rollout.py"):
                for name, row in measured(tree, script, options).items():
                    times.setdefault(name, {}).setdefault(version, []).append(row["ms"])
    found = {name: {version: min(values) for version, values in both.items()} for name, both in times.items()}
    result = {name: both | {"ratio": both["after"] / both["before"]} for name, both in found.items()}
    for name, row in result.items():
        print(f"{name:50s} before {row['before']:8.3f} ms   after {row['after']:8.3f} ms   ratio {row['ratio']:.4f}")
    if args.out:
        import torch

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        content = {"command": "python benchmarks/versions.py BEFORE AFTER", "device": device, "rounds": args.rounds,
                   "ms": result}  # fmt: skip
        args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
