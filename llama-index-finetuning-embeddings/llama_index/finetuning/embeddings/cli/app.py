"""The program: its commands and the options that stand before a command."""

import importlib.metadata
import logging
from typing import Annotated

import typer

from llama_index.finetuning.embeddings.cli import data, measuring, training

_DISTRIBUTION = "llama-index-finetuning-embeddings"
_EXAMPLE = """\b
Example:
  llama-index-finetune generate docs/ --llm openai:gpt-4o-mini -o all.json
  llama-index-finetune split all.json --train train.json --test val.json
  llama-index-finetune full --train train.json --val val.json \\
      --model sentence-transformers/all-MiniLM-L6-v2 -o out/
"""

# Plain help has one line for an option where boxes would need two.
app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXAMPLE,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"{_DISTRIBUTION} {importlib.metadata.version(_DISTRIBUTION)}")
        raise typer.Exit


@app.callback()
def program(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log what the library does, too.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Finetune embedding models on your own documents, and see whether they got better."""
    # It repeats for every file what `documents` says once, where it matters.
    logging.getLogger("llama_index.core.readers.file.base").setLevel(logging.ERROR)
    # Warnings go to standard error in any case: that is what Python does without a handler.
    if verbose:
        logging.basicConfig(format="%(levelname)s: %(message)s")
        logging.getLogger("llama_index.finetuning").setLevel(logging.INFO)


for _command in (
    data.generate,
    data.describe,
    data.split,
    training.adapter,
    training.full,
    measuring.evaluate,
    training.merge,
):
    app.command()(_command)
