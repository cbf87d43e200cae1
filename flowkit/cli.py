"""The commands. Every heavy import stands inside its command, so that `flowkit --help` answers at once."""

from __future__ import annotations

import sys

import typer

from flowkit.errors import UserError

app = typer.Typer(
    help="Train flow-matching generative models from a TOML recipe, and turn samples back into things to look at.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; bad input is one message on stderr and exit status 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


# ---- train ----
# ---- sample ----
# ---- decode ----
# ---- prepare ----
# ---- evaluate ----
# ---- inspect ----
