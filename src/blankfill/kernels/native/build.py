"""Compiles the C files of this folder to a library, once, and keeps it in the user's cache folder.

A library is loaded only from a folder that belongs to this user and that no other user can write: one in the cache
folder, else a temporary one of this process. The file ends with the SHA-256 of what is before it, so that a damaged one
is compiled again, and gets its name when it is whole, so that any process may be killed at any time. Of several
processes one compiles, and the others wait for it. Its name is a digest of the source, the flags, the processor's
architecture and the C library; which instructions are used is decided at run time, so a home folder may be shared by
different processors. Libraries that were not used for a month, as those of older versions, are removed when a new one
is made.

No failure here is an error: without a library everything is computed by torch. The reason is logged at debug level,
and `blankfill doctor` shows it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from blankfill.system.console import say

LOG = logging.getLogger(__name__)
VARIABLE = "BLANKFILL_NATIVE"
"""Environment variable; `off` computes everything with torch."""
SOURCE = Path(__file__).parent
FILES = (
    "pool.c", "integer_products.c", "dequantize.c", "float_products.c", "dynamic_products.c", "short_attention.c",
    "decoding.c",
)  # fmt: skip
"""Files that are compiled."""
HEADERS = ("products.h", "activations.h", "decoding.h", "decoding_body.h")
"""Files that they include."""
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-fno-math-errno", "-Wno-psabi", "-fvisibility=default")
"""Flags of gcc and clang. The instructions are chosen in the source, for each function."""
COMPILERS = ("cc", "gcc", "clang")
"""Programs that are looked for, after that of the environment variable CC."""
SECONDS = 120
"""Time for a compilation; it takes some seconds."""
SILENT = 2.0
"""Seconds of a compilation before a message to the user."""
UNUSED = 30 * 86400
"""Seconds after which a library that was not used is removed."""
PART = ".part-"
"""Beginning of the names of folders in which a library is made."""
DIGEST = 32
"""Bytes of the digest at the end of a file."""


class NoLibraryError(Exception):
    """There is no library; the text says why."""


def turned_off() -> bool:
    """Return whether the user has turned the kernels off."""
    return os.environ.get(VARIABLE, "").lower() in ("off", "0", "no", "false")


def library_file() -> tuple[Path, bool]:
    """Return the path of the compiled library, which may be loaded, and whether it is in a temporary folder, which is
    to be removed then.

    Raises:
        NoLibraryError: It is turned off, this system or compiler cannot make one, or there is no safe place to keep it.
    """
    if turned_off():
        raise NoLibraryError(f"{VARIABLE} is off")
    if not sys.platform.startswith("linux"):
        raise NoLibraryError("only Linux shares the threads of torch")
    if sys.byteorder != "little" or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise NoLibraryError("the kernels are made for 64 bits and the least byte first")
    name = f"products-{digest()}.so"
    try:
        folder = own_folder(cache_folder())
        file = folder / name
        if not whole(file):
            with alone(folder):
                return (file if whole(file) else compiled(folder, name)), False
        keep(file)
        return file, False
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        LOG.debug("the cache folder is not used: %s", error)
    try:
        place = Path(tempfile.mkdtemp(prefix="blankfill-"))
    except OSError as error:
        raise NoLibraryError(f"there is no place for the library: {error}") from None
    try:
        check_safe(place)
        return compiled(place, name), True
    except (OSError, NoLibraryError) as error:
        shutil.rmtree(place, ignore_errors=True)
        raise NoLibraryError(str(error)) from None


def cache_folder() -> Path:
    """Return the folder for libraries of this user."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "blankfill" / "native"


def digest() -> str:
    """Return what the library depends on, as 32 hexadecimal digits."""
    made = hashlib.sha256()
    for name in (*HEADERS, *FILES):
        made.update((SOURCE / name).read_bytes())
    made.update(repr((FLAGS, platform.machine(), platform.libc_ver())).encode())
    return made.hexdigest()[:32]


