"""Small recipes and data for tests that train: seconds on one core, real enough to be wrong."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from flowkit.text.codec import Codec

# Half the suite is small models: more threads than one only wait for each other, and sums stay the same on any machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
# Ignored, as in a script's background job, it would be so in all processes that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("FLOWKIT_MINI", "tiny")  # the miniature SONAR of the tests, and of the commands that they run


def needs_sonar() -> None:
    """Skip the calling test or module if the extra `sonar` is not installed; else make it importable, as flowkit does.

    Not `pytest.importorskip`: that imports sonar before flowkit has provided libsndfile, which the system may not have.
    """
    from flowkit.text.sonar_packages import provide_libsndfile

    for package in ("sonar", "sentencepiece"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install 'flowkit[sonar]'", allow_module_level=True)
    provide_libsndfile()


SHARED = Path(os.environ.get("FLOWKIT_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu = [item for item in items if "gpu" in item.keywords]
    if gpu:
        import torch

        if not torch.cuda.is_available():
            for item in gpu:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def compiler() -> None:
    """Skip a test that generates code where torch cannot compile it."""
    for command in (
        os.environ.get("CXX", "g++"),
        "openssl",
    ):  # torch hashes the header that it compiles once by the second
        if shutil.which(command) is None:
            pytest.skip(f"torch compiles with {command}, which is not installed")


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Miniatures are trained into a folder of this test run, for all its processes; the user's own is left alone."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    os.environ["FLOWKIT_CACHE"] = str(folder / "flowkit-cache")
    return folder / "flowkit-cache"


@pytest.fixture(scope="module", autouse=True)
def imports_are_no_garbage() -> None:
    """Every training ends with a garbage collection: half a second each, were it to walk all that torch has imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def mini_codec(cache_of_the_tests: Path) -> Codec:
    """A small miniature SONAR, trained in some seconds once a test run: D = 96, most words right, half the sentences."""
    needs_sonar()
    from flowkit.text.codec import open_codec

    return open_codec("mini-sonar", device="cpu")


@pytest.fixture
def shared_data() -> Path:
    """Real data next to the project, if there is any."""
    if not SHARED.is_dir():
        pytest.skip("no real data beside the project")
    return SHARED


def sketch_rows(rows: int = 96, num_strokes: int = 6, classes: int = 3, seed: int = 0) -> dict[str, Any]:
    """Rows (N, S, 8) of `classes` separate clusters, with labels: what a class-only model can tell apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    centers = rng.uniform(-0.6, 0.6, (classes, num_strokes, 8))
    x = centers[labels] + 0.1 * rng.standard_normal((rows, num_strokes, 8))
    names = ("anchor", "boat", "cat", "dog", "elephant")[:classes]
    return {"x": x.astype(np.float32), "class_label": labels, "class_names": names, "kind": "sketch"}


@pytest.fixture
def rows() -> dict[str, Any]:
    return sketch_rows()


@pytest.fixture
def few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation by 64 rows, noises and times, which is enough where its loss is not the point: 1,024 take longer than all
    the updates of such a run."""
    from flowkit.training import validation

    monkeypatch.setattr(validation, "MIN_EVALUATIONS", 64)


@pytest.fixture
def tiny(tmp_path: Path, few_evaluations: None) -> dict[str, Any]:
    """A recipe as a mapping: a two-layer DiT, 8 updates, nothing but the last checkpoint."""
    return {
        "run": {"name": "tiny", "dir": str(tmp_path / "runs")},
        "data": {"source": "doodles", "num_samples": 64, "val_fraction": 0.25},
        "model": {"arch": "bezier_sketch_dit", "embed_dim": 32, "num_layers": 2, "num_heads": 4},
        "optim": {"lr": 1e-3},
        "train": {"steps": 8, "batch_size": 16, "log_every": 4, "val_every": "never", "save_every": "never"},
        "sample": {"every": "never", "num_samples": 3, "steps": 2},
    }


class Recorder:
    """A listener that keeps the events."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.closed = True

    def __call__(self, event: Any) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()
