"""Files and folders are whole or absent."""

import errno
import json
import os
import stat
import tempfile
from pathlib import Path

import pytest

from llama_index.finetuning.embeddings import files
from llama_index.finetuning.embeddings.errors import OutputError
from llama_index.finetuning.embeddings.files import (
    _exchange,
    atomic_file,
    atomic_folder,
    check_writable,
    output_lock,
)


def names(folder):
    """Return what a folder holds."""
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_appears_when_the_block_ends(tmp_path):
    """The text is there afterwards, in UTF-8, and nothing else is."""
    with atomic_file(tmp_path / "new" / "a.txt") as stream:
        stream.write("grün")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert (tmp_path / "new" / "a.txt").read_bytes() == "grün".encode()
    assert names(tmp_path / "new") == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="there are no such permissions")
def test_who_may_read_a_file_stays(tmp_path):
    """A file that was made private is private when it is written anew."""
    path = tmp_path / "a.txt"
    path.touch()
    path.chmod(0o600)
    with atomic_file(path) as stream:
        stream.write("new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file(tmp_path, error):
    """An error in the block leaves the old file as it was and no temporary file behind."""
    (tmp_path / "a.txt").write_text("old")

    def write():
        with atomic_file(tmp_path / "a.txt") as stream:
            stream.write("half")
            raise error

    with pytest.raises(error):
        write()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_can_be_locked(tmp_path):
    """One holder at a time, whether or not the file is there; remains of killed writes go."""
    left = tmp_path / f".a.json.{'0' * 32}.tmp"
    left.write_text("half")
    for _ in range(2):
        with output_lock(tmp_path / "a.json", name="out", folder=False):
            assert not left.exists()
            with pytest.raises(OutputError, match="'out' must not be in use"):  # noqa: SIM117
                with output_lock(tmp_path / "a.json", name="out", folder=False):
                    pass
            (tmp_path / "a.json").write_text("{}")
    assert (tmp_path / "a.json").read_text() == "{}"
    assert names(tmp_path) == [".a.json.lock", "a.json"]


@pytest.mark.skipif(os.name == "nt", reason="there are no pipes in folders")
def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    """A pipe, and so ``/dev/null``, stays one; nothing is made beside it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to("pipe")
    for path in (pipe, tmp_path / "link"):
        with pytest.raises(OutputError, match=f"'--test' must be a regular file .*{path.name}"):
            check_writable(path, name="--test", folder=False)
        with pytest.raises(OutputError, match="must be a regular file"), atomic_file(path):
            pass
        with (
            pytest.raises(OutputError, match="'out' must be a regular file"),
            output_lock(path, name="out", folder=False),
        ):
            pass
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["link", "pipe"]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog, code):
    """A run goes on without a lock, and a warning names the output that nobody guards."""
    fcntl = pytest.importorskip("fcntl")

    def no_lock(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_lock)
    with output_lock(tmp_path / "model", name="out"):
        fill(tmp_path / "model", a="new")
    assert names(tmp_path / "model") == ["a"]
    (record,) = caplog.records
    assert "has no locks" in record.message
    assert str(tmp_path / "model") in record.message


def fill(path, **contents):
    """Write files into a folder that replaces a path."""
    with atomic_folder(path) as folder:
        for name, text in contents.items():
            (folder / name).write_text(text)


def test_a_folder_is_replaced_whole(tmp_path):
    """What the old model's manifest lists goes, the new files come, nothing else is left over."""
    fill(tmp_path / "model", **{"finetuning.json": "{}", "old": "1", "both": "1"})
    fill(tmp_path / "model", **{"finetuning.json": "{}", "new": "2", "both": "2"})
    assert names(tmp_path / "model") == ["both", "finetuning.json", "new"]
    assert (tmp_path / "model" / "both").read_text() == "2"
    listed = json.loads((tmp_path / "model" / "finetuning.json").read_text())["files"]
    assert listed == ["both", "finetuning.json", "new"]
    assert names(tmp_path) == ["model"]


def test_files_of_the_user_stay(tmp_path):
    """What a user put into the folder is carried over, files, folders and links alike."""
    model = tmp_path / "model"
    fill(model, **{"finetuning.json": "{}", "weights": "1"})
    (model / "notes.txt").write_text("mine")
    (model / "plots").mkdir()
    (model / "plots" / "a.png").write_text("mine too")
    (model / "link").symlink_to("notes.txt")
    fill(model, **{"finetuning.json": "{}", "weights": "2"})
    assert (model / "notes.txt").read_text() == "mine"
    assert (model / "plots" / "a.png").read_text() == "mine too"
    assert (model / "link").is_symlink()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_folder(tmp_path, error):
    """An error while the folder is filled leaves the old one as it was."""
    fill(tmp_path / "model", a="old")

    def write():
        with atomic_folder(tmp_path / "model") as folder:
            (folder / "a").write_text("new")
            raise error

    with pytest.raises(error):
        write()
    assert (tmp_path / "model" / "a").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_full_disk_is_an_output_error(tmp_path):
    """An error of the system while writing says what could not be written, and is chained."""
    fill(tmp_path / "model", a="old")

    def write():
        with atomic_folder(tmp_path / "model"):
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="model.*No space left") as caught:
        write()
    assert isinstance(caught.value.__cause__, OSError)
    assert (tmp_path / "model" / "a").read_text() == "old"


