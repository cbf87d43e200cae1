"""Models on the Hugging Face Hub: `hf://user/name` and `hf://user/name@revision`, downloaded to the Hub's cache.

Only weights and JSON are downloaded. Nothing of a download is executed. Torch-free.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

from flowkit.errors import UserError

PATTERNS = ["*.safetensors", "model.json", "checksums.json"]
REPOSITORY = re.compile(r"[\w][\w.-]*/[\w][\w.-]*", re.ASCII)
LOGIN = "Log in: hf auth login (or set HF_TOKEN to a token from https://huggingface.co/settings/tokens)"


def is_hub(path: Path | str) -> bool:
    """Return whether `path` names a model on the Hub. A Path has one slash less: hf:/user/name."""
    return str(path).startswith("hf:/")


@cache
def download(path: str) -> tuple[Path, str]:
    """Return the folder of a model in the cache, and its name without the user. Raises UserError if it cannot be had."""
    name, _, revision = path.removeprefix("hf:").lstrip("/").partition("@")
    shown = f"hf://{name}" + (f"@{revision}" if revision else "")
    if not REPOSITORY.fullmatch(name) or path.endswith("@"):
        raise UserError(f"{shown}: expected hf://user/name or hf://user/name@revision")
    hub = hub_package(shown)
    with hub_errors(shown):
        folder = hub.snapshot_download(name, revision=revision or None, allow_patterns=PATTERNS)
    return Path(folder), name.rpartition("/")[2]


def hub_package(what: str) -> ModuleType:
    """Import huggingface_hub. Raises UserError if it is not installed."""
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"{what}: requires huggingface_hub: pip install 'flowkit[hub]'") from None
    return huggingface_hub


@contextlib.contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn errors of the Hub into UserError."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise UserError(
            f"{what}: its owner grants access on request. Ask for it on the model's page. {LOGIN}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{what}: no such model on the Hub, or it is private. {LOGIN}") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{what}: the model has no such revision. Leave it out for the newest one") from None
    except errors.LocalEntryNotFoundError:
        raise UserError(
            f"{what}: the Hub cannot be reached, and the model is not in its cache. Check the network"
        ) from None
    except errors.LocalTokenNotFoundError:
        raise UserError(f"{what}: not logged in to the Hub. {LOGIN}") from None
    except errors.HFValidationError as error:
        raise UserError(f"{what}: is not a valid name on the Hub ({error})") from None
    except OSError as error:  # all other errors of the Hub, and of the network
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:
            raise UserError(f"{what}: the Hub does not accept the token. {LOGIN}") from None
        if status == 403:
            raise UserError(f"{what}: this token may not do that; it needs write access. {LOGIN}") from None
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{what}: the Hub cannot be reached or has refused ({reason}). Try again later") from None
