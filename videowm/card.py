"""The card of what is pushed: README.md, made from the record, the configuration and what was measured."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from videowm.data.dataset import Dataset
from videowm.evaluate.findings import bounds, value_with_error
from videowm.files import read_json
from videowm.metrics import beside, metric_of, single, unit
from videowm.record import RunRecord

TEMPLATE = Path(__file__).with_name("card.md")
UNKNOWN = "unknown"  # the hub's word for a licence that nobody stated
REMEDY = "push the run again"
PICTURES = {
    "world": "Held-out clips, best, median and worst: the game above, the model's prediction beneath",
    "vae": "Held-out frames: truth, reconstruction and error",
}
SHARES = {"body": "in the blocks' matrices", "adaln": "in modulations", "embed": "in embeddings"}


def model_card(
    folder: Path, name: str, config: dict[str, Any], record: RunRecord, metrics: dict[str, Any], *, license: str,
    trained_on: str | None, dtype: str,
) -> str:  # fmt: skip
    """The card of a staged run, whose record was read.

    Args:
        folder: what is pushed.
        name: user/name, or the folder's own.
        config: of the run.
        metrics: name -> value; those of an evaluation beside those of the record.
        license: the hub's word for it.
        trained_on: the training data's name on the hub.
        dtype: number format of the weights.
    """
    world = config["task"] == "world"
    facts = WorldFacts(folder) if world else AutoencoderFacts(folder, config)
    said = {
        "kind": "model", "title": name.rpartition("/")[2], "summary": facts.summary(record), "metrics": rows(metrics),
        "metric_names": single(metrics), "picture": (folder / "strip.png").exists() and PICTURES[config["task"]],
        "facts": {"Trained on": facts.data(record), "Trained with": effort(record, dtype)},
        "tags": ["videowm", "world-model" if world else "video-autoencoder", "video", *facts.tags()],
        "loading": facts.loading(name), "limits": facts.limits(metrics), "trained_on": trained_on,
    }  # fmt: skip
    return render(said, license)


def dataset_card(root: Path, name: str, *, license: str) -> str:
    """The card of a dataset in the LeRobot v3 layout."""
    data = Dataset(root)
    played = read_json(root / "meta/recording.json", REMEDY) if (root / "meta/recording.json").is_file() else {}
    said = {
        "kind": "dataset", "title": name.rpartition("/")[2], "tags": ["LeRobot", "videowm", "video", data.name],
        "summary": f"{data.num_episodes} episodes of {data.name}: video with an action for every frame, in the LeRobot "
        f"{data.info['codebase_version']} layout.",
        "facts": {"Holds": holds(data), **({"Played with": shown(played)} if played else {})},
        "loading": fenced("bash", f"videowm pull {name} --out data/{name.rpartition('/')[2]}")
        + "\n\nIn Python, or with `lerobot` itself:\n\n"
        + fenced("python", "from videowm.data.dataset import Dataset", "",
                 f'clip = Dataset("data/{name.rpartition("/")[2]}").clip(episode=0, start=0, frames=17)'),
        "limits": ["Row i holds frame i and the action that leads to frame i+1; the last row's leads to no frame.",
                   "Frames are H.264 unless they are said to be lossless: a pixel is off by a few grey levels."],
    }  # fmt: skip
    return render(said, license)


def render(said: dict[str, Any], license: str) -> str:
    """The card's text."""
    import jinja2

    stated = f"{license}." if license != UNKNOWN else "Its author stated none, so ask before you use it."
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701 - Markdown
    return environment.from_string(TEMPLATE.read_text()).render(said | {"license": license, "licence": stated})


def fenced(language: str, *lines: str) -> str:
    """A block of code in Markdown."""
    return "\n".join([f"```{language}", *lines, "```"])


def rows(metrics: dict[str, Any]) -> list[dict[str, str]]:
    """One row a number that was measured: the value with its error, its unit, its bounds, what it is."""
    found = []
    for name in single(metrics):
        metric, between = metric_of(name), bounds(metrics, name)
        known = {key: between.get(key) or (metric and getattr(metric, key)) or "" for key in ("ceiling", "floor")}
        row = {"name": name, "value": value_with_error(metrics, name), "unit": unit(name), **known}
        found.append(row | {"what": metric.what if metric else ""})
    return [{key: str(value).replace("|", "\\|") for key, value in row.items()} for row in found]


def effort(record: RunRecord, dtype: str) -> dict[str, str]:
    """What the training took, and how large the model is."""
    parts = ", ".join(f"{count:,} {SHARES.get(part, 'in ' + part)}" for part, count in record.params.items())
    flops = record.flops.get("train")
    took = {
        "parameters": parts,
        "training FLOPs": f"{flops:.3g}" if flops else "not counted",
        "time": f"{record.wall_seconds:,.0f} s of training on {record.device}",
        "steps": f"{record.steps:,} of {record.batch} samples, peak learning rate {record.lr:g}, seed {record.seed}",
        "precision": f"{record.execution.precision or 'unknown'} in training, weights stored in {dtype}",
    }
    if record.stopped:
        took["stopped early"] = record.stopped
    return took


def shown(settings: dict[str, Any]) -> dict[str, str]:
    """Plain settings as rows."""
    return {str(key).replace("_", " "): str(value) for key, value in settings.items() if not isinstance(value, dict)}


def holds(data: Dataset) -> dict[str, str]:
    """What a dataset holds, as rows."""
    frames, (height, width) = int(data.lengths.sum()), data.size
    return {
        "episodes": f"{data.num_episodes}: {len(data.split('train'))} train, {len(data.split('test'))} test",
        "frames": f"{frames:,} of {height}x{width} at {data.fps:g} a second, {frames / data.fps / 60:.1f} minutes",
        "actions": ", ".join(data.action_names) or "none",
        "state": ", ".join(data.state_names) or "none",
        "hash": data.hash,
    }


