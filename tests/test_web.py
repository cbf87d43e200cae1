"""The page that draws by itself: its JavaScript computes what flowkit does, and it works in a browser."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from flowkit.cli import app
from flowkit.domain import Given
from flowkit.errors import UserError
from flowkit.export.server import Server
from flowkit.export.web import SITE, export_web, page_facts, page_tensors
from flowkit.registry import BUILT_IN
from flowkit.sampling.draw import Start
from flowkit.sampling.load import LoadedModel
from flowkit.sketch.bezier import points as bezier_points
from flowkit.sketch.strokes import as_row, tidy
from flowkit.sketch.svg_read import read_drawing
from flowkit.sketch.svg_write import svg
from tests.exported import FLOWS, SKETCHES, trained

ARCHITECTURES = [name for name in BUILT_IN["arch"] if name != "custom"]
NODE = shutil.which("node")


@pytest.fixture
def javascript(tmp_path: Path) -> Any:
    """Run a script in Node.js next to the page's modules, with `given` as JSON; return what it prints as JSON."""
    if NODE is None:
        pytest.skip("needs Node.js")
    site = tmp_path / "site"
    shutil.copytree(SITE, site)
    (site / "package.json").write_text('{"type": "module"}')

    def run(script: str, given: Any = None) -> Any:
        (site / "given.json").write_text(json.dumps(given))
        (site / "script.js").write_text(
            'import { readFileSync } from "node:fs"; const given = JSON.parse(readFileSync("given.json"));\n' + script
        )
        done = subprocess.run([NODE, "script.js"], cwd=site, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    run.site = site  # pyright: ignore[reportFunctionMemberAccess]
    return run


OPEN = """
import { Flow } from "./flow.js";
import { readTensors } from "./layers.js";
import { openNetwork } from "./networks.js";
const facts = JSON.parse(readFileSync("model.json"));
const bytes = readFileSync("model.safetensors");
const tensors = readTensors(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
const flow = new Flow(openNetwork(facts.architecture, facts.model_args, tensors, given.options), facts);
const print = (x) => console.log(JSON.stringify(Array.from(x)));
"""
SAMPLE = (
    OPEN
    + """
const noises = given.noises?.map((noise) => Float32Array.from(noise));
const completion = given.known && {
  known: Float32Array.from(given.known), tokens: Uint8Array.from(given.tokens), resample: given.resample, noise: (i) => noises[i],
};
print(await flow.sample(Float32Array.from(given.noise), { labels: given.labels, completion }));
"""
)


def opened(model: LoadedModel, site: Path) -> None:
    facts, _ = page_facts(model)
    (site / "model.json").write_text(json.dumps(facts))
    save_file(page_tensors(model), site / "model.safetensors")


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_networks(arch: str, tmp_path: Path, javascript: Any) -> None:
    """Guided samples of every architecture equal flowkit's, also without WebAssembly."""
    model = trained(tmp_path, arch, kind="points", model={"num_tokens": 1} if arch == "dit" else {})
    opened(model, javascript.site)
    noise = normal(0, 6, *model.latent_shape)
    for options in ({"simd": True}, {"simd": False}):
        given = {"noise": noise.ravel().tolist(), "labels": [0, 0, 1, 1, 2, 2], "options": options}
        found = np.array(javascript(SAMPLE, given)).reshape(noise.shape)
        np.testing.assert_allclose(found, model.sample(6, start=Start(noise=noise)).x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("arch", ["bezier_sketch_dit", "bezier_sketch_transformer", "residual_mlp"])
def test_networks_that_are_told_two_times_and_a_guidance_scale(arch: str, tmp_path: Path, javascript: Any) -> None:
    model = trained(tmp_path, arch, kind="points", **FLOWS["scales that it is told"])
    opened(model, javascript.site)
    noise = normal(0, 6, *model.latent_shape)
    given = {"noise": noise.ravel().tolist(), "labels": [0, 0, 1, 1, 2, 2]}
    found = np.array(javascript(SAMPLE, given)).reshape(noise.shape)
    np.testing.assert_allclose(found, model.sample(6, start=Start(noise=noise)).x, atol=1e-4, rtol=1e-4)


def test_vector_in_several_tokens(tmp_path: Path, javascript: Any) -> None:
    model = trained(tmp_path, "dit", kind="points", model={"num_tokens": 2})
    opened(model, javascript.site)
    noise = normal(0, 6, 2)
    given = {"noise": noise.ravel().tolist(), "labels": [0, 0, 1, 1, 2, 2]}
    found = np.array(javascript(SAMPLE, given)).reshape(6, 2)
    np.testing.assert_allclose(found, model.sample(6, start=Start(noise=noise)).x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_solvers(name: str, tmp_path: Path, javascript: Any) -> None:
    model = trained(tmp_path, "selu_mlp", kind="points", **FLOWS[name])
    opened(model, javascript.site)
    noise = normal(0, 6, 2)
    given = {"noise": noise.ravel().tolist(), "labels": [0, 0, 1, 1, 2, 2]}
    found = np.array(javascript(SAMPLE, given)).reshape(6, 2)
    np.testing.assert_allclose(found, model.sample(6, start=Start(noise=noise)).x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["velocity", "data"])
@pytest.mark.parametrize("arch", SKETCHES)
def test_completion_by_a_model_that_learned_it(arch: str, prediction: str, tmp_path: Path, javascript: Any) -> None:
    neighbors = {"neighbors": True} if arch == "bezier_sketch_dit" else {}
    model = trained(tmp_path, arch, pens=True, model=neighbors, flow={"given": 0.5, "prediction": prediction})
    opened(model, javascript.site)
    noise, row, tokens = normal(0, 3, 6, 10), as_row([normal(1, 2, 8) / 3], 6), np.arange(6) < 2
    given = {
        "noise": noise.ravel().tolist(), "known": np.tile(row, (3, 1, 1)).ravel().tolist(),
        "tokens": np.tile(tokens, 3).tolist(), "labels": [0, 1, 2],
    }  # fmt: skip
    found = np.array(javascript(SAMPLE, given), np.float32).reshape(noise.shape)
    wanted = model.sample(3, given=Given(row, tokens), start=Start(noise=noise)).x
    np.testing.assert_allclose(tidy(found, np.tile(tokens, (3, 1))), wanted, atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(found[:, :2], np.tile(row[:2], (3, 1, 1)))


def test_completion_by_any_other_model(tmp_path: Path, javascript: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(tmp_path, "bezier_sketch_dit", flow={"path": "cosine"})
    opened(model, javascript.site)
    noise, row, tokens = normal(0, 2, 6, 8), normal(1, 6, 8) / 3, np.arange(6) < 2
    noises = normal(2, 12, 2, 6, 8)  # 3 repetitions of 4 steps, each but the first from new noise
    from flowkit.sampling import draw

    monkeypatch.setattr(draw, "step_noise", lambda *args, **more: lambda number: torch.from_numpy(noises[number]))
    given = {
        "noise": noise.ravel().tolist(), "known": np.tile(row, (2, 1, 1)).ravel().tolist(),
        "tokens": np.tile(tokens, 2).tolist(), "labels": [0, 1], "resample": 3,
        "noises": noises.reshape(12, -1).tolist(),
    }  # fmt: skip
    found = np.array(javascript(SAMPLE, given)).reshape(noise.shape)
    how: dict[str, Any] = {"start": Start(noise=noise), "class_label": ["anchor", "boat"]}
    wanted = model.sample(2, given=Given(row, tokens), resample=3, **how).x
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)


def test_tidy(javascript: Any) -> None:
    x, fixed = normal(0, 60, 7, 10), np.random.default_rng(1).random((60, 7)) < 0.3
    script = 'import { tidy } from "./sketch.js"; const x = Float32Array.from(given.x);\n'
    script += "console.log(JSON.stringify([null, given.fixed].map((fixed) => Array.from(tidy(x, 7, fixed)))));"
    found = javascript(script, {"x": x.ravel().tolist(), "fixed": fixed.ravel().tolist()})
    for mine, wanted in zip(found, (tidy(x), tidy(x, fixed)), strict=True):
        np.testing.assert_allclose(np.array(mine).reshape(x.shape), wanted, atol=1e-6)


def test_svg_is_the_one_of_sample(javascript: Any) -> None:
    sketch = tidy(normal(0, 1, 7, 10) * 0.5)[0]
    script = 'import { svg } from "./sketch.js"; console.log(JSON.stringify(svg(given, 10, "a & b")));'
    numbers = lambda text: [float(one) for one in re.findall(r"-?\d+\.?\d*", text)]  # noqa: E731
    found, wanted = javascript(script, sketch.ravel().tolist()), svg(sketch, title="a & b")
    assert found.count("<path") == wanted.count("<path") > 1
    np.testing.assert_allclose(numbers(found.split("linejoin")[1]), numbers(wanted.split("linejoin")[1]), atol=2e-3)


def test_freehand_strokes_become_few_cubics(javascript: Any) -> None:
    t = np.linspace(0, 1, 120)
    shaky = np.random.default_rng(0).normal(0, 0.002, (120, 2))
    circle = np.stack([0.6 * np.cos(6.2 * t), 0.6 * np.sin(6.2 * t)], axis=1) + shaky
    corner = np.concatenate([np.stack([t[:60], 0 * t[:60]], 1), np.stack([0.5 + 0 * t[:60], t[:60]], 1)])
    script = 'import { fit, fitAll } from "./fit.js";\n'
    script += "console.log(JSON.stringify({strokes: given.map((points) => fit(points, 0.015)), few: fitAll(given, 0.015, 4)}));"
    found = javascript(script, [circle.tolist(), corner.tolist(), [[0.1, 0.2]]])
    for points, stroke, most in zip((circle, corner), found["strokes"], (6, 3), strict=False):
        cubics = np.array(stroke)
        assert 1 <= len(cubics) <= most
        np.testing.assert_array_equal(cubics[1:, :2], cubics[:-1, 6:])
        np.testing.assert_allclose([cubics[0, :2], cubics[-1, 6:]], [points[0], points[-1]])
        curve = bezier_points(cubics, np.linspace(0, 1, 200)).reshape(-1, 2)
        away = np.linalg.norm(points[:, None] - curve[None], axis=-1).min(axis=1)
        assert away.max() < 0.03
    assert len(found["strokes"][2]) == 1  # a dot
    assert sum(map(len, found["few"])) <= 4


def test_noise_is_normal(javascript: Any) -> None:
    script = 'import { normals } from "./flow.js";\n'
    script += "console.log(JSON.stringify(given.map((seed) => Array.from(normals(seed, 20001)))));"
    a, b, again = map(np.array, javascript(script, [1, 2, 1]))
    np.testing.assert_array_equal(a, again)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.03
    assert abs(a.mean()) < 0.03 and abs(a.std() - 1) < 0.03 and abs((a**4).mean() - 3) < 0.3


# --- the server and the commands ---


def asked(port: int, path: str = "/", host: str | None = None, method: str = "GET") -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=host is not None)
    if host:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of a small model that completes drawings, and its page."""
    folder = tmp_path_factory.mktemp("web")
    model = trained(folder, "bezier_sketch_dit", pens=True, flow={"given": 0.5}, sample={"steps": 10})
    export_web(model, folder / "site")
    return folder / "exported", folder / "site"


@pytest.fixture
def site(made: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[1], tmp_path / "site"))


@pytest.fixture
def served(site: Path) -> Iterator[Server]:
    with Server(site, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_server_answers_only_this_machine_with_files_of_the_page(served: Server, site: Path) -> None:
    port = served.server_port
    assert served.server_address[0] == "127.0.0.1"
    assert asked(port) == (200, (site / "index.html").read_bytes())
    assert asked(port, "/model.safetensors?v=1") == (200, (site / "model.safetensors").read_bytes())
    assert asked(port, "/app.js", f"localhost:{port}")[0] == 200
    assert asked(port, "/app.js", method="HEAD") == (200, b"")
    for host in (f"example.com:{port}", "example.com", f"127.0.0.1:{port + 1}", "127.0.0.1", f"[::]:{port}", ""):
        assert asked(port, "/", host)[0] == 421, host
    (site.parent / "secret").write_text("secret")
    (site / "later.txt").write_text("not part of the page")
    for path in (
        "/../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "//secret",
        "/.flowkit.json",
        "/later.txt",
        str(site / "app.js"),
    ):
        assert asked(port, path)[0] == 404, path


def test_busy_port_is_one_message(served: Server, site: Path) -> None:
    with pytest.raises(
        UserError, match=rf"--port: {served.server_port} is in use .* \(--port {served.server_port + 1}\)"
    ):
        Server(site, served.server_port)


def test_demo_serves_until_it_is_interrupted(made: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "flowkit", "demo", str(made[0]), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(re.search(r"127\.0\.0\.1:(\d+)/", line)[1])  # pyright: ignore[reportOptionalSubscript]
        for name in (path.name for path in SITE.iterdir()):
            assert asked(port, f"/{name}") == (200, (SITE / name).read_bytes())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


def test_what_the_page_cannot_draw(tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "makes rows": {"kind": "array"},
        "no input for this model's condition vectors": {"kind": "points", "condition": True},
        'undo the normalizer "whitening"': {"kind": "points", "normalizer": "whitening"},
    }
    for message, how in cases.items():
        with pytest.raises(UserError, match=re.escape(message)):
            page_facts(trained(tmp_path, "selu_mlp", **how))


def test_exported_again_replaces_its_files_and_no_others(made: tuple[Path, Path], site: Path) -> None:
    (site / "mine.txt").write_text("mine")
    run = CliRunner().invoke(app, ["export", str(made[0]), "--to", "web", "--out", str(site)])
    assert run.exit_code == 0, run.output
    assert "replaced" in run.output and "python -m http.server" in run.output
    assert (site / "mine.txt").exists() and (site / "model.json").exists()


# --- in a browser ---


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright")
    from playwright.sync_api import Error, sync_playwright  # pyright: ignore[reportMissingImports]

    with sync_playwright() as player:
        try:
            opened = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except Error as problem:
            pytest.skip(f"needs Chromium: {problem}")
        yield opened
        opened.close()


def visit(browser: Any, url: str, **how: Any) -> Any:
    """Open the page; any error in it, and any request to another host, fails the test."""
    page = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **how}).new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda said: said.type == "error" and page.problems.append(said.text))
    page.on("request", lambda request: request.url.startswith((url, "blob:")) or page.problems.append(request.url))
    page.goto(url)
    return page


def drawn(page: Any) -> str:
    """Wait for a finished picture; return what the page says about it."""
    page.locator("#status", has_text=re.compile(r" s$")).wait_for(timeout=20_000)
    return page.inner_text("#status")


def circle(page: Any, x: float = 0.5, y: float = 0.5, radius: float = 0.2) -> None:
    box = page.locator("#sheet").bounding_box()
    at = lambda angle: (  # noqa: E731
        box["x"] + box["width"] * (x + radius * np.cos(angle)), box["y"] + box["height"] * (y + radius * np.sin(angle)),
    )  # fmt: skip
    page.mouse.move(*at(0))
    page.mouse.down()
    for angle in np.linspace(0, 5.5, 30):
        page.mouse.move(*at(angle))
    page.mouse.up()


def test_draw_complete_and_download(served: Server, browser: Any, tmp_path: Path) -> None:
    page = visit(browser, served.url)
    drawn(page)
    assert page.locator("#sheet path").count() >= 1
    page.locator(".chip", has_text="boat").click()
    assert drawn(page).startswith("boat, seed ")

    circle(page, radius=0.1)
    page.locator("#complete:enabled").wait_for()
    assert page.locator("#sheet path").count() == page.locator("#sheet path.mine").count() == 1
    circle(page, 0.7, 0.3, radius=0.06)
    assert page.locator("#sheet path.mine").count() == 2
    page.keyboard.press("z")
    assert page.locator("#sheet path.mine").count() == 1
    own = page.locator("#sheet path.mine").get_attribute("d")
    for _ in range(10):  # a network of random weights may add nothing
        page.click("#complete")
        drawn(page)
        assert page.locator("#sheet path.mine").get_attribute("d") == own
        if added := page.locator("#sheet path:not(.mine)").count():
            break
    assert added
    with page.expect_download() as download:
        page.keyboard.press("d")
    download.value.save_as(tmp_path / "made.svg")
    assert download.value.suggested_filename.startswith("boat-")
    begun = read_drawing((tmp_path / "made.svg").read_bytes(), cut=False)[0][0]
    np.testing.assert_allclose(np.linalg.norm(begun[:, :2], axis=1), 0.2, atol=0.02)  # the circle, where it was drawn

    assert page.problems == []


def test_same_seed_same_drawing_and_time_can_be_scrubbed(served: Server, browser: Any) -> None:
    page = visit(browser, served.url)
    drawn(page)
    page.locator("summary").click()
    picture = lambda: [path.get_attribute("d") for path in page.locator("#sheet path").all()]  # noqa: E731
    made = []
    for seed in ("7", "8", "7"):
        page.fill("#seed", seed)
        page.keyboard.press("Enter")
        page.locator("#status", has_text=re.compile(rf"seed {seed}, .* s$")).wait_for()
        made.append(picture())
    assert made[0] == made[2] != made[1]
    page.locator("#scrub").fill("2")
    assert picture() != made[2]
    page.locator("#scrub").fill("10")
    assert picture() == made[2]
    page.locator("#guidance").fill("4")
    page.locator("#guidance").dispatch_event("change")
    drawn(page)
    assert picture() != made[2]
    page.locator(".thumb").nth(1).click()
    assert picture() == made[2]
    assert page.problems == []


def test_pen_moved_by_keyboard(served: Server, browser: Any) -> None:
    page = visit(browser, served.url)
    drawn(page)
    page.focus("#sheet")
    for key in (
        "Enter",
        *4 * ["ArrowRight"],
        *4 * ["ArrowDown"],
        "Enter",
        *3 * ["ArrowLeft"],
        "Enter",
        "ArrowUp",
        "Enter",
    ):
        page.keyboard.press(key)
    assert page.locator("#sheet path.mine").count() == 2
    page.keyboard.press("c")
    drawn(page)
    assert page.problems == []


def test_small_dark_touch_screen(served: Server, browser: Any) -> None:
    page = visit(browser, served.url, viewport={"width": 360, "height": 740}, has_touch=True, color_scheme="dark")
    drawn(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    for button in page.locator("button:visible, .chip").all():
        assert button.bounding_box()["height"] >= 32
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 24)"
    box = page.locator("#sheet").bounding_box()
    assert box["width"] > 280
    page.touchscreen.tap(box["x"] + 100, box["y"] + 100)
    assert page.locator("#sheet path.mine").count() == 1
    assert page.problems == []


def test_failures_are_shown(served: Server, browser: Any, site: Path) -> None:
    whole = (site / "model.safetensors").read_bytes()
    (site / "model.safetensors").write_bytes(whole[:-4])
    page = visit(browser, served.url)
    page.locator("#cover.failed").wait_for()
    assert "model.safetensors is not the file of this page" in page.inner_text("#cover-text")
    (site / "model.safetensors").write_bytes(whole)
    page.click("#retry")
    drawn(page)


def test_points_flow(browser: Any, tmp_path: Path) -> None:
    model = trained(tmp_path / "runs", "selu_mlp", kind="points")
    export_web(model, tmp_path / "site")
    with Server(tmp_path / "site", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = visit(browser, server.url)
        assert "1,500 points" in drawn(page)
        before = page.locator("#scatter").screenshot()
        page.locator(".chip", has_text="b").last.click()
        drawn(page)
        assert page.locator("#scatter").screenshot() != before
        with page.expect_download() as download:
            page.click("#download")
        assert Path(download.value.path()).read_text().count("h0") > 500
        assert page.problems == []
        server.shutdown()


def test_static_files_on_any_server(site: Path, browser: Any) -> None:
    """As `python -m http.server` serves them, without a network: the page asks no other host for anything."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", str(site)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        port = re.search(r"port (\d+)", process.stdout.readline())[1]  # pyright: ignore[reportOptionalSubscript]
        page = visit(browser, f"http://127.0.0.1:{port}/")
        drawn(page)
        assert page.problems == []
        process.terminate()
