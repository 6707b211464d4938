"""Public clocks: a drand round, which nobody knew before its time, and an OpenTimestamps calendar's timestamp.

drand: `GET URL/CHAIN/info` has period and genesis time. `GET URL/CHAIN/public/latest` has a round, whose randomness is
the sha256 of its signature. OpenTimestamps: `POST URL/digest` takes 32 bytes and returns the proof's operations. After
the header they make a .ots file, which `ots upgrade` and `ots verify` take.
"""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from typing import Any

from videowm.types import UserError

DRAND = "https://api.drand.sh"
QUICKNET = "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"  # rounds of 3 s
CALENDAR = "https://a.pool.opentimestamps.org"
TIMEOUT = 10.0  # seconds
MOST = 2**16  # bytes of an answer that are read
OTS_HEADER = b"\x00OpenTimestamps\x00\x00Proof\x00\xbf\x89\xe2\xe8\x84\xe8\x92\x94\x01\x08"  # version 1, of a sha256


@dataclass(frozen=True)
class Round:
    """A round of a drand chain."""

    url: str
    chain: str  # hash of the chain
    round: int
    randomness: str  # hex, sha256 of the signature
    signature: str  # hex
    time: float  # Unix time of the round: genesis + (round - 1) * period

    @property
    def whole(self) -> bool:
        """Whether the randomness follows from the signature."""
        return hashlib.sha256(bytes.fromhex(self.signature)).hexdigest() == self.randomness

    def to_json(self) -> dict[str, Any]:
        """The content of a file."""
        return asdict(self)


def latest(url: str = DRAND, chain: str = QUICKNET) -> Round:
    """The latest round of a drand chain.

    Raises:
        UserError: the server cannot be reached, or its answer is no round.
    """
    try:
        about = json.loads(fetch(f"{url}/{chain}/info"))
        said = json.loads(fetch(f"{url}/{chain}/public/latest"))
        time = about["genesis_time"] + (said["round"] - 1) * about["period"]
        found = Round(url, chain, int(said["round"]), said["randomness"], said["signature"], float(time))
        whole = found.whole
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{url} gave no drand round ({error}): give another --drand") from None
    if not whole:
        raise UserError(f"round {found.round} of {url} does not match its own signature: give another --drand")
    return found


def stamp(digest: bytes, url: str = CALENDAR) -> bytes:
    """A pending timestamp of 32 bytes, as the content of a .ots file.

    Raises:
        UserError: the calendar cannot be reached, or gave an empty answer.
    """
    proof = fetch(f"{url}/digest", digest)
    if not proof:
        raise UserError(f"{url} gave an empty timestamp: give another --calendar")
    return OTS_HEADER + digest + proof


def fetch(url: str, data: bytes | None = None) -> bytes:
    """The answer of a server.

    Raises:
        UserError: it cannot be reached.
    """
    headers = {"User-Agent": "videowm"}
    if data is not None:
        headers |= {"Accept": "application/vnd.opentimestamps.v1", "Content-Type": "application/octet-stream"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=TIMEOUT) as answer:
            return answer.read(MOST)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise UserError(f"{url} cannot be reached ({error}): connect, or go on without it") from None
