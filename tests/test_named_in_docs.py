"""What docstrings, comments, messages, recipes and Markdown pages name exists: keys, identifiers, metrics, links."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowkit.events import Logged, Sampled, Validated
from flowkit.recipe import Recipe
from flowkit.recipe.describe import key_table
from flowkit.training.trackers import metrics_of

ROOT = Path(__file__).parents[1]
CODE = sorted(path for path in (ROOT / "flowkit").rglob("*.py") if path.name != "renamed.py")  # old keys stand there
MARKDOWN = [
    ROOT / "README.md",
    *sorted(page for folder in ("flowkit", "recipes", "accelerate_configs") for page in (ROOT / folder).rglob("*.md")),
    ROOT / "tests" / "benchmarks" / "README.md",
]
PAGES = [*MARKDOWN, *sorted((ROOT / "recipes").glob("*.toml")), *sorted((ROOT / "accelerate_configs").glob("*.yaml"))]
KEY = re.compile(rf"(?<![\w./\\-])(?:{'|'.join(Recipe.model_fields)})(?:\.[a-z_]\w*)+(?![\w(/]|\.\w)")
SUFFIXES = {
    "css",
    "gif",
    "html",
    "js",
    "json",
    "jsonl",
    "md",
    "npz",
    "onnx",
    "pt",
    "py",
    "safetensors",
    "svg",
    "toml",
    "txt",
    "yaml",
}
KEYS = {row.dotted for row in key_table()}
ATTRIBUTES = {"data.x", "data.info", "data.noise", "model.files", "model.history"}  # of a Dataset and of a LoadedModel
KNOWN = KEYS | {key.rpartition(".")[0] for key in KEYS} | ATTRIBUTES | {"ema.snapshot_"}  # a prefix of two
ELSEWHERE = {"nn.MultiheadAttention", "predict"}  # of torch and of sonar-space
ELSEWHERE |= {"sbatch", "srun", "scancel", "FLOWKIT_MOST_RESTARTS"}  # of Slurm and of accelerate_configs/slurm.sbatch
Said = tuple[str, str]  # where, and the text


def wrong_keys(text: str) -> list[str]:
    return [found for found in KEY.findall(text) if found not in KNOWN and found.rpartition(".")[2] not in SUFFIXES]


def is_docstring(node: ast.AST) -> ast.Constant | None:
    """The docstring of a module, class or function."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) or ast.get_docstring(node) is None:
        return None
    first = node.body[0]
    assert isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return first.value


def prose(path: Path) -> Iterator[Said]:
    """Docstrings and comments."""
    text, name = path.read_text("utf-8"), str(path.relative_to(ROOT))
    for node in ast.walk(ast.parse(text)):
        if (found := is_docstring(node)) is not None:
            yield f"{name}:{found.lineno}", str(found.value)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield f"{name}:{token.start[0]}", token.string


def strings(path: Path) -> Iterator[Said]:
    """Messages and all other strings, including docstrings."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def pages() -> Iterator[Said]:
    for path in PAGES:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


@pytest.fixture(scope="module")
def names() -> set[str]:
    """Every identifier of the code, every word of its strings, and the names of its files."""
    tests = list((ROOT / "tests").rglob("*.py"))
    found = {part for path in (*CODE, *PAGES, *tests) for part in (path.name, path.stem, path.parent.name)} | ELSEWHERE
    found |= {"flowkit", "tests"}
    for path in CODE:
        tree = ast.parse(path.read_text("utf-8"))
        docstrings = {id(one) for node in ast.walk(tree) if (one := is_docstring(node)) is not None}
        for node in ast.walk(tree):
            for field in ("id", "attr", "arg", "name"):
                if isinstance(name := getattr(node, field, None), str):
                    found.update(name.split("."))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found.update(re.findall(r"\w+", node.value))
    return found


def test_the_check_detects_a_missing_key():
    said = (
        "train.batch_size, train.batchsize: lower optim.lr, optim.rate or flow.path.sigma, flow.path.tau; see data.json"
    )
    assert wrong_keys(said) == ["train.batchsize", "optim.rate", "flow.path.tau"]


def test_recipe_keys_that_are_named_exist():
    said = [one for path in CODE for one in (*strings(path), *prose(path))]
    descriptions = [(row.dotted, row.description) for row in key_table()]
    wrong = {(where, name) for where, text in (*said, *descriptions, *pages()) for name in wrong_keys(text)}
    assert not wrong


def test_identifiers_in_backticks_exist(names):
    """In Markdown pages too, where they are file names, keys or values."""
    said = [one for path in CODE for one in prose(path)] + [one for one in pages() if ".md:" in one[0]]
    wrong = {
        (where, found)
        for where, text in said
        for found in re.findall(r"`([A-Za-z_][\w.]*)(?:\(\))?`", text)
        if found not in names and not set(found.strip(".").split(".")) <= names
    }
    assert not wrong


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_have_targets(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.is_file(), target
        assert not anchor or anchor in anchors(found), target


def test_every_page_is_one_or_two_clicks_from_the_readme():
    def linked(page: Path) -> set[Path]:
        targets = re.findall(r"\]\(([^)#\s]+\.md)", page.read_text("utf-8"))
        return {(page.parent / target).resolve() for target in targets if "://" not in target}

    first = linked(ROOT / "README.md")
    assert set(MARKDOWN) <= {ROOT / "README.md"} | first | {page for one in first for page in linked(one)}


def test_documented_metrics_are_written():
    logged = Logged(1, 0.1, 1.0, 1e-3, 1.0, 0.9, 10.0, 0.0, 0)
    validated = Validated(1, 1.0, 1.0, 2.0, ((0.0, 1.0, 1.0),), True, {"full": 1.0})
    sampled = Sampled(1, (), Path("x"), 2, 0.1, figures={"reconstruction_mse": 0.1}, count=1)
    written = {name for event in (logged, validated, sampled) for name in metrics_of(event) or {}}
    said = [(where, text) for path in CODE for where, text in prose(path) if "metrics.jsonl as" in text]
    assert said
    for where, text in said:
        for found in re.findall(r'metrics\.jsonl as "(\w+)"', text):
            assert found in written, where
