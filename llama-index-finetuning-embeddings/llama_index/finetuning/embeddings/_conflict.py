"""Tell the user when the retired package is installed beside this one."""

import functools
import importlib.metadata
import warnings

RETIRED = "llama-index-finetuning"
OURS = "llama-index-finetuning-embeddings"


class RetiredPackageWarning(UserWarning):
    """The retired ``llama-index-finetuning`` is installed too, and shares our files."""


@functools.cache
def warn_if_retired_package_is_installed() -> None:
    """Warn, once a process, when both distributions write to ``llama_index/finetuning``.

    Whichever was installed last has overwritten the other's files, and removing one removes
    files of both; so the cure is to remove the retired one and lay ours down again.
    """
    try:
        version = importlib.metadata.version(RETIRED)
    except importlib.metadata.PackageNotFoundError:
        return
    warnings.warn(
        f"The retired package {RETIRED} {version} is installed beside {OURS}, and the two "
        "overwrite each other's files under llama_index/finetuning. Mend it with these two "
        f"commands:\n    pip uninstall -y {RETIRED}\n"
        f"    pip install --force-reinstall --no-deps {OURS}",
        RetiredPackageWarning,
        stacklevel=2,
    )