class WorldFacts:
    """What a world model's folder says of it."""

    def __init__(self, folder: Path) -> None:
        from videowm.vae.codec import STRIDES

        self.folder, self.network = folder, read_json(folder / "transformer/config.json", REMEDY)
        vae = read_json(folder / "vae/config.json", REMEDY)
        self.time, self.space = STRIDES[vae["_class_name"]](SimpleNamespace(**vae))
        self.trained_on, self.vae = self.network["trained_on"], vae["_class_name"]
        self.size = tuple(self.network[side] * self.space for side in ("height", "width"))

    def tags(self) -> list[str]:
        return ["action-conditioned", self.trained_on["world"]]

    def summary(self, record: RunRecord) -> str:
        text = " It follows captions too." if self.network.get("text") else ""
        return (
            f"A world model of {self.trained_on['world']}: it continues video of {self.size[0]}x{self.size[1]} pixels "
            f"under given actions, frame by frame. A diffusion transformer of depth {record.depth} predicts the next "
            f"latent step of a video autoencoder ({self.vae}).{text} Made with videowm."
        )

    def data(self, record: RunRecord) -> dict[str, str]:
        seen, unique = (record.frames.get(key, 0) for key in ("seen", "unique"))
        return {
            "world": self.trained_on["world"],
            "frames": f"{unique:,} different ones, {seen:,} seen, at {self.trained_on['fps']:g} a second",
            "actions": ", ".join(self.trained_on["action_names"]),
            "latent steps": f"{self.trained_on['window']} a sample; one holds {self.time} frames",
            "tokens": f"{record.tokens.get('processed', 0):,}",
            "hashes": ", ".join(f"{name} {value}" for name, value in record.hashes.items()),
        }

    def loading(self, name: str) -> str:
        begin = f'pipeline = WorldModelPipeline.from_pretrained("{name}")'
        context = 'frames, actions = ...  # float in [-1, 1] "b f 3 H W", float "b n a", n >= f'
        parts = [
            fenced("python", "import torch", "", "from videowm import WorldModelPipeline", "", begin, context,
                   "video = pipeline(frames, actions, generator=torch.Generator().manual_seed(0)).frames"),
            f'`DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)` gives the same where videowm is '
            "installed: the repository's `.py` files only import it. Without videowm, `pip install videowm` first. The "
            "weights are plain safetensors beside a `config.json`; the network is `videowm/dit/model.py`.",
        ]  # fmt: skip
        if (self.folder / "starts").is_dir():
            parts += [
                "A few held-out episodes lie in `starts/`, so a clip needs no other data:",
                fenced("bash", f"videowm pull {name} --out model", "videowm generate model --out clip.mp4"),
            ]
        return "\n\n".join(parts)

    def limits(self, metrics: dict[str, Any]) -> list[str]:
        window, seconds = self.trained_on["window"], self.trained_on["window"] * self.time / self.trained_on["fps"]
        found = [
            f"It knows {self.trained_on['world']} alone, at {self.size[0]}x{self.size[1]} pixels and "
            f"{self.trained_on['fps']:g} frames a second, and actions as its driver plays them.",
            f"It sees {window} latent steps, {seconds:.2g} seconds: what left them it has forgotten.",
            "No frame is sharper than its autoencoder makes it: see the ceilings.",
        ]
        gap, error = (metrics.get(key) for key in ("heldout/action_gap", beside("heldout/action_gap", "se")))
        if gap is not None and error and math.isfinite(error):
            obeys = "obeys" if gap > 3 * error else "does not measurably obey"
            found.append(f"It {obeys} its actions: those of another episode add {gap:.2g} ± {error:.1g} to the loss.")
        if isinstance(curve := metrics.get("rollout/psnr"), list):
            found.append(f"It was measured over {len(curve)} predicted frames; later ones drift further.")
        return found


class AutoencoderFacts:
    """What an autoencoder's folder says of it."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        from videowm.vae.codec import STRIDES

        vae = read_json(folder / "vae/config.json", REMEDY)
        self.name, self.config = vae["_class_name"], config
        self.time, self.space = STRIDES[self.name](SimpleNamespace(**vae))
        self.channels = vae.get("latent_channels") or vae.get("z_dim")

    def tags(self) -> list[str]:
        return ["autoencoder"]

    def summary(self, record: RunRecord) -> str:
        return (
            f"A video autoencoder ({self.name}): {self.time} frames of {self.space}x{self.space} pixels become "
            f"{self.channels} numbers. World models are trained on its latents. Made with videowm."
        )

    def data(self, record: RunRecord) -> dict[str, str]:
        source = self.config.get("data") or (self.config.get("play") or {}).get("world") or "unknown"
        hashes = ", ".join(f"{name} {value}" for name, value in record.hashes.items())
        return {"data": Path(str(source)).name, "hashes": hashes}

    def loading(self, name: str) -> str:
        return fenced("python", "from videowm.vae.codec import DiffusersCodec, load_vae", "",
                      f'codec = DiffusersCodec(load_vae("{name}"))',
                      'latents = codec.encode(frames)  # float in [-1, 1] "b f 3 H W" -> "b t c h w"') + (
            "\n\n`videowm encode DATA --vae " + name + " --out latents` encodes a dataset with it. "
            "Without videowm, `pip install videowm` first; the weights are plain safetensors."
        )  # fmt: skip

    def limits(self, metrics: dict[str, Any]) -> list[str]:
        return [
            f"Clips have 1 + {self.time}k frames, with sides that are multiples of {self.space}.",
            "It was trained on the data above alone: other video comes back worse.",
            "Things of few pixels are lost first: PSNR of the whole picture does not show it.",
        ]
