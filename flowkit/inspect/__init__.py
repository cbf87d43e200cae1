"""What is in a run, a checkpoint, a weight file, a data set or a recipe. Torch-free: headers, JSON and a few rows."""

from flowkit.inspect.report import inspect

__all__ = ["inspect"]
