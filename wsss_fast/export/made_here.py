"""Which files of machine code this user's own `wsss export` wrote.

Who owns a file says nothing: what was downloaded is the user's too. So `write_aoti` leaves a note in the cache that is closed to
others, named by the SHA-256 of the file, and a file without such a note is loaded with a warning. Engines of TensorRT need no
warning: without a record in the same cache they are not loaded at all (`trt/cache.py`).
"""

from __future__ import annotations

import logging
from pathlib import Path

from wsss_fast.export.trt.cache import cache_folder, is_private, make_private
from wsss_fast.files.names import printable
from wsss_fast.files.whole import file_sha256

logger = logging.getLogger("wsss_fast.export")

_SUFFIX = ".made"


def remember(path: Path) -> None:
    folder = cache_folder()
    try:
        make_private(folder)
        (folder / f"{file_sha256(path)}{_SUFFIX}").touch()
    except OSError as error:
        logger.warning("nothing can be noted in '%s' (%s): whoever loads '%s' will be warned of it", folder, error, path.name)


def known(path: Path) -> bool:
    """Reads only: a job that labels writes to its own folder alone."""
    folder = cache_folder()
    try:
        return is_private(folder) and (folder / f"{file_sha256(path)}{_SUFFIX}").is_file()
    except OSError:
        return False


def warn_of_code(path: Path) -> None:
    """To be called before the code is loaded."""
    if not known(path):
        logger.warning(
            "'%s' is machine code, which runs with all your rights, and your `wsss export` did not write it on this machine: "
            "load only what you or people you trust have made",
            printable(str(path)),
        )
