"""A prediction that provably came first: sealed against a local drand and OpenTimestamps server, checked with git."""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from made import prediction, write_record

from scaling.beacon import OTS_HEADER, QUICKNET
from scaling.frozen import digest, publish_once, read
from scaling.point import SweepConfig
from scaling.seal import Seal, draw, seal, sealed
from scaling.verify import verify
from videowm.record import Execution, RunRecord
from videowm.types import UserError

SIGNATURE = "ab" * 48
PROOF = b"\xf0\x10" + b"n" * 16 + b"\x08\x00\x83\xdf\xe3\x0d\x2e\xf9\x0c\x8e"  # operations, then a pending attestation


class PublicClock(BaseHTTPRequestHandler):
    """Speaks what the scaling code uses of drand's and of a calendar's HTTP protocols."""

    def do_GET(self):
        round_ = {"round": 1001, "randomness": hashlib.sha256(bytes.fromhex(SIGNATURE)).hexdigest()}
        known = {
            f"/{QUICKNET}/info": {"genesis_time": 1_900_000_000, "period": 3, "hash": QUICKNET},
            f"/{QUICKNET}/public/latest": round_ | {"signature": SIGNATURE},
        }
        self.answer(json.dumps(known[self.path]).encode())

    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/digest" and len(sent) == 32
        assert self.headers["Accept"] == "application/vnd.opentimestamps.v1"
        self.answer(PROOF)

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def clock():
    """The address of a local public clock."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), PublicClock)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def study(tmp_path) -> SweepConfig:
    """A sweep's folder in a git repository, with a frozen prediction of 1e17 FLOPs that git does not hold yet."""
    git(tmp_path, "init", "-q")
    out = tmp_path / "out"
    write_record(out / "small")
    fitted = {"small": hashlib.sha256((out / "small/record.json").read_bytes()).hexdigest()}
    content = asdict(prediction(runs=fitted, time="2026-11-30T12:00:00Z"))
    content["sha256"] = digest(content)
    publish_once(out / "predictions/1e17.json", json.dumps(content))
    return SweepConfig("base.yaml", str(out))


def train(study: SweepConfig, **changes) -> Path:
    """The target's record, committed."""
    run = Path(study.out) / "d8-1e17"
    write_record(run, **{"flops": {"train": 1e17}, "execution": Execution(started="2030-01-01T00:00:00Z")} | changes)
    git(run, "add", ".")
    git(run, "commit", "-qm", "target")
    return run


def words(study: SweepConfig) -> list[str]:
    (found,) = verify(study.out).values()
    return [finding.word for finding in found]


def test_a_target_is_sealed_trained_and_verified(study, clock):
    """Guards the whole order: nothing is drawn before git holds the prediction; the seed follows from it and a later
    drand round; a stranger finds nothing broken, and finds each of five forgeries."""
    path = Path(study.out) / "predictions/1e17.json"
    with pytest.raises(UserError, match="git does not hold"):
        seal(study, 1e17, drand=clock)
    git(path.parent, "add", ".")
    git(path.parent, "commit", "-qm", "prediction")
    place, found, notes = seal(study, 1e17, drand=clock, calendar=clock)
    randomness = hashlib.sha256(bytes.fromhex(SIGNATURE)).hexdigest()
    assert found.seed == draw(read(path).sha256, randomness) == sealed(study.out, 1e17).seed < 2**31
    assert found.beacon["time"] == 1_900_000_000 + 3 * 1000 and "ots verify" in notes[0]
    stamp = path.with_name("1e17.json.ots").read_bytes()
    assert stamp == OTS_HEADER + hashlib.sha256(path.read_bytes()).digest() + PROOF
    assert seal(study, 1e17, drand=clock)[1] == found  # a seal is never drawn again

    assert "missing" in words(study) and "BROKEN" not in words(study)
    mine = {"prediction": read(path).sha256, "seed": found.seed}
    run = train(study, **mine)
    assert words(study).count("proven") == 5 and not {"missing", "BROKEN"} & set(words(study))
    record = RunRecord.read(run)
    for forged in ({"seed": 0}, {"prediction": "0" * 64}, {"execution": Execution(started="2026-11-29T00:00:00Z")}):
        replace(record, **forged).write(run)
        assert "BROKEN" in words(study)
    record.write(run)
    place.write_text(json.dumps(vars(found) | {"seed": 1}))
    assert "BROKEN" in words(study)
    with pytest.raises(UserError, match="does not fit the prediction"):
        sealed(study.out, 1e17)
    place.write_text(json.dumps(vars(found)))
    write_record(Path(study.out) / "small", seed=5)
    assert "BROKEN" in words(study)


def test_without_a_network_the_commit_draws(study):
    """Guards a study on a machine without a network, and a beacon that is down: the seed follows from the commit, and
    `verify` says that it must be trusted; record and prediction of one commit show no order."""
    path = Path(study.out) / "predictions/1e17.json"
    git(path.parent, "add", ".")
    git(path.parent, "commit", "-qm", "prediction")
    _, found, notes = seal(study, 1e17, drand="http://127.0.0.1:9", calendar="http://127.0.0.1:9")
    assert found.beacon is None and found.seed == draw(found.prediction, found.commit) == found.drawn
    assert "cannot be reached" in notes[0] and notes[1].startswith("no timestamp")
    train(study, prediction=found.prediction, seed=found.seed)
    (said,) = verify(study.out).values()
    assert any(finding.word == "trust" and "no public beacon" in finding.text for finding in said)
    assert Seal.read(path.with_suffix(".seal")) == found
