"""Writes files and folders whole or not at all, so that they survive a power cut. Every file that this program writes
goes through here. A file is written under a temporary name beside its own, synced to the disk, renamed, and then its
folder is synced: without the first sync a power cut leaves an empty file under the final name, without the second the
rename is lost. Temporary names have one pattern, `.NAME.PROCESS-THREAD.part`, so that the next process that writes the
same output recognises and removes the files of a killed process; nothing else is ever removed.

Errors of the disk become a `DiskError` of one sentence, whichever library raised them. Not here: reading (`reading`),
locks of run folders (`runs.lock`).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from blankfill.errors import UserError, setting

REMEDY = f"give another {setting('out')}"
LONGEST = 200
"""Bytes of a name that its temporary name repeats; file systems allow 255."""
FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.ENOSYS}
"""Errors of file systems that cannot sync folders, and of pipes."""


class DiskError(UserError):
    """A file or folder could not be written; `full`: the disk (or the user's quota) has no space left, so that the
    remedy begins with free space."""

    def __init__(self, path: Path, number: int, remedy: str) -> None:
        self.path = path
        self.number = number
        self.remedy = remedy
        self.full = number in FULL
        space = "free some space, or " if self.full else ""
        super().__init__(f"{path} cannot be written ({os.strerror(number)}); {space}{remedy}")

    def __reduce__(self) -> tuple[type[DiskError], tuple[Path, int, str]]:
        return (type(self), (self.path, self.number, self.remedy))


def error_number(error: BaseException) -> int | None:
    """Return the errno of a disk error, also where a library (safetensors, tokenizers, numpy) gives only a text; None
    for other errors.
    """
    if isinstance(error, OSError) and error.errno:
        return error.errno
    text = str(error)
    if match := re.search(r"\(os error (\d+)\)", text):  # Rust's wording
        return int(match[1])
    if isinstance(error, OSError) and re.search(r"\d+ requested and \d+ written", text):  # numpy's short write
        return errno.ENOSPC
    return errno.EIO if isinstance(error, OSError) and not text else None


def disk_error(path: Path, error: BaseException, remedy: str = REMEDY) -> DiskError | None:
    """Return the DiskError for an error while writing `path`, None when it is not a disk error."""
    number = error_number(error)
    return None if number is None else DiskError(path, number, remedy)


@contextmanager
def disk_errors(path: Path, remedy: str = REMEDY, only: Collection[int] | None = None) -> Iterator[None]:
    """Turn errors of the disk inside the block into a DiskError that names `path`.

    only: the errnos to turn, where the block does much else. An OSError that names a file elsewhere passes through: it
    is not about `path`.
    """
    try:
        yield
    except DiskError as error:
        if _has_part(path, error.path):  # the name of a temporary file would not help the user
            raise DiskError(path, error.number, remedy) from error
        raise
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None and not _concerns(path, error.filename):
            raise
        if only is not None and error_number(error) not in only:
            raise
        disk = disk_error(path, error, remedy)
        if disk is None:
            raise
        raise disk from error


def _concerns(path: Path, name: object) -> bool:
    """Return whether an error names `path`, its temporary file, a file inside it, or a folder above it."""
    if not isinstance(name, str | bytes):
        return True  # a file descriptor
    named, own = Path(os.fsdecode(name)).absolute(), path.absolute()
    return own.is_relative_to(named) or named.is_relative_to(own) or _has_part(own, named)


def _has_part(path: Path, named: Path) -> bool:
    """Return whether `named` is a temporary file or folder of `path`, or lies inside one."""
    pattern = _parts_of(re.escape(_short(path.name)))
    return any(part.parent == path.parent and pattern.fullmatch(part.name) for part in (named, *named.parents))


def write_file(path: Path, content: str | bytes, remedy: str = REMEDY) -> None:
    """Write a file whole and durably; text as UTF-8 with its line ends unchanged. Raises DiskError."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with whole_file(path, "wb", remedy) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path, mode: str = "wb", remedy: str = REMEDY, follow: bool = False) -> Iterator[IO[Any]]:
    """Open a file that is renamed to `path` when the block succeeds; otherwise the previous file stays.

    mode: "wb", or "w" for UTF-8 text with line feeds. follow: see `whole_path`. Raises DiskError.
    """
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    with whole_path(path, remedy, follow) as part, open(part, mode, encoding=encoding, newline=newline) as file:
        yield file


@contextmanager
def whole_path(path: Path, remedy: str = REMEDY, follow: bool = False) -> Iterator[Path]:
    """Yield a temporary path; the file that the block writes there is synced and renamed to `path` when the block
    succeeds.

    follow: whether to follow a link at `path`, as suits a path that the user named; by default the link itself is
    replaced, since a folder from elsewhere may hold links to the user's own files. A device or a pipe is written
    directly (a library that renames a file of its own, such as safetensors, would replace it). Raises DiskError.
    """
    if is_special(path):
        with disk_errors(path, remedy):
            yield path
        return
    target = path.resolve() if follow and path.is_symlink() else path
    part = part_of(target)
    with disk_errors(path, remedy):
        remove_leftovers(target)
        remove(part)  # a link there would be followed
        try:
            yield part
            sync_file(part)
            part.replace(target)
            sync_folder(target.parent)
        except BaseException:
            remove(part)
            raise


@contextmanager
def whole_folder(out: Path, remedy: str = REMEDY) -> Iterator[Path]:
    """Yield an empty temporary folder, which is synced with its content and renamed to `out` at the end.

    `out` must not exist, or be an empty folder. The folders above it are made. Raises DiskError.
    """
    part = part_of(out)
    with disk_errors(out, remedy):
        remove_leftovers(out)
        remove(part)
        try:
            make_folder(out.parent)
            part.mkdir()
            yield part
            sync_tree(part)
            if out.is_dir() and not out.is_symlink():
                out.rmdir()
            part.rename(out)
            sync_folder(out.parent)
        except BaseException:
            remove(part)
            raise


def make_folder(path: Path) -> None:
    """Make a folder and the folders above it, syncing each new name. Raises OSError."""
    missing = []
    folder = path
    while not folder.exists():
        missing.append(folder)
        if folder == folder.parent:
            break
        folder = folder.parent
    path.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_folder(made.parent)


def path_from(folder: Path, path: Path) -> str:
    """Return the path of a file or folder relative to a folder, to be recorded there; `path_seen_from` reads it.

    Steps up are counted from the real location of the folder, past links on the way. A link at `path` itself stays.
    """
    return os.path.relpath(Path(os.path.realpath(path.parent)) / path.name, os.path.realpath(folder))


def path_seen_from(folder: Path, noted: str) -> Path:
    """Return the path that `path_from` recorded, without superfluous steps up and down; where no file is there, count
    the steps along the links, as earlier versions did.
    """
    path = folder / noted
    along = Path(os.path.normpath(folder.absolute() / noted))
    return along if not path.exists() and along.exists() else flat(path)


def flat(path: Path) -> Path:
    """Return a path without superfluous steps up and down, if it leads to the same file or folder."""
    short = Path(os.path.normpath(path))
    return short if short.exists() and path.exists() and short.samefile(path) else path


def own_folder(path: Path) -> Path:
    """Make a folder that this program fills and clears. Raises UserError when a link or a file has its name: the target
    of a link must not be cleared.
    """
    refuse_link(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file where a work folder belongs; move it away")
    with disk_errors(path):
        make_folder(path)
    return path


def refuse_link(path: Path) -> None:
    """Raise UserError when a work folder is a link, which a folder from elsewhere may hold."""
    if path.is_symlink() or (hasattr(path, "is_junction") and path.is_junction()):
        raise UserError(
            f"{path} is a link to {path.readlink()}, and a work folder must not be one, since it is cleared; "
            "remove the link or give another folder"
        )


def refuse_input(out: Path | None, *sources: Path | None) -> None:
    """Raise UserError when the output is one of the input files, which would be lost; devices and pipes, such as a
    terminal, are allowed.
    """
    for source in sources:
        if out is None or source is None or is_special(out):
            continue
        try:
            same = out.samefile(source)
        except OSError:  # one of the two does not exist
            continue
        if same:
            raise UserError(f"{setting('out', out)} is the file that is read, which would be lost; give another name")


def part_of(path: Path) -> Path:
    """Return the temporary name of an output of this process and thread."""
    return path.with_name(f".{_short(path.name)}.{os.getpid()}-{threading.get_native_id()}.part")


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files and folders of `path` whose processes have ended, and nothing else."""
    remove_parts(path.parent, re.escape(_short(path.name)))


def remove_parts(folder: Path, names: str = ".+") -> None:
    """Remove the temporary files and folders in `folder` whose processes have ended and whose outputs match `names`."""
    pattern = _parts_of(names)
    for path in entries(folder):
        match = pattern.fullmatch(path.name)
        if match and not _alive(int(match["process"])):
            remove(path)


def entries(folder: Path) -> list[Path]:
    """Return the entries of a folder, in no order; none when the folder cannot be read."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _parts_of(names: str) -> re.Pattern[str]:
    """Return the temporary names of the outputs that match the regular expression `names`."""
    return re.compile(rf"\.(?:{names})\.(?P<process>\d+)-\d+\.part", re.DOTALL)


def remove(path: Path) -> None:
    """Remove a file or a folder as far as possible; of a link only the link."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        return


def sync_file(path: Path) -> None:
    """Sync the content of a file to the disk. Raises OSError."""
    with open(path, "rb+") as file:
        _sync(file.fileno())


def sync_folder(path: Path) -> None:
    """Sync the names in a folder to the disk, where the system can (not on Windows). Raises OSError."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        _sync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """Sync a file, or a folder with everything in it, to the disk; links are left alone. Raises OSError."""
    if path.is_symlink():
        return
    if not path.is_dir():
        sync_file(path)
        return
    for entry in path.iterdir():
        sync_tree(entry)
    sync_folder(path)


def _sync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def is_special(path: Path) -> bool:
    """Return whether a path leads to a device, a pipe or a socket, or is a link of the system such as /dev/stdout."""
    if path.is_symlink() and path.absolute().parts[1:2] in (("dev",), ("proc",)):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _short(name: str) -> str:
    """Return a name, or its beginning and a hash where it is long."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) <= LONGEST:
        return name
    beginning = encoded[: LONGEST - 17].decode("utf-8", "ignore")
    import hashlib  # takes time that the help of a command does not need

    return f"{beginning}-{hashlib.blake2b(encoded, digest_size=8).hexdigest()}"


def _alive(process: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(process))
