"""The directory of an embedded server: created, checked, locked and given to the server's user, without touching what was there.

It holds `cluster/` (PostgreSQL's own), `socket/`, `postgres.log`, `password` and `lock`.
"""

import fcntl
import os
import secrets
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from app.infra.embedded_postgres.binaries import Programs, UnusableDirectory, find_programs

# sun_path has 108 bytes on Linux and 104 on macOS, and `/.s.PGSQL.5432` comes after the directory.
_LONGEST_SOCKET_DIRECTORY = 85


def can_hold(directory: Path) -> bool:
    """Whether a server of ours could run on `directory`, which need not exist; creates nothing."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    return os.access(existing, os.W_OK | os.X_OK) and _enters(existing, find_programs(owner_of=directory / "cluster"))


def make_reachable(home: Path, programs: Programs) -> None:
    """Create `home` and what is missing above it; modes are given only to what is created here."""
    existing = next(path for path in (home, *home.parents) if path.exists())
    _require_entry(home, existing, programs)
    missing = [path for path in (home, *home.parents) if not path.exists()]
    try:
        for path in reversed(missing):
            path.mkdir()
            path.chmod(0o755)
        if home in missing:
            home.chmod(0o711)
    except OSError as error:
        raise UnusableDirectory(f"The data directory {home} cannot be created: {error.strerror}. {_advice(programs)}") from None
    if not home.is_dir():
        raise UnusableDirectory(f"The data directory {home} is not a directory. {_advice(programs)}")
    if not os.access(home, os.W_OK | os.X_OK):
        raise UnusableDirectory(f"The data directory {home} cannot be written to by you. {_advice(programs)}")


def _require_entry(home: Path, existing: Path, programs: Programs) -> None:
    """Asked before anything is created, so that a refusal leaves nothing behind."""
    if not existing.is_dir() or _enters(existing, programs):
        return
    blocked = next(path for path in (*reversed(existing.parents), existing) if not _enters(path, programs))
    why = f"PostgreSQL does not run as root, and user {programs.user_name()}" if programs.user_id is not None else "you"
    raise UnusableDirectory(f"The data directory {home} cannot be used: {why} cannot enter {blocked}. {_advice(programs)}")


def _enters(path: Path, programs: Programs) -> bool:
    command = ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(path)]
    return subprocess.run(command, cwd="/", capture_output=True, check=False, **programs.identity()).returncode == 0


def _advice(programs: Programs) -> str:
    where = "/var/lib/tollgate" if programs.user_id is not None else "a directory of yours, such as ~/.local/state/tollgate"
    return f"Name a directory that can be used with --data, for example {where}."


def take(home: Path) -> IO[bytes]:
    """One owner at a time. The lock goes with its process, however that ends."""
    lock = private(home / "lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise UnusableDirectory(
            f"The data directory {home} is in use by another process. Stop that one, or name another with --data."
        ) from None
    return lock


def private(path: Path) -> IO[bytes]:
    """To write at its end, for our eyes only: log lines quote rows, and a lock that others may open can be held by them."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def own(directory: Path, programs: Programs) -> None:
    """Make `directory` the server's, 0700. Through a descriptor: a link that somebody put there must not be followed by root."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise UnusableDirectory(f"{directory} cannot be used: {error.strerror}. {_advice(programs)}") from None
    try:
        if programs.user_id is not None and programs.group_id is not None and os.fstat(opened).st_uid == 0:
            os.fchown(opened, programs.user_id, programs.group_id)
        if os.fstat(opened).st_uid != (os.geteuid() if programs.user_id is None else programs.user_id):
            raise UnusableDirectory(f"{directory} belongs to another user. {_advice(programs)}")
        os.fchmod(opened, 0o700)
    finally:
        os.close(opened)


def read_password(home: Path) -> str:
    file = home / "password"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(16), encoding="ascii")
    return file.read_text(encoding="ascii")


def make_socket_directory(home: Path, programs: Programs) -> Path:
    directory = home / "socket"
    if len(str(directory)) > _LONGEST_SOCKET_DIRECTORY:
        # TMPDIR may be as long as the name that is too long.
        directory = Path(tempfile.mkdtemp(prefix="tg-", dir="/tmp"))
    own(directory, programs)
    return directory
