"""flowkit: train flow-matching generative models from a recipe, and look at their samples.

    import flowkit
    model = flowkit.train("quickstart")                         # a packaged recipe, a TOML file, or tables
    model = flowkit.load("runs/quickstart")                     # or one that is trained already
    samples = model.sample(16, class_label="fish", seed=0)
    flowkit.show(samples)                                       # some of them, in the terminal
    samples.save("fish")                                        # fish.safetensors and fish.json

Names are resolved on first use, so that `import flowkit` and `flowkit --help` stay fast.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowkit.api import load, show, train
    from flowkit.data.dataset import Dataset
    from flowkit.recipe import Recipe

__version__ = "0.1.0"
__all__ = ["Dataset", "Recipe", "__version__", "load", "show", "train"]

_HOMES = {
    "load": "flowkit.api",
    "show": "flowkit.api",
    "train": "flowkit.api",
    "Dataset": "flowkit.data.dataset",
    "Recipe": "flowkit.recipe",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flowkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
