"""A stand-in for the model hub's server: what `huggingface_hub` and `datasets` ask it, in memory.

Large files (`*.safetensors`, `*.parquet`, `*.zip`) are kept by their SHA-256 at another origin, as
the hub's are: `resolve` redirects there, and a token must not follow.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".parquet", ".zip")
OWNER, OWNERS_TOKEN, OTHER_TOKEN = "me", "hf_owner", "hf_other"
"""An account that may write to its own repositories and read gated ones; another that may not."""

Files = dict[str, bytes]


@dataclass
class Repository:
    """Files by commit; branches move, commits do not."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit(self, files: Files) -> str:
        """Add a commit to `main`; returns its name."""
        parts = [self.branches.get("main", ""), *(f"{n} {_sha256(c)}" for n, c in files.items())]
        name = hashlib.sha1("\n".join(parts).encode()).hexdigest()
        self.commits[name] = files
        self.branches["main"] = name
        return name


@dataclass
class Cut:
    """A transfer that breaks off: after some bytes, so many times, politely or by a reset."""

    after: int
    times: int
    reset: bool


class StandInHub:
    """The server, in threads of this process.

    Attributes:
        requests: what was asked and answered, such as `GET /api/models/a/b/tree/… 200`.
        cuts: transfers to break off, by the end of the file's name.
        transcript: the requests, and between them what the client made of the answers.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cuts: dict[str, Cut] = {}
        self.transcript: list[str] = []
        self.port = 0
        self._start()

    @property
    def endpoint(self) -> str:
        """Value for `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage(self) -> str:
        """The other origin, for large files."""
        return f"http://localhost:{self.port}"

    def publish(
        self,
        kind: str,
        name: str,
        files: Mapping[str, bytes] | Path,
        *,
        gated: bool = False,
        private: bool = False,
    ) -> str:
        """Add a commit to a repository.

        Args:
            kind: `models` or `datasets`.
            name: owner/name.
            files: contents by name, or a folder.
            gated: whether a new repository is listed, but only its owner may read it.
            private: whether a new repository is hidden from all but its owner.

        Returns:
            The commit.
        """
        if isinstance(files, Path):
            files = {
                path.relative_to(files).as_posix(): path.read_bytes()
                for path in sorted(files.rglob("*"))
                if path.is_file()
            }
        repository = self.repositories.setdefault(
            (kind, name), Repository(gated=gated, private=private)
        )
        self.stored |= {_sha256(c): c for n, c in files.items() if n.endswith(LARGE)}
        return repository.commit(dict(files))

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Nothing listens at the hub's address."""
        self.stop()
        yield
        self._start()

    def stop(self) -> None:
        """Close the server's socket."""
        self._server.shutdown()
        self._server.server_close()

    def _start(self) -> None:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()


class RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message or code}


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep standard error clean."""

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        request = f"{self.command} {self.path} {int(code)}"
        self.hub.requests.append(request)
        self.hub.transcript.append(request)

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            for method, pattern, act in ROUTES:
                if method == ("GET" if self.command == "HEAD" else self.command) and (
                    found := re.fullmatch(pattern, path)
                ):
                    act(self, **found.groupdict())
                    return
            raise RefusedError(404)
        except RefusedError as refused:
            self._send(refused.status, b"{}", refused.headers)

    # Who asks, and for what.

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _account(self) -> str | None:
        """Name of the account; None for anonymous."""
        if self.token is None:
            return None
        known = {OWNERS_TOKEN: OWNER, OTHER_TOKEN: "other"}
        if self.token not in known:
            raise RefusedError(401, message="Invalid credentials in Authorization header")
        return known[self.token]

    def _repository(self, kind: str | None, name: str) -> Repository:
        account = self._account()
        found = self.hub.repositories.get(((kind or "models").strip("/"), name))
        if found is None or (found.private and account != OWNER):
            raise RefusedError(404 if account else 401, "RepoNotFound")
        return found

    def _commit(self, repository: Repository, revision: str) -> str:
        name = repository.branches.get(revision, revision)
        if name not in repository.commits:
            raise RefusedError(404, "RevisionNotFound")
        return name

    def _require_owner(self, name: str) -> None:
        account = self._account()
        if account is None:
            raise RefusedError(401, message="Invalid username or password.")
        if not name.startswith(f"{account}/"):
            raise RefusedError(
                403, message="You don't have the rights to create a model under this"
            )

    # What is downloaded.

    def info(self, kind: str, name: str, revision: str | None = None) -> None:
        repository = self._repository(kind, name)
        commit = self._commit(repository, revision or "main")
        siblings = [{"rfilename": file} for file in repository.commits[commit]]
        self._json({"id": name, "sha": commit, "siblings": siblings, "gated": repository.gated})

    def tree(self, kind: str, name: str, revision: str, folder: str | None) -> None:
        repository = self._repository(kind, name)
        files = repository.commits[self._commit(repository, revision)]
        start = f"{folder}/" if folder else ""
        below = {file: file.removeprefix(start) for file in files if file.startswith(start)}
        if folder and not below:
            raise RefusedError(404, "EntryNotFound")
        flat = "recursive=true" not in urlsplit(self.path).query.lower()
        folders = {start + rest.partition("/")[0] for rest in below.values() if "/" in rest}
        entries = [{"type": "directory", "path": f, "size": 0, "oid": ""} for f in sorted(folders)]
        shown = [file for file, rest in below.items() if not (flat and "/" in rest)]
        self._json(entries * flat + [_entry(file, files[file]) for file in shown])

    def resolve(self, kind: str | None, name: str, revision: str, file: str) -> None:
        repository = self._repository(kind, name)
        if repository.gated and self._account() != OWNER:
            raise RefusedError(403 if self.token else 401, "GatedRepo")
        commit = self._commit(repository, revision)
        if file not in repository.commits[commit]:
            raise RefusedError(404, "EntryNotFound")
        content = repository.commits[commit][file]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_git_id(content)}"'}
        if not file.endswith(LARGE):
            self._content(file, content, headers)
            return
        sha256 = _sha256(content)
        linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
        place = f"{self.hub.storage}/storage/{sha256}/{file}"
        self._send(302, b"", headers | linked | {"Location": place})

    def storage(self, sha256: str, file: str) -> None:
        if self.token:
            raise RefusedError(400, message="a token left the hub")
        self._content(file, self.hub.stored[sha256], {"ETag": f'"{sha256}"'})

    # What is uploaded.

    def create(self) -> None:
        requested = json.loads(self.body)
        name = f"{requested.get('organization') or OWNER}/{requested['name']}"
        self._require_owner(name)
        known = ("models", name) in self.hub.repositories
        if not known:
            private = requested.get("visibility") == "private" or bool(requested.get("private"))
            self.hub.publish("models", name, {".gitattributes": b""}, private=private)
        self._json({"url": f"{self.hub.endpoint}/{name}", "name": name}, 409 if known else 200)

    def validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        self._repository(kind, name)
        self._require_owner(name)
        files = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {file: "lfs" if file.endswith(LARGE) else "regular" for file in files}
        answer = [{"path": f, "uploadMode": m, "shouldIgnore": False} for f, m in modes.items()]
        self._json({"files": answer})

    def batch(self, kind: str | None, name: str) -> None:
        self._repository(kind, name)
        self._require_owner(name)
        objects = []
        for listed in json.loads(self.body)["objects"]:
            place = f"{self.hub.storage}/storage/{listed['oid']}/upload"
            actions = {"actions": {"upload": {"href": place}}}
            objects.append(listed | ({} if listed["oid"] in self.hub.stored else actions))
        self._json({"transfer": "basic", "objects": objects})

    def store(self, sha256: str, file: str) -> None:
        if _sha256(self.body) != sha256:
            raise RefusedError(400, message=f"{file}: other content")
        self.hub.stored[sha256] = self.body
        self._send(200, b"")

    def commit(self, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name)
        self._require_owner(name)
        files = dict(repository.commits[self._commit(repository, revision)])
        for line in self.body.decode().splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            elif item["key"] == "lfsFile":
                files[item["value"]["path"]] = self.hub.stored[item["value"]["oid"]]
        commit = repository.commit(files)
        url = f"{self.hub.endpoint}/{name}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": url})

    # How it is sent.

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _content(self, file: str, content: bytes, headers: dict[str, str]) -> None:
        start = 0
        if requested := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(requested[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if requested else 200, content[start:], headers, self._cut(file))

    def _cut(self, file: str) -> Cut | None:
        for end, cut in self.hub.cuts.items():
            if self.command == "GET" and file.endswith(end) and cut.times:
                cut.times -= 1
                return cut
        return None

    def _send(
        self,
        status: int,
        content: bytes,
        headers: Mapping[str, str] | None = None,
        cut: Cut | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            if value:
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[: cut.after] if cut else content)
        if cut and cut.reset:
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


_REPOSITORY = r"(?P<name>[^/]+/[^/]+)"
_API = rf"/api/(?P<kind>models|datasets)/{_REPOSITORY}"
_PLAIN = rf"/(?P<kind>datasets/)?{_REPOSITORY}"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", _API, _Handler.info),
    ("GET", rf"{_API}/revision/(?P<revision>.+)", _Handler.info),
    ("GET", rf"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", _Handler.tree),
    ("GET", r"/storage/(?P<sha256>\w+)/(?P<file>.+)", _Handler.storage),
    ("GET", rf"{_PLAIN}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", rf"{_API}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", rf"{_PLAIN}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/storage/(?P<sha256>\w+)/(?P<file>.+)", _Handler.store),
    ("POST", rf"{_API}/commit/(?P<revision>.+)", _Handler.commit),
]


def _entry(file: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": file, "size": len(content), "oid": _git_id(content)}
    if file.endswith(LARGE):
        entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
    return entry


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
