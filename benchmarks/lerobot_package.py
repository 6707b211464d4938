"""The real `lerobot` package and videowm read each other's datasets: every frame and every action is compared.

    python benchmarks/lerobot_package.py --peer PYTHON --out benchmarks/lerobot_package.json

PYTHON is the interpreter of an environment with `lerobot[dataset]`, which cannot share ours: it caps torch and av below
what we use. Without one the benchmark says so and ends.

- lerobot writes: two cameras, one folder in its default codec (AV1) and one in H.264; one has an episode deleted by
  lerobot's own tool, one is two folders that lerobot merged. It then decodes all frames itself. We import each camera,
  losslessly, and compare.
- We record CarRacing and PushT, and import videos with actions. `LeRobotDataset` opens both, and gives what we read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

CAMERAS = {"observation.images.front": (96, 128), "observation.images.wrist": (120, 160)}
LENGTHS = (40, 65, 33, 21)


def coded(number: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """A picture with smooth colours and its number as bits, uint8 "H W 3"."""
    y, x = np.mgrid[: size[0], : size[1]]
    frame = np.stack([x * 255 // size[1], y * 255 // size[0], (x + y + 3 * number + 40 * seed) % 256], -1).astype(
        np.uint8
    )
    frame[8:24] = 0
    for bit in range(8):
        frame[8:24, 16 * bit : 16 * bit + 16] = 255 * (number >> bit & 1)
    return frame


# What follows runs in the other environment, whose only shared dependency is numpy.


def peer_write(root: Path, codec: str, seed: int, lengths: tuple[int, ...]) -> Any:
    """Record a dataset by lerobot's own calls."""
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features = {key: {"dtype": "video", "shape": (*size, 3), "names": ["height", "width", "channels"]}
                for key, size in CAMERAS.items()}  # fmt: skip
    features["observation.state"] = {"dtype": "float32", "shape": (4,), "names": ["j0", "j1", "j2", "grip"]}
    features["action"] = {"dtype": "float32", "shape": (3,), "names": ["dx", "dy", "grip"]}
    more = {} if codec == "default" else {"rgb_encoder": RGBEncoderConfig(vcodec=codec)}
    data = LeRobotDataset.create(f"made/{root.name}", fps=30, features=features, root=root, robot_type="made", **more)
    for episode, length in enumerate(lengths):
        for number in range(length):
            now = number + 50 * episode + seed
            frame = {key: coded(number, size, episode + seed) for key, size in CAMERAS.items()}
            frame["observation.state"] = np.float32([now, -now, np.sin(now), 1])
            frame["action"] = np.float32([np.cos(now), now / 7, number])
            data.add_frame(frame | {"task": f"task {episode % 2}"})
        data.save_episode()
    data.finalize()
    return data


