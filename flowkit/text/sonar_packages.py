"""Check whether sonar-space is installed and compatible with this torch, without importing either; and import it."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from importlib import metadata, util
from pathlib import Path

from flowkit.errors import UserError

INSTALL = "pip install 'flowkit[sonar]'"
BUILT_FOR = {
    "0.8.1": "2.9.1",
    "0.7.0": "2.9.0",
    "0.6": "2.8.0",
}  # version of fairseq2 and fairseq2n -> the only version of torch they run with


def why_not_importable() -> str | None:
    """Return None if sonar-space can be imported, else the reason and the fix, as part of a sentence."""
    missing = [name for name, module in (("sonar-space", "sonar"), ("fairseq2", "fairseq2n")) if not _folder(module)]
    if missing:
        return f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed: {INSTALL}"
    native, built_for, torch = metadata.version("fairseq2n"), _built_for(), _public(metadata.version("torch"))
    if built_for and built_for != torch:
        pairs = [fairseq2 for fairseq2, paired in BUILT_FOR.items() if paired == torch]
        other = f", or keep torch {torch} and pip install fairseq2=={pairs[0]}" if pairs else ""
        return (
            f"fairseq2n {native} is built for torch {built_for} and does not run with torch {torch}: "
            f"pip install torch=={built_for}{other}"
        )
    return None


def import_sonar(*, show_progress: bool = False) -> None:
    """Import sonar-space's text pipelines. Raises UserError, which names the fix, if they cannot be imported.

    show_progress: whether fairseq2 shows its own progress bars. They are useful for downloads only.
    """
    reason = why_not_importable()
    if reason:
        raise UserError(f"codec: {reason}")
    provide_libsndfile()
    if not show_progress:
        os.environ.setdefault("FAIRSEQ2_NO_PROGRESS", "1")
    try:
        import sonar.inference_pipelines.text  # noqa: F401
    except (
        ImportError,
        OSError,
        RuntimeError,
    ) as error:  # a shared library does not load, or fairseq2n's own version check fails
        raise UserError(f"codec: sonar-space is installed but cannot be imported ({error})") from error


def provide_libsndfile() -> None:
    """Load libsndfile for fairseq2n from the soundfile wheel, unless the system has it.

    Both have the same soname, so once the wheel's copy is loaded, fairseq2n finds it.
    """
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL("libsndfile.so.1", mode=ctypes.RTLD_GLOBAL)
        return
    except OSError:
        pass
    for library in sorted((_folder("_soundfile_data") or Path()).glob("libsndfile_*.so")):
        try:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            return
        except OSError:  # built for another processor
            continue


def _folder(module: str) -> Path | None:
    """Return where a package is installed, without importing it."""
    spec = util.find_spec(module)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    return Path(locations[0]) if locations else None


def sonar_cards_folder() -> Path | None:
    """Return the folder of sonar-space's asset cards. None if it is not installed."""
    folder = _folder("sonar")
    return folder / "cards" if folder else None


def _built_for() -> str | None:
    """Return the version of torch that the installed fairseq2n was built for, from its `config.py`."""
    folder = _folder("fairseq2n")
    config = folder / "config.py" if folder else None
    found = (
        re.search(r'_TORCH_VERSION\b[^"]*"([^"]+)"', config.read_text("utf-8")) if config and config.is_file() else None
    )
    return _public(found[1]) if found else None


def _public(version: str) -> str:
    """Drop the local version label: "2.9.1+cu128" -> "2.9.1"."""
    return version.split("+")[0]
