"""Every message between page and server, typed. Unknown fields, wrong types and infinite numbers are refused.

The page sends JSON. The server answers with JSON too, but pictures are binary (`pack`): four bytes with the length of a
JSON header, little-endian; the header, a `Shown`; then the picture, whose rows are the views and whose columns frames.
"""

from __future__ import annotations

import io
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from videowm.types import UserError

LONGEST = 64  # actions in one message
MOST_BYTES = 32_768  # of a message from the page
By = Annotated[str, Field(pattern=r"^(person|episode|script|random|planner|agent [0-9]{1,2})$")]  # who plays
Format = Literal["raw", "jpeg"]  # of pictures: RGB as it is, for a page on this machine; 14 times smaller
Number = Annotated[float, Field(ge=-1e4, le=1e4)]
Whole = Annotated[int, Field(ge=0, le=10**9)]


class Message(BaseModel):
    """What all messages have in common: nothing unknown, nothing converted, nothing that is not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Start(Message):
    """Begin at a recorded moment: frame `frame` of an episode is the last one that the model is given."""

    type: Literal["start"] = "start"
    episode: Whole
    frame: Whole
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0


class Look(Message):
    """Show a recorded frame, and go on as before."""

    type: Literal["look"] = "look"
    episode: Whole
    frame: Whole


class Step(Message):
    """The next frames, under one action each; `number` comes back with them."""

    type: Literal["step"] = "step"
    number: Whole
    actions: Annotated[list[Annotated[list[Number], Field(max_length=64)]], Field(min_length=1, max_length=LONGEST)]


class Drive(Message):
    """Hand over: a person, the recorded episode, the world's scripted driver, chance, the planner or an agent."""

    type: Literal["drive"] = "drive"
    by: By


class Tune(Message):
    """How latent steps are drawn from now on. `steps` None: as the run was evaluated."""

    type: Literal["tune"] = "tune"
    steps: Annotated[int, Field(ge=1, le=50)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    guidance: Annotated[float, Field(ge=1, le=8)] = 1.0
    prompt: Annotated[str, Field(max_length=2000)] = ""


class Real(Message):
    """Play the real game beside the dream from the next start on, or not."""

    type: Literal["real"] = "real"
    on: bool


class Branch(Message):
    """Several futures of now: by chance, or one per named action."""

    type: Literal["branch"] = "branch"
    kind: Literal["chance", "actions"]
    count: Annotated[int, Field(ge=2, le=9)] = 4


class Pick(Message):
    """Go on with one of the futures."""

    type: Literal["pick"] = "pick"
    row: Annotated[int, Field(ge=0, le=8)]


class Front(Message):
    """Which run is branched and explored."""

    type: Literal["front"] = "front"
    run: Annotated[int, Field(ge=0, le=31)]


class Explore(Message):
    """Send where the state is along the directions, with every picture, or no more."""

    type: Literal["explore"] = "explore"
    on: bool


class Move(Message):
    """Set coordinates along principal or probed directions, in standard deviations, by the direction's number.

    In the "frame" only what is shown changes. In the "world" the remembered latents change: a branch of two, one as it
    was and one moved.
    """

    type: Literal["move"] = "move"
    where: Literal["frame", "world"]
    values: Annotated[dict[Annotated[str, Field(pattern=r"^\d{1,2}$")], Annotated[float, Field(ge=-9, le=9)]],
                      Field(max_length=64)]  # fmt: skip


class Save(Message):
    """Write what was played since the start: an episode in the dataset layout, and an mp4."""

    type: Literal["save"] = "save"


Asked = Annotated[
    Start | Look | Step | Drive | Tune | Real | Branch | Pick | Front | Explore | Move | Save,
    Field(discriminator="type"),
]
_asked: TypeAdapter[Asked] = TypeAdapter(Asked)


class Control(Message):
    """An action with a name, the names that it puts together, and the keys that press it."""

    name: str
    action: list[float]
    of: list[str]
    keys: list[str]


class Run(Message):
    """A model that is played."""

    name: str
    depth: int
    parameters: int
    flops: float | None
    stride: int
    steps: int  # sampler steps, as it was evaluated
    text: bool
    guidance: bool
    bytes: int = 0  # of its weights


class Direction(Message):
    """A principal direction of the latents, or one that was probed for a factor."""

    share: float  # of the variance
    best: str | None  # state column that follows it most closely, or the factor
    r2: float | None
    probed: bool = False


class Hello(Message):
    """What there is to play."""

    type: Literal["hello"] = "hello"
    world: str
    fps: float
    size: tuple[int, int]  # (H, W) pixels
    frames: int  # of one step
    runs: list[Run]
    controls: list[Control]
    episodes: list[int]  # frames of each
    test: list[int]  # held-out episodes
    real: str | None  # why the real game cannot be played; None: it can
    script: bool
    planner: str | None  # why it cannot play at the first run; None: it can
    agents: list[str]
    device: str


class Said(Message):
    """A sentence for the person: something was refused, or done."""

    type: Literal["said"] = "said"
    text: str
    refused: bool = False
    number: int | None = None  # of a step that was refused


class Directions(Message):
    """What the sliders mean."""

    type: Literal["directions"] = "directions"
    directions: list[Direction]


class View(Message):
    """One row of the picture."""

    name: str
    kind: Literal["dream", "real", "future", "moved", "recorded"]
    run: int | None = None
    psnr: list[float] | None = None  # dB against the real game, of each frame
    over: bool = False  # the real game has ended


class Shown(Message):
    """The header of a picture: which views it holds, and how long it took."""

    type: Literal["shown"] = "shown"
    what: Literal["start", "step", "branch", "picked", "look", "moved"]
    number: int | None = None  # of the step that was asked for
    at: int = 0  # frames since the start
    frames: int = 1
    size: tuple[int, int]  # (H, W) pixels of one frame
    views: list[View]
    format: Format = "raw"
    by: By = "person"
    actions: list[str] = []  # names of the actions taken, or of those nearest to them
    coordinates: list[float] | None = None  # along the directions, in standard deviations
    ms: dict[str, float] = {}  # milliseconds by part


def read(text: str) -> Asked:
    """A message of the page.

    Raises:
        UserError: it is no JSON, or not one of the messages above; the sentence says where.
    """
    try:
        return _asked.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "message"
        raise UserError(f"{where}: {first['msg'][:200]}: send one of the messages that the page sends") from None


def picture(views: list[np.ndarray], kind: Format) -> bytes:
    """Views uint8 "f H W 3" of one shape as one picture, a row each."""
    sheet = np.concatenate([np.concatenate(list(view), axis=1) for view in views])
    if kind == "raw":
        return sheet.tobytes()
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def pack(header: Shown, content: bytes) -> bytes:
    """A header and a picture as one binary message."""
    head = header.model_dump_json(exclude_defaults=True).encode()
    return len(head).to_bytes(4, "little") + head + content


def unpack(message: bytes) -> tuple[Shown, bytes]:
    """What `pack` was given."""
    end = 4 + int.from_bytes(message[:4], "little")
    return Shown.model_validate_json(message[4:end]), message[end:]
