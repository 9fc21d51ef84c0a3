"""Where output goes: the result to standard output, everything else to standard error."""

import contextlib
import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def work() -> contextlib.AbstractContextManager[Any]:
    """Send what libraries print while they work to standard error."""
    return contextlib.redirect_stdout(sys.stderr)


def show(text: str, data: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a command's result.

    Args:
        text: The result for people.
        data: The same for programs.
        as_json: Which of the two is wanted.
    """
    encoding = (sys.stdout.encoding or "utf-8").lower().replace("-", "")
    escaped = not encoding.startswith("utf")
    typer.echo(json.dumps(data, indent=2, ensure_ascii=escaped) if as_json else text.rstrip("\n"))
