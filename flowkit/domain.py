"""What a domain is: everything that is particular to one kind of data, behind one class.

To add a domain, write a subclass of `Domain` in a package of its own and add one line to `flowkit.registry`. The training
loop, the sampler and the commands know only this class. Arrays are numpy here, so that looking at data needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from flowkit.errors import UserError, listing
from flowkit.progress import Tell
from flowkit.registry import STORED_KINDS, domain_name

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from flowkit.data.dataset import Dataset
    from flowkit.data.normalizers import Normalization
    from flowkit.metrics.comparison import Comparison
    from flowkit.metrics.report import Figure
    from flowkit.recipe.data import Augment
    from flowkit.sources.files import Files

# Predicted x1 (B, ...) in the domain's units -> (B,). One with a parameter named `target` also gets the real x1 (B, ...).
AuxiliaryLoss = Callable[..., "Tensor"]
Bar = Callable[[str], AbstractContextManager[Tell]]  # opens a progress bar, given what it shows first


class Domain:
    """A kind of data. The base class is the kind "array": rows of numbers of any shape. Subclasses override what differs."""

    kind: str = "array"  # as stored in files; for a domain from outside flowkit, its import path
    noun: str = "rows"  # what samples are called in messages, in the plural: "sketches"
    builtin: tuple[str, ...] = ()  # names of the data sets that it can generate
    sizes: tuple[str, ...] = ("input_dim",)  # arguments of a network that take the shape of a row, in order
    default_normalizer: str = "zscore"
    compared_with: tuple[str, ...] = ("validation",)  # splits to compare samples with: the first that has enough rows
    together: bool = False  # whether a preview shows all rows in one picture, instead of one row each
    inverted_rows: int = 0  # validation rows that training maps to noise and back whenever it draws samples
    statistics_of: str = "vectors"  # the heading of `statistics`: "vectors" or "strokes"
    has_parts: bool = (
        False  # whether rows are tokens (S, D) with `parts`, so that some can be given and the others completed
    )
    augments: int = 0  # how many numbers tell a network how a row was augmented; 0: rows are not augmented
    measures_memorization: bool = False  # whether the evaluator reports a memorization ratio

    @property
    def name(self) -> str:
        """What people call it: the name in the registry, in recipes and in messages."""
        return domain_name(self.kind)

    def prepares(self, source: Path, files: Files) -> bool:
        """Return whether `flowkit prepare` reads `files`, the content of `source`, as this kind of data.

        Domains from outside flowkit are asked first, then the built-in ones in the order of the registry. Raises UserError
        for files that nearly fit.
        """
        return False

    def prepare(
        self,
        source: Path,
        out: Path,
        *,
        seed: int = 0,
        overwrite: bool = False,
        tell: Tell | None = None,
        notice: Callable[[str], object] | None = None,
        **options: Any,
    ) -> Any:
        """Write the data set `out` from `source` and return a report for `flowkit prepare` to show.

        options: the command's options that only this domain has, without those that were not given. tell: receives
        progress. notice: receives what the user should know meanwhile.
        """
        raise UserError(f"{source}: flowkit cannot read {self.noun} from files")

    def generate(self, name: str, num_samples: int, seed: int) -> Dataset:
        """Return the built-in data set `name` with `num_samples` rows; the same arguments give the same rows."""
        raise UserError(f"no built-in data set of {self.noun} is called {name!r}")

    def check(self, data: Dataset, where: str) -> None:
        """Raise UserError if shape or range of the rows do not fit this domain."""
        if data.x.ndim < 2:
            raise UserError(f"{where}: x has shape {data.x.shape}; expected (N, ...) with at least two dimensions")

    def model_args(self, data: Dataset, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return sizes of the data by argument name; a network gets those that its constructor takes.

        `shape` is that of a normalized row. Sizes of what the data does not have are 0.
        """
        kinds = data.condition_kinds
        width = int(data.condition.shape[-1]) if data.condition is not None and "condition" in kinds else 0
        sizes = dict(zip(self.sizes, shape, strict=True)) if len(self.sizes) == len(shape) else {}
        classes = len(data.class_names) if "class" in kinds else 0
        tokens, image = data.encoded["image"].shape if "image" in kinds else (0, 0)
        text = data.encoded["text"].shape[1] if "text" in kinds else 0
        return {**sizes, "shape": list(shape), "num_classes": classes, "clip_dim": width, "condition_dim": width,
                "image_dim": image, "image_tokens": tokens, "text_dim": text}  # fmt: skip

    def normalization(self, choice: Normalization, row_shape: tuple[int, ...]) -> Normalization:
        """Return the normalization for rows of that shape: `choice`, or the default for "auto". Raises UserError if unfit."""
        from flowkit.components import choose
        from flowkit.data.normalizers import Auto

        return choose("normalizer", self.default_normalizer) if isinstance(choice, Auto) else choice

    def parts(self, x: Tensor) -> Tensor:
        """Return the part that each token of normalized rows x (B, S, D) belongs to: (B, S) int64, -1 for absent tokens.

        `flow.given` shows or hides parts as a whole. Only called if `has_parts`.
        """
        raise NotImplementedError

    def augment_draws(self, row_shape: tuple[int, ...]) -> int:
        """Return how many random numbers `augment` needs for a row. Only called if `augments`."""
        raise NotImplementedError

    def augment(self, x: Tensor, augment: Augment, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Return augmented copies of rows x (B, ...) in the domain's units, and what the network is told: (B, self.augments).

        It is told zeros exactly if the row is unchanged. uniform: (B, augment_draws(...)) random numbers on [0, 1).
        """
        raise NotImplementedError

    def example(
        self, source: str, row_shape: tuple[int, ...], inherited: dict[str, Any], *, part: bool = False
    ) -> Example:
        """Return the row that `source`, a file or a text, stands for. part: it may be the beginning of a row.

        inherited: as returned by `inherited` when the model was trained. Raises UserError if it does not fit.
        """
        raise UserError(f"{source}: {self.noun} are not read from a file or text here; name a row of a data set, such as "
                        "DATA.safetensors#0")  # fmt: skip

    def no_density(self, row_shape: tuple[int, ...]) -> str | None:
        """Return why rows of that shape have no density; None if they have one."""
        return None

    def finish(self, x: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
        """Return sampled rows x (N, ...), in the domain's units, as a data set has them: what is discrete is rounded.

        given: (N, S) bool, tokens that were given and stay as they are.
        """
        return x

    def statistics(self, x: np.ndarray) -> dict[str, Any] | None:
        """Return what `inspect` reports under `statistics_of` for rows x (N, ...), or None."""
        return None

    def preview(self, rows: Dataset) -> list[Preview]:
        """Return terminal pictures of a few rows of data or samples, without importing torch."""
        flat = rows.x.reshape(len(rows), -1)
        return [
            Preview(title, (f"mean {row.mean():+.3f}", f"std  {row.std():.3f} ", f"norm {(row**2).sum() ** 0.5:.3f} "))
            for row, title in zip(flat, rows.titles(), strict=True)
        ]

    def draw(self, rows: Dataset, behind: np.ndarray | None = None) -> list[str]:
        """Return SVG pictures for a web page in its text color: one per row, or one of all rows if `together`.

        behind: x (M, ...) of real rows to draw dimmed behind them, if `together`. Empty if rows of this kind have no picture.
        """
        return []

    def presenter(self, data: Dataset | None, *, decode: bool = True, device: str = "auto") -> Presenter:
        """Return what writes samples in a readable form.

        data: the model's training data to compare with, if available. decode: whether a decoder may be loaded, onto `device`.
        """
        return PlainPresenter(self)

    def compares(self, source: str, inherited: dict[str, Any]) -> bool:
        """Return whether `sample` opens the training data `source` for the presenter. False if it has no use or takes minutes.

        inherited: as returned by `inherited` when the model was trained.
        """
        return False

    def trajectories(self, shape: tuple[int, ...]) -> Callable[[np.ndarray, Path, np.ndarray | None], Path]:
        """Return what plots trajectories of rows of this shape: states (T, N, *shape), PNG to write, rows of data or None.

        Raises UserError if such rows have no plot.
        """
        raise UserError(f"--trajectories: requires 2-D points, and this model samples {self.noun}; leave it out")

    def moving(self) -> tuple[Presenter, Callable[[np.ndarray, Path], None]]:
        """Return a presenter that also writes pictures that move, and what writes the flow from noise to samples as a GIF.

        The latter takes states (T, N, ...) and the path of the .gif. Raises UserError if such rows have no pictures that move.
        """
        raise UserError(f"--animate: {self.noun} have no pictures that move; leave it out")

    def read(self, path: Path) -> Dataset:
        """Read rows from an array file that has no sidecar, such as .npy."""
        raise UserError(f"{path}: {self.noun} are not read from a file without a .json that describes it")

    def decode(
        self, data: Dataset, tensors: Path, out: Path | None, options: DecodeOptions | None, bar: Bar
    ) -> Any | None:
        """Decode the rows of the file `tensors` in the domain's own way; None leaves them to the presenter.

        Raises UserError for options of another domain.
        """
        if options is not None and options.kind != self.kind and (given := options.given()):
            raise UserError(f"{given[0]} is an option for {options.noun}, and {tensors} holds {self.noun}")
        return None

    def inherited(self, data: Dataset) -> dict[str, Any]:
        """Return what decoding needs to know of the data `data`; it is stored with the model and with its samples."""
        return {}

    def completed(self, model: Any, data: Dataset, rows: np.ndarray, **how: Any) -> Any:
        """Measure how well a model completes `rows` of `data`; the result has `words` and `to_json()`.

        how: seed, progress, and as in `sample`. Raises UserError if rows of this kind have no parts.
        """
        raise UserError(
            f"--completion: {self.noun} cannot be completed, because their rows have no parts; leave it out"
        )

    def shown(self, model: Any, data: Dataset, **how: Any) -> Any:
        """Measure whether samples show what images and texts ask for; the result has `facts`, `to_json()` and `write(folder)`.

        how: scales, settings, seed, batch_size, device, tell. Raises UserError if rows of this kind cannot be compared so.
        """
        raise UserError(f"--scales: {self.noun} are not drawn from images or texts; leave it out")

    def evaluator(self, comparison: Comparison, *, decode: bool = True, device: str = "auto") -> Evaluator:
        """Return what measures samples. decode: whether a decoder may be loaded, onto `device`.

        Raises UserError if this domain has no metrics.
        """
        raise UserError(f"evaluate: there are no metrics for {self.noun} (data of the kind {self.name!r})")


class Presenter(Protocol):
    """Writes samples in a readable form. Made once per run or command, because it may hold a decoder or training rows."""

    notice: str  # what the user should know once, such as why sentences cannot be decoded here; may be empty

    def __call__(
        self, samples: Dataset, out: Path, *, shown: Sequence[int] = (), tell: Tell | None = None
    ) -> Presented:
        """Write all rows (SVG, PNG) and an overview to the folder `out`, and return previews of the `shown` rows.

        Raises UserError if `out` cannot be written to.
        """
        ...


class PlainPresenter:
    """Shows the domain's previews, and writes no file."""

    notice = ""

    def __init__(self, domain: Domain):
        self._domain = domain

    def __call__(
        self, samples: Dataset, out: Path, *, shown: Sequence[int] = (), tell: Tell | None = None
    ) -> Presented:
        import numpy as np

        previews = self._domain.preview(samples.take(np.asarray(shown, np.int64))) if len(shown) else []
        return Presented(previews=tuple(previews))


class Evaluator(Protocol):
    protocol: str  # identifies features, metrics and counts; figures are comparable within one protocol only
    legend: str  # what the groups of figures measure, in a few words
    notes: tuple[str, ...]  # what the reader should know, such as why something was not measured

    def figures(self, tell: Tell) -> Sequence[Figure]:
        """Compute all metrics for samples, real rows and Gaussian draws; `tell` receives progress."""
        ...

    def write(self, out: Path) -> list[Path]:
        """Write pictures or texts of some samples to the folder `out` and return their paths."""
        ...


class DecodeOptions(Protocol):
    """Options of `flowkit decode` that only one domain has."""

    kind: ClassVar[str]  # the domain's
    noun: ClassVar[str]  # what they are for: "sentence vectors"

    def given(self) -> list[str]:
        """Return the options that were given, as on the command line: "--beam-size"."""
        ...

    def check(self) -> None:
        """Raise UserError for options that are out of range or mutually exclusive."""
        ...

    def identify(self) -> bool:
        """Return whether they say that rows of unknown kind belong to this domain."""
        ...

    def presenter(self) -> Presenter | None:
        """Return what writes the rows as these options ask; None for the domain's own presenter."""
        ...


@dataclass(frozen=True)
class Preview:
    """One sample as a terminal shows it: lines of equal width, a title and an optional note.

    `behind` has the same size as `lines` and is drawn dimmed where they are blank: data behind samples. `sizes` holds the
    same picture in other heights, to choose from when the room is known. Previews of one line each (sentences) are listed;
    all others are drawn side by side.
    """

    title: str
    lines: tuple[str, ...]
    note: str = ""
    behind: tuple[str, ...] = ()
    sizes: tuple[Preview, ...] = ()


@dataclass(frozen=True)
class Presented:
    """What a presenter made of samples."""

    files: tuple[Path, ...] = ()
    previews: tuple[Preview, ...] = ()
    texts: tuple[str, ...] | None = None  # one sentence per sample, if the domain decodes to text
    figures: dict[str, float] = field(default_factory=dict)  # measured on the samples, by their names in metrics.jsonl
    caption: str = ""  # what the notes of the previews mean
    noun: str = ""  # plural noun of the files, without overviews; by default the domain's, one file per sample
    facts: str = ""  # what else to say, in one line


@dataclass(frozen=True)
class Example:
    """A row in the domain's units, made from what a user named, to start samples from."""

    row: np.ndarray  # (S, ...)
    tokens: np.ndarray | None = None  # (S,) bool: which tokens of the row are given, for completion
    info: dict[str, Any] = field(default_factory=dict)  # added to that of the samples


@dataclass(frozen=True)
class Given:
    """Rows to complete, in the domain's units: rows (S, ...) for all samples, or (N, S, ...); tokens (S,) or (N, S) bool."""

    rows: np.ndarray
    tokens: np.ndarray


def auxiliary_loss(*kinds: str) -> Callable[[AuxiliaryLoss], AuxiliaryLoss]:
    """Restrict an auxiliary loss to these kinds of data. A loss without this decorator applies to every kind."""

    def mark(loss: AuxiliaryLoss) -> AuxiliaryLoss:
        loss.kinds = tuple(map(domain_name, kinds))  # pyright: ignore[reportFunctionMemberAccess]
        return loss

    return mark


def get_domain(kind: str) -> Domain:
    """Return a domain by its name or by the kind that files store. Raises UserError if there is none."""
    from flowkit.components import find

    return find("domain", domain_name(kind))()


@cache
def builtin_sets() -> dict[str, str]:
    """Return the kind of each built-in data set, by the data set's name."""
    from flowkit.components import names

    return {builtin: STORED_KINDS.get(name, name) for name in names("domain") for builtin in get_domain(name).builtin}


def check_arch(arch: str, kind: str) -> None:
    """Raise UserError if an architecture requires sizes that this kind of data does not have."""
    from flowkit.components import SIZES, find, names

    domain = get_domain(kind)
    misfits = lambda name: (SIZES & signature(find("arch", name)).parameters.keys()) - {*domain.sizes}  # noqa: E731
    if misfits(arch):
        others = [name for name in names("arch") if name != "custom" and not misfits(name)]
        raise UserError(
            f"model.arch: {arch!r} does not fit {domain.name} data; {listing(others)} {'does' if len(others) == 1 else 'do'}"
        )
