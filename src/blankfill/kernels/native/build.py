"""Compiles the C files of this folder to a library, once, and keeps it in the user's cache folder.

A library is loaded only from a folder that belongs to this user and that no other user can write: one in the cache
folder, else a temporary one of this process. The file ends with the SHA-256 of what is before it, so that a damaged one
is compiled again, and gets its name when it is whole, so that several processes may compile at once and any of them may
be killed. Its name is a digest of the source, the flags, the processor's architecture and the C library; which
instructions are used is decided at run time, so a home folder may be shared by different processors.

No failure here is an error: without a library everything is computed by torch. The reason is logged at debug level.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-Wno-psabi", "-fvisibility=default")
"""Flags of gcc and clang. The instructions are chosen in the source, for each function."""
COMPILERS = ("cc", "gcc", "clang")
"""Programs that are looked for, after that of the environment variable CC."""
SECONDS = 120
"""Time for a compilation; it takes some seconds."""
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
    name = f"products-{digest()}.so"
    try:
        folder = own_folder(cache_folder())
        return (folder / name if whole(folder / name) else compiled(folder, name)), False
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


def compiled(folder: Path, name: str) -> Path:
    """Compile the library into a folder. Raises NoLibraryError where that fails, and OSError of the disk."""
    command = compiler()
    remove_leftovers(folder)
    with tempfile.TemporaryDirectory(prefix=PART, dir=folder) as place:
        made = Path(place) / name
        try:
            subprocess.run(
                [*command, *FLAGS, "-o", str(made), *(str(SOURCE / file) for file in FILES)],
                check=True, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL,
                env={**os.environ, "TMPDIR": place, "LC_ALL": "C"},
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            raise NoLibraryError(f"{command[0]} failed: {error.stderr.strip()[-500:]}") from None
        except subprocess.TimeoutExpired:
            raise NoLibraryError(f"{command[0]} took more than {SECONDS} seconds") from None
        content = made.read_bytes()
        whole_one = Path(place) / f"{name}.whole"
        with open(whole_one, "wb") as file:
            file.write(content + hashlib.sha256(content).digest())
            file.flush()
            os.fsync(file.fileno())
        whole_one.chmod(0o700)
        whole_one.replace(folder / name)
    return folder / name


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left behind."""
    for path in folder.glob(f"{PART}*"):
        if time.time() - path.lstat().st_mtime > 10 * SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def compiler() -> list[str]:
    """Return the command of the C compiler. Raises NoLibraryError where there is none."""
    given = shlex.split(os.environ.get("CC", ""))
    for command in [given] * bool(given) + [[name] for name in COMPILERS]:
        if path := shutil.which(command[0]):
            return [path, *command[1:]]
    raise NoLibraryError("there is no C compiler (cc, gcc or clang)")
