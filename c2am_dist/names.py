"""Texts from outside: which may name an image or a file, and how any of them is shown."""

import hashlib
import re

_NOT_A_NAME = re.compile(
    r"^$|^/|^[A-Za-z]:|(?:^|/)\.\.(?:/|$)"  # nothing, or leads out of a folder
    r"|[\\\x00-\x1f\x7f-\x9f\ud800-\udfff]"  # so it would elsewhere; steers terminals; not UTF-8
)
_UNUSUAL = re.compile(rb"[^A-Za-z0-9_.-]|^\.|\.\Z")
_MAX_PART_BYTES = 200
"""Of 255 that file systems and object stores take, so that an extension has room."""
# Control characters, half characters, and those that turn the direction of what follows.
_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def check(name: str, what: str) -> None:
    """Refuses a name that, taken for a path below a folder, could lead out of it.

    So would an absolute path, ``..``, and on some systems a backslash or a drive. Refused too
    are control characters, and what cannot be written as UTF-8.

    Args:
        name: parts separated by slashes.
        what: what it names, for the message.

    Raises:
        ValueError: it is refused; the message is fit for a terminal.
    """
    if _NOT_A_NAME.search(name):
        raise ValueError(
            f"{what} {name!r:.200} must be a relative path without '..', backslash, drive or "
            "control characters"
        )


def file_path(image_id: str, *, keep_dots: bool = True) -> str:
    """A path for an image's files, without extension, that every file system and URL takes.

    Its parts hold letters and digits of ASCII and ``_-.``; any other byte, and dots at the ends
    of a part or in a folder's name, become ``~`` and two hexadecimal digits. A part that is then
    longer than 200 bytes is cut off and ends in ``~~`` and a digest. Different ids give different
    paths, below the folder they are taken from, and no file is called like a folder.

    Args:
        image_id: any text; its slashes stay.
        keep_dots: whether dots within the last part stay.
    """
    *folders, last = image_id.encode("utf-8", "surrogatepass").split(b"/")
    parts = [_part(folder, keep_dots=False) for folder in folders]
    return "/".join([*parts, _part(last, keep_dots=keep_dots)])


def _part(part: bytes, *, keep_dots: bool) -> str:
    if not part:
        return "~0"  # "a//b" is not "a/b"
    escaped = _UNUSUAL.sub(lambda found: b"~%02x" % found[0][0], part).decode()
    if not keep_dots:
        escaped = escaped.replace(".", "~2e")
    if len(escaped) <= _MAX_PART_BYTES:
        return escaped
    digest = hashlib.blake2b(part, digest_size=16).hexdigest()
    return f"{escaped[: _MAX_PART_BYTES - 2 - len(digest)]}~~{digest}"


def printable(text: str) -> str:
    """The text on one line, with escapes in place of what would steer a terminal."""
    line = re.sub(r"\s*\n\s*", " ", text)
    return _NOT_SHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), line)
