"""Models on the Hugging Face Hub, with the real client and a server of this test that speaks the few endpoints."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import flowkit
from flowkit.checkpoint import find_checkpoint
from flowkit.cli import app
from flowkit.data.dataset import read_dataset
from flowkit.errors import UserError
from flowkit.hub import download
from tests.exported import trained

TOKEN = "hf_of_this_test"


class Hub(ThreadingHTTPServer):
    """Repositories in memory: name -> {"private", "versions": [files]}. A version's revision is the hash of its number."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: dict[str, dict[str, Any]] = {}
        self.paths: list[str] = []
        self.fails_commits = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def revision_of(number: int) -> str:
    return hashlib.sha1(str(number).encode()).hexdigest()


class Answer(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None: ...

    def say(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.server.paths.append(path)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if path == "/api/whoami-v2":
            return self.say(200, {"name": "me"}) if known else self.say(401, {"error": "Invalid username or password."})
        if path == "/api/validate-yaml":  # of the card
            return self.say(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            made = self.server.repositories.setdefault(name, {"private": asked.get("private", False), "versions": []})
            assert made["private"] == asked.get("private", False) or made["versions"]
            return self.say(200, {"url": f"{self.server.url}/{name}", "name": name, "id": name})
        found = re.fullmatch(
            r"(?:/api/models)?/(\w+/[\w-]+)(?:/(preupload|commit|revision|resolve)/([\w.]+)(?:/(.+))?)?", path
        )
        if found is None:
            return self.say(404)
        name, action, revision, file = found.groups()
        repository = self.server.repositories.get(name)
        if repository is None or (repository["private"] and not known):
            return self.say(401 if not known else 404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        versions = repository["versions"]
        if action == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self.say(200, {"files": files})
        if action == "commit":
            if self.server.fails_commits:
                return self.say(400, {"error": "this server is full"})
            lines = [json.loads(line) for line in body.splitlines()]
            new = {
                one["value"]["path"]: base64.b64decode(one["value"]["content"]) for one in lines if one["key"] == "file"
            }
            versions.append({**(versions[-1] if versions else {}), **new})
            url = f"{self.server.url}/{name}/commit/{revision_of(len(versions) - 1)}"
            return self.say(200, {"success": True, "commitOid": revision_of(len(versions) - 1), "commitUrl": url})
        newest = len(versions) - 1
        numbers = {"main": newest, None: newest, **{revision_of(number): number for number in range(len(versions))}}
        if revision not in numbers:
            return self.say(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        number = numbers[revision]
        files = versions[number] if versions else {}
        if action == "resolve":
            etag = f'"{hashlib.sha1(files[file]).hexdigest()}"'
            return self.say(200, files[file], ETag=etag, X_Repo_Commit=revision_of(number))
        siblings, private = [{"rfilename": one} for one in files], repository["private"]
        found = {"id": name, "sha": revision_of(number), "private": private, "siblings": siblings, "tags": []}
        return self.say(200, found)

    do_GET = do_POST = do_HEAD = answer


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    package = pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    download.cache_clear()
    monkeypatch.chdir(tmp_path)
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        monkeypatch.setattr(package.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        original = package.HfApi.__init__
        monkeypatch.setattr(
            package.HfApi, "__init__", lambda self, *a, **k: original(self, *a, **{"endpoint": server.url, **k})
        )
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    trained(folder, "selu_mlp", kind="points")
    return folder / "exported"


def command(*words: Any) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_pushed_models_sample_as_the_run_does(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = command("push", run, "me/points", "--license", "mit")
    assert done.exit_code == 0, done.output + str(done.exception)
    assert f"{hub.url}/me/points  private, " in done.output
    repository = hub.repositories["me/points"]
    assert repository["private"] is True
    assert set(repository["versions"][0]) == {
        "README.md",
        "model.json",
        "model.safetensors",
        "ema.safetensors",
        "checksums.json",
    }

    monkeypatch.chdir(tmp_path)
    wanted = flowkit.load(run).sample(4, seed=3).x
    model = flowkit.load("hf://me/points")
    np.testing.assert_array_equal(model.sample(4, seed=3).x, wanted)
    done = command("sample", "--ckpt", "hf://me/points", "-n", 4, "--seed", 3, "--no-preview")
    assert done.exit_code == 0, done.output + str(done.exception)
    drawn = tmp_path / "points" / "samples" / "samples.safetensors"  # not in the cache
    np.testing.assert_array_equal(read_dataset(drawn).x, wanted)
    done = command("inspect", "hf://me/points", "--json")
    assert json.loads(done.stdout)["what"] == "checkpoint"
    done = command("sample", "hf://me/points", "--weights", "raw", "-n", 2, "--no-preview", "--out", "raw")
    assert done.exit_code == 0, done.output


def test_card_says_what_it_is(hub: Hub, run: Path) -> None:
    assert command("push", run, "me/points", "--license", "mit").exit_code == 0
    files = hub.repositories["me/points"]["versions"][0]
    card, sidecar = files["README.md"].decode(), files["model.json"].decode()
    front = card.split("---")[1]
    assert 'license: "mit"' in front and "library_name: flowkit" in front
    parts = ("selu_mlp", "Trained for | 2 updates", "flowkit sample --ckpt hf://me/points", 'class_label="a"')
    for part in (*parts, "Not evaluated", "## Limits", "[flow]"):
        assert part in card, part
    assert str(run.parent) not in card + sidecar  # paths of this machine
    assert json.loads(sidecar)["recipe"]["run"]["dir"] == "runs"
    folder = run / "evaluation" / "one"
    folder.mkdir(parents=True)
    figure = {
        "name": "Sliced distance", "good": "lower is better", "unit": "%", "scale": 100.0,
        "samples": {"value": 0.123, "low": 0.1, "high": 0.15}, "real": {"value": 0.02, "low": 0.01, "high": 0.03},
    }  # fmt: skip
    content = {
        "format": 1,
        "protocol": "1",
        "title": "",
        "figures": {"sliced": figure},
        "settings": {"asked": {"step": 2}},
    }
    (folder / "evaluation.json").write_text(json.dumps(content))
    try:
        assert command("push", run, "me/points", "--update").exit_code == 0
    finally:
        (folder / "evaluation.json").unlink()
    card = hub.repositories["me/points"]["versions"][1]["README.md"].decode()
    assert "| Sliced distance | 12.3% (10 to 15) | 2% (1 to 3) |  | lower is better |" in card
    assert "license" not in card.split("---")[1] and "not stated by the author" in card


def test_absolute_paths_are_not_uploaded(hub: Hub, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree((run / "checkpoints" / "latest").resolve(), tmp_path / "copy"))
    (copy / "checksums.json").unlink()
    content = json.loads((copy / "model.json").read_text())
    content["recipe"]["data"]["source"] = content["data"]["source"] = "/home/somebody/private/points.safetensors"
    (copy / "model.json").write_text(json.dumps(content))
    done = command("push", copy, "me/points")
    assert done.exit_code == 0 and "shortened 3 absolute paths" in done.output
    files = hub.repositories["me/points"]["versions"][0]
    assert b"somebody" not in files["README.md"] + files["model.json"]
    assert json.loads(files["model.json"])["data"]["source"] == "points.safetensors"


def test_existing_names_versions_and_visibility(hub: Hub, run: Path) -> None:
    assert command("push", run, "me/open", "--public").exit_code == 0
    assert hub.repositories["me/open"]["private"] is False
    again = command("push", run, "me/open")
    assert "me/open: exists already" in str(again.exception) and "--update" in str(again.exception)
    assert len(hub.repositories["me/open"]["versions"]) == 1
    assert command("push", run / "checkpoints" / "latest", "me/open", "--update").exit_code == 0
    assert len(hub.repositories["me/open"]["versions"]) == 2
    first = find_checkpoint(f"hf://me/open@{revision_of(0)}").directory
    assert first.name == revision_of(0) and find_checkpoint("hf://me/open").directory.name == revision_of(1)
    with pytest.raises(UserError, match="no such revision"):
        find_checkpoint("hf://me/open@v9")


def test_only_tensors_and_json_are_downloaded(hub: Hub, run: Path) -> None:
    assert command("push", run, "me/points").exit_code == 0
    files = hub.repositories["me/points"]["versions"][0]
    files["evil.py"] = files["pytorch_model.bin"] = b"import os"
    folder = find_checkpoint("hf://me/points").directory
    assert {path.name for path in folder.iterdir()} == {
        "model.json",
        "model.safetensors",
        "ema.safetensors",
        "checksums.json",
    }
    assert not any(path.endswith((".py", ".bin", ".md")) for path in hub.paths if "/resolve/" in path)
    broken = {**files, "model.safetensors": files["model.safetensors"][:-1] + b"\0"}
    hub.repositories["me/points"]["versions"].append(broken)
    download.cache_clear()
    with pytest.raises(UserError, match="checksum mismatch"):
        flowkit.load("hf://me/points", weights="raw")


def test_without_login(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("push", run, "me/points").exit_code == 0
    monkeypatch.delenv("HF_TOKEN")
    for failed in (command("push", run, "me/other"), command("sample", "hf://me/points")):
        assert isinstance(failed.exception, UserError) and "hf auth login" in str(failed.exception)
    assert "me/other" not in hub.repositories
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not accept the token" in str(command("push", run, "me/other").exception)


def test_what_goes_wrong_is_one_message(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says = lambda *words: str(command(*words).exception)  # noqa: E731
    assert "expected user/name" in says("push", run, "points")
    assert "expected hf://user/name" in says("sample", "hf://points")
    assert "no such model on the Hub, or it is private" in says("sample", "hf://me/none")
    assert "mutually exclusive" in says("push", run, "me/points", "--public", "--update")
    hub.fails_commits = True
    assert "To continue, add --update" in says("push", run, "me/points")
    hub.fails_commits = False
    assert command("push", run, "me/points", "--update").exit_code == 0
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    download.cache_clear()
    assert "pip install 'flowkit[hub]'" in says("sample", "hf://me/points")
    assert "pip install 'flowkit[hub]'" in says("push", run, "me/points")
