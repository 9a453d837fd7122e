"""Where compiled kernels are kept. Numba refuses to start where it cannot write, even if all that it needs is there.

Nor does it see that a kernel is old when only a module changed whose functions were compiled into it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from service.errors import TickwatchError


def settle() -> None:
    """Before Numba is imported: if none of the folders that it would use can be written to, give it a temporary one.

    What NUMBA_CACHE_DIR holds goes along, so that a read-only image brings its kernels compiled. The folder is private, because
    Numba's files are pickles, and goes with the process. Raises TickwatchError where nothing at all can be written to.
    """
    forget_old(Path(__file__).parent)
    given = os.environ.get("NUMBA_CACHE_DIR")
    if any(map(_writable, [Path(given)] if given else [Path(__file__).parent / "__pycache__", *_personal()])):
        return
    folder = _temporary()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for file in Path(given).glob("*/*.nb?") if given else ():
        place = folder / file.parent.name
        place.mkdir(exist_ok=True)
        shutil.copyfile(file, place / file.name)
    os.environ["NUMBA_CACHE_DIR"] = str(folder)


def forget_old(package: Path) -> None:
    """Remove the kernels beside the modules of `package` that are older than any of these."""
    newest = max(module.stat().st_mtime for module in package.glob("*.py"))
    for kernel in (package / "__pycache__").glob("*.nb?"):
        if kernel.stat().st_mtime < newest and os.access(kernel.parent, os.W_OK):
            kernel.unlink(missing_ok=True)


def _personal() -> list[Path]:
    """The user's own cache, if there is a user: a container may run under a number that nobody has."""
    try:
        return [Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"]
    except RuntimeError:
        return []


def _writable(folder: Path) -> bool:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(nearest, os.W_OK | os.X_OK)


def _temporary() -> Path:
    try:
        parent = tempfile.gettempdir()
    except FileNotFoundError:
        parent = "/dev/shm"  # noqa: S108  (what a container has without being asked)
    try:
        return Path(tempfile.mkdtemp(prefix="tickwatch-kernels-", dir=parent))
    except OSError as error:
        raise TickwatchError(
            "no folder can be written to, and compiled kernels need one: mount a tmpfs at /tmp, or name a folder in TMPDIR"
        ) from error
