"""The command line, ``llama-index-finetune``: the library for a folder of files and a terminal.

Each command is a few lines over the public API. The result goes to standard output, as text or
with ``--json`` as one JSON object; logs, warnings and progress go to standard error. A command
exits with 0, with 1 after one line that says what failed, or with 2 after a mistake in its use.
"""

import io
import sys
from collections.abc import Sequence

from llama_index.finetuning.embeddings.errors import FinetuningError, require

PROGRAM = "llama-index-finetune"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: What stands behind the program's name; None takes the process's own.

    Raises:
        SystemExit: Always, with the exit code.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A table with a sign that the terminal's encoding lacks is better than none.
        sys.stdout.reconfigure(errors="replace")
    try:
        require("typer", extra="cli", purpose="The command line")
        from llama_index.finetuning.embeddings.cli.app import app

        app(arguments, prog_name=PROGRAM)
    except FinetuningError as error:
        # Upstream reasons may span several lines.
        sys.exit(f"Error: {' '.join(str(error).split())}")
