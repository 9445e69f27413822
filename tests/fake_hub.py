"""A small stand-in for huggingface.co on this machine: what the library asks of it, and the ways in which it fails."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@dataclass
class Repo:
    """A repository: its files, its commit, and what is wrong with it."""

    files: dict[str, bytes]
    sha: str = "a" * 40
    gated: bool = False  # files are refused until a licence is accepted
    ranges: bool = True  # requests for a part of a file are answered with that part
    portal: bool = False  # a page of the network's answers in its place, as in a hotel
    cuts: int = 0  # how many more downloads end half way
    lost: frozenset[str] = frozenset()  # files of which only parts can be had, their download is never answered
    damaged: frozenset[str] = frozenset()  # files that arrive whole, with one bit of their last byte turned

    @classmethod
    def of(cls, folder: Path) -> Repo:
        files = (file for file in folder.rglob("*") if file.is_file())
        return cls({str(file.relative_to(folder)): file.read_bytes() for file in files})


@dataclass
class FakeHub:
    """Repositories by name, and what has been asked of them."""

    repos: dict[str, Repo]
    url: str = ""
    asked: list[str] = field(default_factory=list)  # METHOD /path
    sent: dict[str, int] = field(default_factory=dict)  # bytes of each file's content that went out, by owner/name/file
    committed: list[dict[str, object]] = field(default_factory=list)  # lines of commits that were uploaded

    @contextmanager
    def running(self) -> Iterator[FakeHub]:
        handler = type("Handler", (_Handler,), {"hub": self})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield self
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0])
        self.hub.asked.append(f"{self.command} {path}")
        words = path.strip("/").split("/")
        api = words[:2] == ["api", "models"]
        name = "/".join(words[2:4] if api else words[:2])
        repo = self.hub.repos.get(name)
        if repo is None:
            self._answer(401, {"X-Error-Code": "RepoNotFound"})
        elif repo.portal:
            page = b"<html>Accept our terms</html>"
            self._answer(200, {"Content-Type": "text/html"}, page, len(page))
        elif not api:
            self._file(name, repo, words[3], "/".join(words[4:]))
        elif words[4:5] == ["tree"]:
            entries = [{"type": "file", "path": p, "size": len(c), "oid": _sha1(c)} for p, c in repo.files.items()]
            self._json(entries)
        elif words[4:5] == ["revision"] and words[5] not in ("main", repo.sha):
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [{"rfilename": p, "size": len(c), **_pointer(p, c)} for p, c in repo.files.items()]
            self._json({"id": name, "sha": repo.sha, "siblings": siblings})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.asked.append(f"POST {self.path}")
        if self.path == "/api/repos/create":
            made = json.loads(body)
            self._json({"url": f"{self.hub.url}/{made['organization']}/{made['name']}"})
        elif "/preupload/" in self.path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            self._json({"files": [file | {"shouldIgnore": False} for file in files]})
        elif "/commit/" in self.path:
            self.hub.committed += [json.loads(line) for line in body.splitlines()]
            name = "/".join(self.path.split("/")[3:5])
            self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{'b' * 40}", "commitOid": "b" * 40})
        else:  # is the card's header valid?
            self._json({"errors": [], "warnings": []})

    def _file(self, name: str, repo: Repo, revision: str, file: str) -> None:
        if file in repo.lost and "Range" not in self.headers:
            self.close_connection = True
            return
        if repo.gated:
            return self._answer(403, {"X-Error-Code": "GatedRepo"})
        if file not in repo.files or revision not in ("main", repo.sha):
            return self._answer(404, {"X-Error-Code": "EntryNotFound"})
        content = repo.files[file]
        headers = {"ETag": f'"{_sha256(content)}"', "X-Repo-Commit": repo.sha}
        if file in repo.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        asked = self.headers.get("Range")
        if self.command == "HEAD" or asked is None or not repo.ranges:
            return self._content(f"{name}/{file}", repo, 200, headers, content)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        end = int(last) + 1 if last else len(content)
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
        self._content(f"{name}/{file}", repo, 206, headers, content[int(first) : end])

    def _content(self, key: str, repo: Repo, status: int, headers: dict[str, str], content: bytes) -> None:
        cut = repo.cuts > 0 and self.command == "GET" and len(content) > 10_000 and "Range" not in self.headers
        if cut:
            repo.cuts -= 1
            self.close_connection = True
        sent = 0 if self.command == "HEAD" else len(content) // 2 if cut else len(content)
        self.hub.sent[key] = self.hub.sent.get(key, 0) + sent
        self._answer(status, headers, content, sent)

    def _json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self._answer(200, {"Content-Type": "application/json"}, content, len(content))

    def _answer(self, status: int, headers: dict[str, str], content: bytes = b"", sent: int = 0) -> None:
        """The headers of all of `content`, and the first `sent` bytes of it."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:sent])


def _pointer(path: str, content: bytes) -> dict[str, object]:
    """What the Hub says of a file's content: its SHA-256 for a large one, by which its cache keeps it, else git's."""
    lfs = {"sha256": _sha256(content), "size": len(content), "pointerSize": 130}
    return {"lfs": lfs} if path.endswith(".safetensors") else {"blobId": _sha1(b"blob %d\0" % len(content) + content)}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
