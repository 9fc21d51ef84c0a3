"""Check a chat fine-tuning file before it is uploaded, and say what training on it would take."""

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path

from llama_index.finetuning.embeddings.errors import ConfigurationError, DatasetFileError
from llama_index.finetuning.openai.examples import read_example
from llama_index.finetuning.openai.tokens import TokenCounter

logger = logging.getLogger(__name__)

_LEAST_EXAMPLES = 10  # the API's own minimum
_SHOWN = 5


@dataclass(frozen=True)
class TrainingFileReport:
    """What a file that passed the check holds, and what training on it is billed for.

    Training is billed by tokens times epochs, and the service chooses the number of epochs, so
    all is said per epoch. Token counts are close, not exact.

    Attributes:
        examples: Number of lines.
        tokens_per_epoch: Tokens of all examples.
        longest_example: Tokens of the longest example; what is longer than the model's limit for
            training is cut by the service.
        images: Number of parts that are no text, which the tokens leave out.
        encoding: The encoding that the tokens were counted with.
        encoding_is_the_models: Whether that is known to be the encoding of the model.
        cost_per_epoch: In the currency of the price given; None if none was.
    """

    examples: int
    tokens_per_epoch: int
    longest_example: int
    images: int
    encoding: str
    encoding_is_the_models: bool
    cost_per_epoch: float | None

    def __str__(self) -> str:
        """Say it in a few sentences."""
        doubt = "" if self.encoding_is_the_models else ", which may not be the model's own"
        said = (
            f"{self.examples:,} examples, about {self.tokens_per_epoch:,} tokens per epoch "
            f"(counted with {self.encoding}{doubt}), the longest about {self.longest_example:,}. "
        )
        if self.images:
            said += f"{self.images:,} images or other parts are not counted. "
        if self.cost_per_epoch is None:
            return said + (
                "Training is billed by tokens times epochs, which the service chooses; its price "
                "list has the price of a token."
            )
        return said + (
            f"That is about {self.cost_per_epoch:,.4f} per epoch at the price given; the service "
            "chooses the number of epochs."
        )


def validate_json(
    data_path: str | os.PathLike[str],
    *,
    model: str | None = None,
    price_per_million_tokens: float | None = None,
) -> TrainingFileReport:
    """Check every line of a chat fine-tuning file, and count the tokens.

    Args:
        data_path: The JSONL file: an object with ``messages`` on each line.
        model: The model to be finetuned, which decides how tokens are counted.
        price_per_million_tokens: What a million training tokens of the model cost now, in any
            currency; no price is built in, because prices change.

    Raises:
        DatasetFileError: The file can't be read, or has fewer than 10 examples, or lines that the
            API would refuse: all are counted, and the first five named with what is wrong.
        ConfigurationError: The price is no number from 0.
    """
    price = price_per_million_tokens
    if price is not None and not (math.isfinite(price) and price >= 0):
        raise ConfigurationError(
            f"'price_per_million_tokens' must be a number from 0 (got {price!r}): what a million "
            "training tokens cost."
        )
    path = Path(data_path)
    counter = TokenCounter(model)
    counts = []
    problems = []
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    counts.append(counter.count(read_example(line)))
                except ValueError as error:
                    problems.append((number, str(error)))
    except OSError as error:
        raise DatasetFileError(f"{str(path)!r} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DatasetFileError(f"{str(path)!r} is not UTF-8 text ({error}).") from error
    if problems:
        raise DatasetFileError(_refusal(path, problems, len(counts) + len(problems)))
    if len(counts) < _LEAST_EXAMPLES:
        raise DatasetFileError(
            f"{str(path)!r} must have at least {_LEAST_EXAMPLES} examples, the least that "
            f"fine-tuning takes (got {len(counts)}). Add more."
        )
    tokens = sum(count.tokens for count in counts)
    report = TrainingFileReport(
        examples=len(counts),
        tokens_per_epoch=tokens,
        longest_example=max(count.tokens for count in counts),
        images=sum(count.images for count in counts),
        encoding=counter.encoding,
        encoding_is_the_models=counter.is_the_models,
        cost_per_epoch=None if price is None else tokens * price / 1e6,
    )
    logger.info("%s: %s", path, report)
    return report


def _refusal(path: Path, problems: list[tuple[int, str]], n_lines: int) -> str:
    head = "; ".join(f"line {number:,}: {problem}" for number, problem in problems[:_SHOWN])
    more = f"; and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
    return (
        f"{len(problems):,} of the {n_lines:,} lines of {str(path)!r} can't be used to finetune "
        f"({head}{more}). Mend or remove them; nothing was uploaded."
    )
