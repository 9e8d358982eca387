"""Texts from outside: which may name an image or a file, and how any of them is shown."""

import re

_NOT_A_NAME = re.compile(
    r"^$|^/|^[A-Za-z]:|(?:^|/)\.\.(?:/|$)"  # nothing, or leads out of a folder
    r"|[\\\x00-\x1f\x7f-\x9f\ud800-\udfff]"  # so it would elsewhere; steers terminals; not UTF-8
)
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


def printable(text: str) -> str:
    """The text on one line, with escapes in place of what would steer a terminal."""
    line = re.sub(r"\s*\n\s*", " ", text)
    return _NOT_SHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), line)
