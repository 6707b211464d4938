"""A server of the Hugging Face Hub's protocol, as far as `huggingface_hub` needs it to push and pull; in memory.

It keeps repositories with branches, tags and commits, files in git and files behind LFS, and a token. A test may let it
break: `cut_after` a number of uploads, `fail` as the status of every answer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "dummy"
LFS = (".safetensors", ".mp4", ".parquet", ".png")
API = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(\w+)(?:/([^/]+))?(?:/(.*))?)?$")
RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
BATCH = re.compile(r"/(?:datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch$")


def blob_id(content: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """The commits of a repository, and what names them."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # branch or tag -> commit

    def __post_init__(self) -> None:
        self.commit("main", {})

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(f"{branch}{len(self.commits)}".encode()).hexdigest()
        self.commits[sha], self.names[branch] = files, sha
        return sha

    def sha(self, revision: str) -> str | None:
        return self.names.get(revision) or (revision if revision in self.commits else None)


class HubServer:
    """The server on a free port of this machine, until `close`."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # LFS: sha256 -> content
        self.uploads: list[str] = []  # sha256 of every upload that was finished
        self.fail: int | None = None  # status of every answer
        self.cut_after: int | None = None  # uploads that are taken before the connection is cut
        self.taking = threading.Lock()  # a client uploads several files at once; they are taken one by one
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def files(self, name: str, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
        """The files of a revision of a repository."""
        repository = self.repositories[kind, name]
        return repository.commits[repository.sha(revision)]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: object = None, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status: int, code: str, message: str = "") -> None:
        self.answer({"error": message or code}, status, X_Error_Code=code, X_Error_Message=message or code)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def respond(self) -> None:
        """Answer any request."""
        body, path = self.body(), unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.hub.fail is not None:
            return self.error(self.hub.fail, "ServerError", "out of order")
        if token and token != TOKEN:
            return self.error(401, "", "Invalid credentials in Authorization header")
        if self.command == "PUT":
            return self.upload(path, body)
        if path == "/api/repos/create":
            return self.create(json.loads(body), token)
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if BATCH.match(path):
            return self.batch(json.loads(body))
        if found := API.match(path):
            return self.api(*found.groups(), body, token)
        if found := RESOLVE.match(path):
            return self.resolve(*found.groups(), token)
        return self.error(404, "EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond

    def create(self, asked: dict, token: str) -> None:
        if not token:
            return self.error(401, "", "Invalid username or password.")
        if asked["organization"] != "user":
            return self.error(403, "", f"You don't have the rights to create under {asked['organization']}")
        key, exists = (asked.get("type") or "model", f"user/{asked['name']}"), False
        exists = key in self.hub.repositories
        if not exists:
            self.hub.repositories[key] = Repository(asked.get("visibility") == "private")
        prefix = "datasets/" if key[0] == "dataset" else ""
        return self.answer({"url": f"{self.hub.url}/{prefix}{key[1]}"}, 409 if exists else 200)

    def batch(self, asked: dict) -> None:
        """Where each object is to be uploaded; nowhere, where it is there."""
        found = []
        for one in asked["objects"]:
            there = one["oid"] in self.hub.objects
            upload = {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}
            found.append({"oid": one["oid"], "size": one["size"], **({} if there else upload)})
        self.answer({"transfer": "basic", "objects": found})

    def upload(self, path: str, body: bytes) -> None:
        oid = path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        with self.hub.taking:
            taken = self.hub.cut_after is None or len(self.hub.uploads) < self.hub.cut_after
            if taken:
                self.hub.objects[oid] = body
                self.hub.uploads.append(oid)
        if taken:
            return self.answer({})
        self.close_connection = True
        return self.error(403, "", "the upload was cut")

    def api(self, kind: str, name: str, verb: str | None, revision: str | None, rest: str | None, body: bytes,
            token: str) -> None:  # fmt: skip
        repository = self.hub.repositories.get((kind, name))
        if repository is None or (repository.private and not token):
            return self.error(404 if token else 401, "RepoNotFound", "Repository not found")
        if verb in ("branch", "tag"):
            asked = json.loads(body) if body else {}
            name_, at = (revision, asked.get("startingPoint", "main")) if verb == "branch" else (asked["tag"], revision)
            if name_ in repository.names:
                return self.error(409, "", "Reference already exists")
            repository.names[name_] = repository.sha(at)
            return self.answer({})
        sha = repository.sha(revision or "main")
        if sha is None:
            return self.error(404, "RevisionNotFound")
        files = repository.commits[sha]
        if verb == "preupload":
            asked = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LFS) else "regular",
                      "shouldIgnore": False} for f in asked]  # fmt: skip
            return self.answer({"files": modes})
        if verb == "commit":
            sha = repository.commit(revision, files | self.committed(body))
            return self.answer({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})
        if verb == "tree":
            return self.answer([entry(path, content) for path, content in sorted(files.items())])
        siblings = [{"rfilename": path} for path in sorted(files)]
        return self.answer({"id": name, "sha": sha, "private": repository.private, "siblings": siblings, "tags": []})

    def committed(self, body: bytes) -> dict[str, bytes]:
        found = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                found[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                found[value["path"]] = self.hub.objects[value["oid"]]
        return found

    def resolve(self, dataset: str | None, name: str, revision: str, path: str, token: str) -> None:
        repository = self.hub.repositories.get(("dataset" if dataset else "model", name))
        if repository is None or (repository.private and not token):
            return self.error(404 if token else 401, "RepoNotFound", "Repository not found")
        sha = repository.sha(revision)
        if sha is None:
            return self.error(404, "RevisionNotFound")
        content = repository.commits[sha].get(path)
        if content is None:
            return self.error(404, "EntryNotFound", "Entry not found")
        first = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        etag = hashlib.sha256(content).hexdigest() if path.endswith(LFS) else blob_id(content)
        return self.answer(content[first:], 206 if first else 200, ETag=f'"{etag}"', X_Repo_Commit=sha,
                           Content_Range=f"bytes {first}-{len(content) - 1}/{len(content)}")  # fmt: skip


def entry(path: str, content: bytes) -> dict:
    """A file as the listing of a repository has it."""
    found = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
    sha = hashlib.sha256(content).hexdigest()
    return found | ({"lfs": {"oid": sha, "size": len(content), "pointerSize": 130}} if path.endswith(LFS) else {})
