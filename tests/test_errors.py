"""The exceptions and their helpers."""

import builtins

import pytest

from llama_index.finetuning.embeddings import errors


def test_the_tree_in_the_docstring_is_the_one_in_the_code():
    """Every class is drawn with the built-in that it is, and everything drawn exists."""
    drawn = errors.__doc__ or ""
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.FinetuningError)
    ]
    assert len(classes) == 11
    for cls in classes:
        lines = [line for line in drawn.splitlines() if f" {cls.__name__} " in f"{line} "]
        assert len(lines) == 1
        if "(" in lines[0]:
            builtin = getattr(builtins, lines[0].split("(")[1].split(")")[0])
            assert issubclass(cls, builtin)


def test_a_missing_extra_names_the_command():
    """The message holds the exact pip install, and ImportError catches it."""
    with pytest.raises(
        ImportError, match=r"pip install 'llama-index-finetuning-embeddings\[plot\]'"
    ):
        errors.require("no_such_module_anywhere", extra="plot", purpose="Plotting a report")


def test_what_is_installed_is_returned():
    """An installed module comes back."""
    assert errors.require("json", extra="plot", purpose="Reading").loads("1") == 1


def test_long_lists_of_ids_are_cut():
    """The first five ids are shown and the others counted."""
    assert errors.shown(["a", "b"]) == "'a', 'b'"
    assert errors.shown([str(i) for i in range(1005)]) == "'0', '1', '2', '3', '4' and 1,000 more"
