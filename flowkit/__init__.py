"""flowkit: train flow-matching generative models from a recipe, and look at what they make.

    import flowkit
    samples = flowkit.load("runs/kanji").sample(16, class_label="water", seed=0)
    flowkit.train("recipes/quickstart.toml")

Names are resolved on first use, so that `import flowkit` and `flowkit --help` stay instant.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowkit.api import load, train
    from flowkit.data.dataset import Dataset
    from flowkit.recipe import Recipe

__version__ = "0.1.0"
__all__ = ["Dataset", "Recipe", "__version__", "load", "train"]

_HOMES = {
    "load": "flowkit.api",
    "train": "flowkit.api",
    "Dataset": "flowkit.data.dataset",
    "Recipe": "flowkit.recipe",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flowkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
