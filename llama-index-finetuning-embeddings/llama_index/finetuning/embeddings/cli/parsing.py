"""Option values that are more than a word or a number."""

import typer


def sizes(given: str | None, option: str) -> list[int] | None:
    """Read numbers with commas between them, such as ``256,128``.

    Args:
        given: The option's value; None stays None.
        option: The option's name, for the message.

    Raises:
        BadParameter: It is something else.
    """
    if given is None:
        return None
    numbers = [one.strip() for one in given.split(",")]
    if not all(one.isdecimal() and int(one) for one in numbers):
        raise typer.BadParameter(
            f"{given!r} is no list of numbers like 256,128.", param_hint=f"'{option}'"
        )
    return [int(one) for one in numbers]


def length(given: str) -> int | str | None:
    """Read ``--max-seq-length``: a number, ``auto``, or ``model`` for the model's own."""
    if given in ("auto", "model"):
        return None if given == "model" else given
    if not given.isdecimal():
        raise typer.BadParameter(
            f"{given!r} is neither 'auto' nor 'model' nor a number.",
            param_hint="'--max-seq-length'",
        )
    return int(given)
