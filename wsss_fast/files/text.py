"""Text files from strangers: of bounded size and in UTF-8."""

from __future__ import annotations

import io
import os
from pathlib import Path

from wsss_fast.files.names import shown
from wsss_fast.files.regular import open_to_read

LARGEST_TEXT = 1 << 30


class TextError(ValueError):
    """A text file cannot be read. The message says which and why; whoever reads says for what."""


def read_text(path: Path, most: int = LARGEST_TEXT) -> str:
    try:
        with io.TextIOWrapper(open_to_read(path), encoding="utf-8-sig") as file:
            if os.fstat(file.fileno()).st_size > most:
                raise TextError(f"{shown(path)} is larger than {most >> 20} MiB")
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise TextError(f"there is no file {shown(path)}") from None
    except OSError as error:
        raise TextError(f"cannot read {shown(path)}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TextError(f"{shown(path)} is no text in UTF-8. Hint: save it as UTF-8") from None
