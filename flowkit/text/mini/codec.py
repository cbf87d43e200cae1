"""The miniature SONAR as a codec. It is trained when it is first opened, and cached."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from flowkit.errors import Interrupted, UserError
from flowkit.text import sonar_packages
from flowkit.text.codec import ENGLISH
from flowkit.text.mini import cache, grammar
from flowkit.text.mini.recipe import MiniRecipe, recipe_of

if TYPE_CHECKING:
    from torch import nn

    from flowkit.domain import Tell
    from flowkit.text.codec import Codec

NAME = "mini-sonar"
LANGUAGES = (ENGLISH,)


def open_mini(described: Mapping[str, Any], *, device: str = "auto", dtype: str = "fp32") -> Codec:
    """Open the miniature that `described` names. If it is not in the cache, train it: about two minutes on two cores.

    described: "size" (default "full"), and "fingerprint" if data was encoded with it. Raises UserError for a missing or
    incompatible sonar-space, a cache that cannot be written to, and data that another miniature encoded.
    """
    recipe = recipe_of(described)
    reason = sonar_packages.why_not_importable()
    if reason:
        raise UserError(f"codec: {reason}")
    kept, broken = _look(recipe)
    if kept is None:
        kept = _train_alone(recipe, broken)
    difference = _why_another(described, kept)
    if difference:
        raise UserError(f"codec: {difference}")
    sonar_packages.import_sonar()
    from flowkit.text.mini.networks import load_tokenizer, make_decoder, make_encoder
    from flowkit.text.pipelines import PipelineCodec

    tokenizer = load_tokenizer(kept.tokenizer)
    return PipelineCodec(
        name=NAME,
        dimension=recipe.dimension,
        languages=LANGUAGES,
        identity=identity_of(recipe, kept),
        tokenizer=tokenizer,
        load_encoder=partial(_load, kept, "encoder", partial(make_encoder, recipe, tokenizer.vocab_info)),
        load_decoder=partial(_load, kept, "decoder", partial(make_decoder, recipe, tokenizer.vocab_info)),
        device=device,
        dtype=dtype,
    )


def why_mini_unavailable(described: Mapping[str, Any]) -> str | None:
    """Return None if `open_mini` would not train; otherwise the reason, as part of a sentence. Fast."""
    reason = sonar_packages.why_not_importable()
    if reason:
        return reason
    try:
        recipe = recipe_of(described)
    except UserError as error:
        return str(error)
    kept, broken = _look(recipe)
    if kept is None:
        return (
            broken or f"the miniature SONAR has not been trained on this machine yet (cache: {cache.folder_of(recipe)})"
        )
    return _why_another(described, kept)


def identity_of(recipe: MiniRecipe, kept: cache.Kept) -> dict[str, Any]:
    return {"name": NAME, "size": recipe.size, "fingerprint": kept.fingerprint, "dimension": recipe.dimension}


def _look(recipe: MiniRecipe) -> tuple[cache.Kept | None, str | None]:
    """Return the miniature in the cache if it is intact, and a message if it is corrupt."""
    try:
        return cache.find(recipe), None
    except UserError as error:
        return None, str(error)


def _why_another(described: Mapping[str, Any], kept: cache.Kept) -> str | None:
    wanted = described.get("fingerprint")
    if wanted in (None, kept.fingerprint):
        return None
    return (
        f"the data was encoded by the miniature SONAR {wanted}, but the one in {kept.folder} is {kept.fingerprint}, and their "
        f"vectors are not compatible. Prepare the data again, or set {cache.FOLDER_VARIABLE} to the cache that contains {wanted}"
    )


def _train_alone(recipe: MiniRecipe, broken: str | None) -> cache.Kept:
    """Train the miniature, or wait until another process has trained it."""
    with cache.alone(recipe):
        kept, _ = _look(recipe)
        if kept is None:
            if broken:
                print(f"{broken}. Training it again", file=sys.stderr)
            try:
                with _progress(recipe) as tell:
                    kept = _train(recipe, tell)
            except KeyboardInterrupt:
                raise Interrupted(
                    "the miniature SONAR was not trained completely, and training cannot be resumed; rerun the "
                    "command to start again"
                ) from None
    return kept


def _train(recipe: MiniRecipe, tell: Tell) -> cache.Kept:
    sonar_packages.import_sonar()
    from flowkit.data.files import replacing, tensor_file_errors
    from flowkit.data.tensors import save_file
    from flowkit.text.mini.networks import load_tokenizer, train_tokenizer
    from flowkit.text.mini.training import train

    sentences = grammar.generate(recipe.num_sentences, seed=-1 - recipe.seed)  # seeds of data sets are not negative
    with cache.writing(recipe) as folder:
        cache.write_bytes(folder / cache.TOKENIZER, train_tokenizer(recipe, sentences))
        encoder, decoder = train(recipe, load_tokenizer(folder / cache.TOKENIZER), sentences, tell)
        tensors = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
        tensors |= {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items() if name != TIED}
        with replacing(folder / cache.WEIGHTS) as partial_file, tensor_file_errors():
            save_file(tensors, partial_file)
    kept = cache.find(recipe)
    assert kept is not None
    return kept


TIED = "final_proj.weight"  # of the decoder; the same tensor as its embedding


def _load(kept: cache.Kept, part: str, make: Callable[[], nn.Module]) -> nn.Module:
    from safetensors.torch import load_file

    prefix = f"{part}."
    tensors = {name.removeprefix(prefix): tensor for name, tensor in load_file(kept.weights).items()
               if name.startswith(prefix)}  # fmt: skip
    module = make()
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    assert not unexpected and set(missing) <= {TIED}, "the cache is keyed by the design"
    return module


@contextlib.contextmanager
def _progress(recipe: MiniRecipe) -> Iterator[Tell]:
    """Show the progress of training on stderr: a bar on a terminal, otherwise a line at each quarter."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    # Wrap lines on a terminal only, not in a log.
    console = Console(stderr=True, soft_wrap=not Console(stderr=True).is_terminal, highlight=False, markup=False)
    began = time.monotonic()
    console.print(
        f"Training the miniature SONAR, once: {recipe.steps:,} updates. It is kept in {cache.folder_of(recipe)}. "
        "If interrupted, it starts again from the beginning."
    )
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("miniature SONAR", total=recipe.steps)
            yield lambda what, done, total: bar.update(task, description=what, completed=done)
    else:
        quarters = {recipe.steps * quarter // 4: 4 / quarter - 1 for quarter in (1, 2, 3)}  # time left over time so far

        def tell(what: str, done: int, total: int) -> None:
            if done in quarters:
                left = quarters[done] * (time.monotonic() - began)
                console.print(f"  {what}: {done:,} of {total:,} updates, about {left:.0f} s left")

        yield tell
    console.print(f"Trained the miniature SONAR in {time.monotonic() - began:.0f} s")