def peer_dump(root: Path, out: Path) -> None:
    """All that LeRobotDataset gives of a folder, frame by frame, as arrays."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = LeRobotDataset(f"made/{root.name}", root=root)
    cameras = list(data.meta.video_keys)
    found: dict[str, list] = {key: [] for key in [*cameras, "action", "episode_index", "frame_index"]}
    for item in (data[i] for i in range(len(data))):
        for key in cameras:
            found[key].append((item[key].permute(1, 2, 0) * 255).round().byte().numpy())
        for key in ("action", "episode_index", "frame_index"):
            found[key].append(item[key].numpy())
    np.savez(out, **{key: np.stack(values) for key, values in found.items()})


def peer(task: str, folder: Path) -> None:
    """What the interpreter with lerobot does."""
    import lerobot

    if task == "write":
        from lerobot.datasets.dataset_tools import delete_episodes, merge_datasets

        av1 = peer_write(folder / "av1", "default", 0, LENGTHS)
        h264 = peer_write(folder / "h264", "h264", 100, LENGTHS[:2])
        del av1, h264
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        opened = {name: LeRobotDataset(f"made/{name}", root=folder / name) for name in ("av1", "h264")}
        delete_episodes(opened["av1"], episode_indices=[1], output_dir=folder / "deleted", repo_id="made/deleted")
        merge_datasets([opened["av1"], opened["av1"]], output_repo_id="made/merged", output_dir=folder / "merged")
        for name in ("av1", "h264", "deleted", "merged"):
            peer_dump(folder / name, folder / f"{name}.npz")
    else:
        for path in sorted(folder.glob("*/meta/info.json")):
            peer_dump(path.parents[1], folder / f"{path.parents[1].name}.npz")
    print(json.dumps({"lerobot": lerobot.__version__}))


# What follows runs in ours.


def ours_of_theirs(folder: Path) -> list[dict[str, Any]]:
    """Import what lerobot wrote, each camera, and compare with what lerobot decodes."""
    from videowm.data.dataset import Dataset
    from videowm.data.import_ import import_dataset
    from videowm.options import ImportOptions

    rows = []
    for path in sorted(folder.glob("*.npz")):
        theirs = np.load(path)
        for camera in CAMERAS:
            out = folder / f"import-{path.stem}-{camera}"
            options = ImportOptions(size="keep", camera=camera, lossless=True)
            data = Dataset(import_dataset(folder / path.stem, out, options))
            rows.append({"of": f"lerobot's {path.stem}, {camera}"} | compared(data, theirs, camera))
    return rows


def theirs_of_ours(folder: Path, python: str) -> list[dict[str, Any]]:
    """Record and import; compare what LeRobotDataset gives with what we read."""
    from imports import COUNT, Video, action, plain

    from videowm.data.dataset import Dataset
    from videowm.data.import_ import import_dataset
    from videowm.data.recording import record_episodes
    from videowm.options import ImportOptions

    record_episodes("carracing", folder / "carracing", episodes=4, frames=40, seed=1, group=2, lossless=True)
    record_episodes("carracing", folder / "carracing_lossy", episodes=4, frames=40, seed=1)
    record_episodes("pusht", folder / "pusht", episodes=4, frames=60, seed=1, group=2, lossless=True)
    (folder / "videos").mkdir()
    Video().write(folder / "videos")
    plain(folder / "videos", action(np.arange(COUNT)))
    import_dataset(folder / "videos", folder / "imported", ImportOptions(size="keep"))
    ask(python, "read", folder)
    rows = []
    for path in sorted(folder.glob("*.npz")):
        data = Dataset(folder / path.stem)
        rows.append(
            {"of": f"our {path.stem}, opened by LeRobotDataset"} | compared(data, np.load(path), data.video_key)
        )
    return rows


def compared(data: Any, theirs: Any, camera: str) -> dict[str, Any]:
    """How far frames (grey levels) and actions are apart, over all episodes."""
    frames = np.concatenate([data.frames(e, range(n)) for e, n in enumerate(data.lengths)]).astype(int)
    actions = np.concatenate([data.all_actions(e) for e in range(data.num_episodes)])
    lengths = np.bincount(theirs["episode_index"]).tolist()
    if lengths != data.lengths.tolist() or frames.shape != theirs[camera].shape:
        return {"right": False, "lengths": data.lengths.tolist(), "theirs": lengths}
    apart = np.abs(frames - theirs[camera])
    offset = float(np.abs(actions - theirs["action"].reshape(actions.shape)).max())
    small = [x[:, 2::4, 2::4].reshape(len(x), -1).astype(np.float64) for x in (frames, theirs[camera])]
    distance = (small[0] ** 2).sum(1)[:, None] + (small[1] ** 2).sum(1) - 2 * small[0] @ small[1].T
    found = int((distance.diagonal() <= distance.min(1) + 1e-6).sum())
    row = {"episodes": len(lengths), "frames": len(frames), "nearest to themselves": found}
    row |= {"mean grey levels apart": round(float(apart.mean()), 3), "actions apart": offset}
    return row | {"right": found == len(frames) and offset == 0 and row["mean grey levels apart"] < MOST}


MOST = 3  # grey levels on average: lerobot's conversion repeats colour in blocks of 2x2, ours interpolates it


def ask(python: str, task: str, folder: Path) -> dict[str, Any]:
    """Run this file by the other interpreter."""
    command = [python, __file__, "--peer-task", task, "--folder", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1",
                                                                         "HF_HOME": str(folder / "hf")})  # fmt: skip
    if ended.returncode:
        raise SystemExit(f"{python} failed: {ended.stderr[-2000:]}")
    return json.loads(ended.stdout.strip().splitlines()[-1])


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Both directions, a line for each folder, and a file of results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", default=sys.executable, help="interpreter that can import lerobot")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peer-task", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.peer_task:
        peer(options.peer_task, options.folder)
        return []
    if subprocess.run([options.peer, "-c", "import lerobot, torch"], capture_output=True).returncode:
        print(f"left out: {options.peer} has no lerobot; give --peer, the interpreter of an environment with it")
        return []
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        versions = ask(options.peer, "write", Path(one))
        rows = ours_of_theirs(Path(one)) + theirs_of_ours(Path(other), options.peer)
    for row in rows:
        print(row)
    if options.out:
        from videowm.files import write_json

        write_json(options.out, versions | {"rows": rows})
    return rows


if __name__ == "__main__":
    sys.exit(not all(row["right"] for row in main()))
