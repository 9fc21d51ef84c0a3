"""The warning about the retired package beside this one."""

import importlib.metadata
import warnings

import pytest

from llama_index.finetuning.embeddings._conflict import (
    RetiredPackageWarning,
    warn_if_retired_package_is_installed,
)


@pytest.fixture(autouse=True)
def _not_warned_yet():
    """Let each test see the one warning of a process."""
    warn_if_retired_package_is_installed.cache_clear()
    yield
    warn_if_retired_package_is_installed.cache_clear()


def test_it_names_the_two_commands(tmp_path, monkeypatch):
    """With the retired distribution on the path, the warning says how to mend it."""
    folder = tmp_path / "llama_index_finetuning-0.4.2.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: llama-index-finetuning\nVersion: 0.4.2\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.metadata.version("llama-index-finetuning") == "0.4.2"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_retired_package_is_installed()
        warn_if_retired_package_is_installed()
    assert [warning.category for warning in caught] == [RetiredPackageWarning]
    message = str(caught[0].message)
    assert "pip uninstall -y llama-index-finetuning\n" in message
    assert "pip install --force-reinstall --no-deps llama-index-finetuning-embeddings" in message


def test_it_is_silent_without_the_retired_package():
    """Where the retired distribution is not installed nothing is said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_retired_package_is_installed()