def own_folder(folder: Path) -> Path:
    """Make a folder that is this user's alone, and return it. Raises OSError where it is not."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_safe(folder)
    return folder


def check_safe(folder: Path) -> None:
    """Raise PermissionError where another user than this one and root could change a folder or replace it."""
    user = os.geteuid()
    for number, path in enumerate((folder, *folder.resolve().parents)):
        known = path.lstat()
        mine = known.st_uid == user if number == 0 else known.st_uid in (user, 0)
        # a sticky folder such as /tmp lets nobody else rename what is in it
        others = known.st_mode & 0o022 and not (number and known.st_mode & stat.S_ISVTX)
        if not stat.S_ISDIR(known.st_mode) or not mine or others:
            raise PermissionError(f"{path} belongs to another user, or other users can write it")


def whole(file: Path) -> bool:
    """Return whether a library is there and undamaged. Raises OSError where it cannot be read or is not this user's."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    with os.fdopen(handle, "rb") as opened:
        known = os.fstat(handle)
        if not stat.S_ISREG(known.st_mode) or known.st_uid != os.geteuid() or known.st_mode & 0o022:
            raise PermissionError(f"{file} belongs to another user, or other users can write it")
        content = opened.read()
    return len(content) > DIGEST and hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this block, at most the time of a compilation."""
    import fcntl

    handle, end = os.open(folder, os.O_RDONLY | os.O_DIRECTORY), time.monotonic() + SECONDS
    try:
        while time.monotonic() < end:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # a file system without locks: then each process compiles
                break
        yield
    finally:
        os.close(handle)


def compiled(folder: Path, name: str) -> Path:
    """Compile the library into a folder. Raises NoLibraryError where that fails, and OSError of the disk."""
    command = compiler()
    remove_leftovers(folder)
    with tempfile.TemporaryDirectory(prefix=PART, dir=folder) as place:
        made, objects = Path(place) / name, [f"{Path(place) / file}.o" for file in FILES]
        end = time.monotonic() + SECONDS
        each = [[*FLAGS, "-c", str(SOURCE / file), "-o", into] for file, into in zip(FILES, objects, strict=True)]
        for step in (each, [["-shared", "-o", str(made), *objects]]):
            run_all([[*command, *arguments] for arguments in step], place, end)
        content = made.read_bytes()
        whole_one = Path(place) / f"{name}.whole"
        with open(whole_one, "wb") as file:
            file.write(content + hashlib.sha256(content).digest())
            file.flush()
            os.fsync(file.fileno())
        whole_one.chmod(0o700)
        whole_one.replace(folder / name)
    return folder / name


def run_all(commands: Sequence[Sequence[str]], place: str, end: float) -> None:
    """Run commands of the compiler at the same time, and tell the user where they take long. end: on the monotonic
    clock. Raises NoLibraryError where one fails or they take too long; then none of them runs any more."""
    variables = {**os.environ, "TMPDIR": place, "LC_ALL": "C"}
    running: list[subprocess.Popen[bytes]] = []
    try:
        for k, command in enumerate(commands):
            with open(Path(place) / f"{k}.log", "wb") as log:
                running.append(
                    subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables, start_new_session=True
                    )
                )
        for k, process in enumerate(running):
            if wait(process, end):
                said = (Path(place) / f"{k}.log").read_text("utf-8", "replace").strip()
                raise NoLibraryError(f"{commands[k][0]} failed: {said[-500:]}")
    finally:
        for process in running:
            if process.poll() is None:  # it and what it has started
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait(process: subprocess.Popen[bytes], end: float) -> int:
    """Return the exit status of a process. Raises NoLibraryError at the end of the time."""
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(min(SILENT, max(0.0, end - time.monotonic())))
        notify()
        return process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise NoLibraryError(f"the compiler took more than {SECONDS} seconds") from None


@functools.cache
def notify() -> None:
    """Tell the user, once in a process, that kernels are being compiled."""
    say("Compiling kernels for this processor; this takes some seconds, once.")


def keep(file: Path) -> None:
    """Note that a library is in use, at most once a day."""
    with contextlib.suppress(OSError):
        if time.time() - file.stat().st_mtime > 86400:
            os.utime(file)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left behind, and libraries that are not used any more; a process that has loaded
    one keeps it."""
    now = time.time()
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{PART}*"):
            if now - path.lstat().st_mtime > 10 * SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        for path in folder.glob("products-*.so"):
            known = path.lstat()
            if now - known.st_mtime > UNUSED and stat.S_ISREG(known.st_mode) and known.st_uid == os.geteuid():
                path.unlink()


def compiler() -> list[str]:
    """Return the command of the C compiler. Raises NoLibraryError where there is none."""
    try:
        given = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise NoLibraryError(f"CC is no command: {error}") from None
    for command in [given] * bool(given) + [[name] for name in COMPILERS]:
        if path := shutil.which(command[0]):
            return [path, *command[1:]]
    raise NoLibraryError("there is no C compiler (cc, gcc or clang)")
