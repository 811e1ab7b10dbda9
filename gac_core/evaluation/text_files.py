"""Texts of one's own, over which bits per byte are measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from gac_core.errors import ConfigError

BYTES: Final = 20_000  # of a text, if nothing else is said
FEWEST_BYTES: Final = 1_000
_MARKS_OF_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Text:
    """A text that is predicted.

    Attributes:
        name: what results call it.
        data: the text.
        size: the bytes of the whole text, of which `data` may be the beginning.

    """

    name: str
    data: str
    size: int

    @classmethod
    def of(cls, name: str, data: str, limit: int = BYTES) -> Self:
        """The beginning of a text.

        Args:
            name: what results call it.
            data: the text.
            limit: the most bytes that are taken.

        Raises:
            ConfigError: too little is left to tell systems apart.

        """
        encoded = data.encode()
        taken = encoded[:limit].decode(errors="ignore")
        if len(taken.encode()) < FEWEST_BYTES:
            raise ConfigError(
                f"{name} has {len(encoded):,} bytes, of which {limit:,} are taken; to tell systems "
                f"apart takes {FEWEST_BYTES:,} or more"
            )
        return cls(name, taken, len(encoded))


def read_texts(paths: Sequence[str | Path], limit: int = BYTES) -> tuple[Text, ...]:
    """The beginnings of text files, named by the files, or by their paths if names are the same.

    Args:
        paths: files in UTF-8.
        limit: the most bytes that are taken of each.

    Raises:
        ConfigError: a file can not be read, is named twice, or has too little text.

    """
    files = [Path(path) for path in paths]
    if doubles := [path for path in files if files.count(path) > 1]:
        raise ConfigError(f"the text {doubles[0]} is named twice; name it once")
    names = [path.name for path in files]
    return tuple(
        Text.of(path.name if names.count(path.name) == 1 else str(path), read_utf8(path), limit)
        for path in files
    )


def read_utf8(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        ConfigError: there is no such file, or it is no UTF-8.

    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} can not be read: {error.strerror or error}") from error
    if data.startswith(_MARKS_OF_UTF_16):
        raise ConfigError(f"{path} begins with the byte order mark of UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}, line {number}: byte {error.start} of the file is no UTF-8; save it as UTF-8"
        ) from error