def test_a_linked_output_replaces_what_the_link_points_to(tmp_path):
    """A symbolic link stays one, and its target gets the new contents."""
    fill(tmp_path / "real", a="old")
    (tmp_path / "link").symlink_to("real")
    fill(tmp_path / "link", a="new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "new"


@pytest.mark.parametrize("in_one_call", [True, False])
def test_exchange_works_with_and_without_the_system_call(tmp_path, monkeypatch, in_one_call):
    """Where the system can't exchange two folders at once, two renames do."""
    if not in_one_call:
        monkeypatch.setattr(files, "_rename_exchange", lambda one, other: False)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a").write_text("new")
    (tmp_path / "old").mkdir()
    _exchange(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "a").read_text() == "new"


def test_check_writable_takes_a_place_that_does_not_exist_yet(tmp_path):
    """A folder that can be created is fine, and checking creates nothing."""
    check_writable(tmp_path / "a" / "b", name="out")
    assert names(tmp_path) == []


def test_check_writable_refuses_where_a_file_system_begins(tmp_path, monkeypatch):
    """Such as the volume of a container: it can't be exchanged for another folder."""
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == tmp_path)
    with pytest.raises(OutputError, match="'out' can't be replaced whole.*Give a folder inside"):
        check_writable(tmp_path, name="out")
    check_writable(tmp_path / "inside", name="out")


def test_an_open_file_of_the_user_stays_open(tmp_path):
    """What is written to a log in the folder later is not lost."""
    folder = tmp_path / "out"
    (folder / "below").mkdir(parents=True)
    with (folder / "train.log").open("w") as one, (folder / "below" / "b.log").open("w") as two:
        one.write("started\n")
        with atomic_folder(folder) as new:
            (new / "model").write_text("new")
        one.write("done\n")
        two.write("done\n")
    assert (folder / "train.log").read_text() == "started\ndone\n"
    assert (folder / "below" / "b.log").read_text() == "done\n"


def test_check_writable_refuses_a_file(tmp_path):
    """A file where the folder should go is named, and stays."""
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError, match="'out' must be a folder.*taken"):
        check_writable(tmp_path / "taken", name="out")
    assert (tmp_path / "taken").read_text() == "mine"


def test_check_writable_refuses_a_place_below_a_file(tmp_path):
    """A file on the way to the folder makes it unwritable."""
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError, match="'out' can't be written"):
        check_writable(tmp_path / "taken" / "model", name="out")


def test_check_writable_looks_where_will_be_written(tmp_path, monkeypatch):
    """A folder that is written into needs no place beside it, one that is replaced does."""
    tried = []
    temporary_file = tempfile.NamedTemporaryFile

    def recorded(**kwargs):
        tried.append(kwargs["dir"])
        return temporary_file(**kwargs)

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", recorded)
    inside = tmp_path / "volume"
    inside.mkdir()
    check_writable(inside, name="cache_dir", replaced=False)
    check_writable(inside / "new", name="cache_dir", replaced=False)
    check_writable(inside, name="out")
    assert tried == [inside, inside, tmp_path]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_check_writable_refuses_a_folder_without_permission(tmp_path):
    """A parent folder that may not be written to is named before any work is done."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="'out' can't be written"):
            check_writable(tmp_path / "model", name="out")
    finally:
        tmp_path.chmod(0o700)
