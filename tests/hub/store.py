"""What `server` serves: repositories with commits, branches and tags, and blobs by digest, on disk."""

import fnmatch
import hashlib
import json
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

# The suffixes in the .gitattributes of a new repository on the Hub that a model may have.
_LARGE = (
    "7z", "arrow", "bin", "ckpt", "gz", "h5", "joblib", "model", "msgpack", "npy", "npz", "onnx", "parquet", "pickle",
    "pkl", "pt", "pth", "safetensors", "tar", "tflite", "zip", "zst",
)  # fmt: skip


class HubError(Exception):
    """An answer other than 200: status, X-Error-Code, X-Error-Message."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers


class Store:
    """Repositories as JSON and blobs by sha256, under `root`."""

    def __init__(self, root: Path) -> None:
        self.root, self.lock = root, threading.RLock()
        self.renames: dict[str, str] = {}  # old name to new name; requests are redirected
        (root / "blobs").mkdir(parents=True, exist_ok=True)
        self.repos: dict[str, dict[str, Any]] = {
            path.relative_to(root / "repos").as_posix().removesuffix(".json"): json.loads(path.read_text())
            for path in root.glob("repos/**/*.json")
        }

    def create(self, repo_id: str, private: bool) -> None:
        with self.lock:
            if repo_id in self.repos:
                raise HubError(409, "You already created this model repo")
            self.repos[repo_id] = {"private": private, "branches": {}, "tags": {}, "commits": {}}
            lines = [f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in _LARGE]
            attributes = self.add_blob("".join(lines).encode())
            self.commit(repo_id, "main", "initial commit", {".gitattributes": {**attributes, "lfs": False}}, [])

    def rename(self, repo_id: str, new: str) -> None:
        with self.lock:
            self.repos[new] = self.repos.pop(repo_id)
            self.renames[repo_id] = new

    def is_large(self, repo: dict[str, Any], sha: str, path: str) -> bool:
        """Say whether the repository's .gitattributes send a file to large file storage."""
        entry = repo["commits"][sha]["files"].get(".gitattributes")
        lines = self.blob(entry["sha256"]).read_text().splitlines() if entry else []
        patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns for name in (path, path.split("/")[-1]))

    def repo(self, repo_id: str, may_see_private: bool = True) -> dict[str, Any]:
        if repo_id not in self.repos or (self.repos[repo_id]["private"] and not may_see_private):
            raise HubError(404 if may_see_private else 401, "Repository not found", "RepoNotFound")
        return self.repos[repo_id]

    def resolve(self, repo: dict[str, Any], revision: str) -> str:
        sha = repo["branches"].get(revision) or repo["tags"].get(revision) or revision
        if sha not in repo["commits"]:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def entry(self, repo: dict[str, Any], sha: str, path: str) -> dict[str, Any]:
        files = repo["commits"][sha]["files"]
        if path not in files:
            raise HubError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": sha})
        return files[path]

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def add_blob(self, content: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(content).hexdigest()
        self.blob(sha256).write_bytes(content)
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"oid": oid, "sha256": sha256, "size": len(content)}

    def commit(
        self,
        repo_id: str,
        branch: str,
        title: str,
        added: dict[str, Any],
        deleted: list[str],
        parent: str = "",
    ) -> str:
        with self.lock:
            repo = self.repos[repo_id]
            head = repo["branches"].get(branch, "")
            if parent and parent != head:
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            files = {**repo["commits"][head]["files"], **added} if head else added
            files = {path: entry for path, entry in files.items() if path not in deleted}
            date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            commit = {"title": title, "parent": head, "date": date, "files": files}
            text = json.dumps({**commit, "at": time.time_ns()}, sort_keys=True)
            sha = hashlib.sha1(text.encode()).hexdigest()
            repo["commits"][sha] = commit
            repo["branches"][branch] = sha
            self.save(repo_id)
            return sha

    def save(self, repo_id: str) -> None:
        path = self.root / "repos" / f"{repo_id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.repos[repo_id]))
