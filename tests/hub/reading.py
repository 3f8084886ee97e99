"""Requests that change nothing, one function each."""

import json
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.hub.store import HubError

if TYPE_CHECKING:
    from tests.hub.protocol import Handler

USER = "tester"
REPO = r"(?P<repo_id>(datasets/)?[^/]+/[^/]+)"
MODEL = rf"/api/models/{REPO}"


def whoami(handler: "Handler") -> None:
    if not handler.known:
        raise HubError(401, "Invalid username or password.")
    handler.reply({"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}})


def info(handler: "Handler", repo_id: str, revision: str = "main") -> None:
    repo, sha = handler.find(repo_id, revision)
    siblings = [{"rfilename": path} for path in repo["commits"][sha]["files"]]
    handler.reply({"id": repo_id, "modelId": repo_id, "sha": sha, "private": repo["private"], "siblings": siblings})


def models(handler: "Handler") -> None:
    handler.reply(
        [{"id": name, "modelId": name} for name, repo in handler.hub.store.repos.items() if not repo["private"]]
    )


def paths_info(handler: "Handler", repo_id: str, revision: str) -> None:
    repo, sha = handler.find(repo_id, revision)
    paths = parse_qs(handler.body.decode())["paths"]
    files = repo["commits"][sha]["files"]
    entries = [file_entry(path, files[path]) for path in paths if path in files]
    folders = [path for path in paths if any(name.startswith(f"{path}/") for name in files)]
    handler.reply(entries + [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders])


def tree(handler: "Handler", repo_id: str, revision: str, folder: str = "") -> None:
    repo, sha = handler.find(repo_id, revision)
    files = {p: e for p, e in repo["commits"][sha]["files"].items() if not folder or p.startswith(f"{folder}/")}
    if folder and not files:
        raise HubError(404, f"{folder} does not exist", "EntryNotFound")
    entries, folders = [], set()
    recursive = parse_qs(urlsplit(handler.path).query).get("recursive", ["false"])[0].lower() == "true"
    for path, entry in files.items():
        below = path.removeprefix(f"{folder}/").split("/")
        parents = {path.removesuffix("/".join(below)) + "/".join(below[:i]) for i in range(1, len(below))}
        folders |= parents if recursive else {min(parents)} if parents else set()
        entries += [file_entry(path, entry)] if recursive or not parents else []
    handler.reply_page(entries + [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)])


def history(handler: "Handler", repo_id: str, revision: str) -> None:
    repo, sha = handler.find(repo_id, revision)
    commits = []
    while sha:
        commit = repo["commits"][sha]
        commits.append(
            {
                "id": sha,
                "title": commit["title"],
                "message": "",
                "authors": [{"user": USER}],
                "date": commit["date"],
            }
        )
        sha = commit["parent"]
    handler.reply_page(commits)


def refs(handler: "Handler", repo_id: str) -> None:
    repo, _ = handler.find(repo_id)
    kinds = {
        kind: [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in repo[kind].items()]
        for kind in ("branches", "tags")
    }
    handler.reply({**kinds, "converts": []})


def validate_yaml(handler: "Handler") -> None:
    content = json.loads(handler.body)["content"]
    match = re.match(r"---\n(.*?)\n---\n", content, flags=re.DOTALL)
    try:
        sound = match is None or isinstance(yaml.safe_load(match[1]), dict)
    except yaml.YAMLError:
        sound = False
    errors = [] if sound else [{"message": "the metadata is not a YAML mapping"}]
    warnings = [] if match else [{"message": "empty or missing yaml metadata in repo card"}]
    handler.reply({"errors": errors, "warnings": warnings}, 200 if sound else 400)


def xet_token(handler: "Handler", repo_id: str, revision: str) -> None:
    handler.find(repo_id, revision)
    if not handler.hub.xet:
        raise HubError(404, "Xet is not enabled for this repository")
    access = {"casUrl": handler.hub.xet, "accessToken": "xet", "exp": int(time.time()) + 900}
    headers = {
        "X-Xet-Cas-Url": handler.hub.xet,
        "X-Xet-Access-Token": "xet",
        "X-Xet-Token-Expiration": str(access["exp"]),
    }
    handler.reply(access, **headers)


def download(handler: "Handler", repo_id: str, revision: str, path: str) -> None:
    repo, sha = handler.find(repo_id, revision)
    entry = handler.hub.store.entry(repo, sha, path)
    content = handler.hub.store.blob(entry["sha256"]).read_bytes()
    etag = f'"{entry["sha256" if entry["lfs"] else "oid"]}"'
    headers = {
        "ETag": etag,
        "X-Repo-Commit": sha,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
    }
    if entry["lfs"]:
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(entry["size"])}
        if handler.hub.xet:
            route = f"{handler.hub.endpoint}/api/models/{repo_id}/xet-read-token/{sha}"
            headers |= {"X-Xet-Hash": entry["sha256"], "X-Xet-Refresh-Route": route}
        if not handler.is_content_origin:
            location = f"{handler.hub.content_endpoint}/{repo_id}/resolve/{sha}/{path}?signature=x"
            handler.send(b"", 302, **headers, Location=location)
            return
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    if not wanted:
        handler.send(content, **headers)
        return
    first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
    if first > last:
        raise HubError(416, "range not satisfiable", **{"Content-Range": f"bytes */{len(content)}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
    handler.send(content[first : last + 1], 206, **headers)


def file_entry(path: str, entry: dict[str, Any]) -> dict[str, Any]:
    lfs = {"oid": entry["sha256"], "size": entry["size"], "pointerSize": 134}
    plain = {"type": "file", "path": path, "oid": entry["oid"], "size": entry["size"]}
    return {**plain, **({"lfs": lfs} if entry["lfs"] else {})}


ROUTES = [
    ("GET", r"/api/whoami-v2", whoami),
    ("POST", r"/api/validate-yaml", validate_yaml),
    ("GET", r"/api/models", models),
    ("GET", rf"{MODEL}(/revision/(?P<revision>[^/]+))?", info),
    ("POST", rf"{MODEL}/paths-info/(?P<revision>[^/]+)", paths_info),
    ("GET", rf"{MODEL}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", tree),
    ("GET", rf"{MODEL}/commits/(?P<revision>[^/]+)", history),
    ("GET", rf"{MODEL}/refs", refs),
    ("GET", rf"{MODEL}/xet-(read|write)-token/(?P<revision>[^/]+)", xet_token),
    ("GET", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", download),
    ("HEAD", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", download),
]
