"""What a URI says: its scheme, its path, its names. Text alone; nothing is looked up."""

import fnmatch
import os
import re
import urllib.parse
from collections.abc import Sequence

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_ONE_SLASH = re.compile(r"^(s3|gs|file|https?):(?!//)", re.IGNORECASE)
_SECRET = re.compile(
    r"^[^/]*[@:]|[?&](access_key|secret_key|session_token|aws\w*|x-amz-\w+)=", re.IGNORECASE
)


def split(uri: str) -> tuple[str, str]:
    """The scheme with its slashes, empty for local files, and the path; asks no network."""
    if not uri:
        raise ValueError("empty URI")
    if _ONE_SLASH.match(uri):
        raise ValueError(f"{uri}: a URI has two slashes after its scheme, as in s3://bucket")
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return "", os.path.abspath(os.path.expanduser(uri))
    rest = uri[scheme.end() :]
    if scheme.group().lower() == "file://":
        host, _, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise ValueError(f"{uri}: a file:// URI has three slashes, as in file:///data")
        return "", os.path.abspath("/" + urllib.parse.unquote(path))
    if _SECRET.search(rest):  # which would end up in configs, logs and metadata
        raise ValueError(
            f"a URI that begins with {scheme.group()} has credentials in it: put them into the "
            "environment or a profile"
        )
    if not rest.partition("/")[0]:
        raise ValueError(f"{uri}: names no bucket")
    return scheme.group().lower(), rest.rstrip("/")


def join(uri: str, *parts: str) -> str:
    """The URI of what lies below another."""
    return "/".join([uri.rstrip("/"), *parts])


def name(uri: str) -> str:
    """The last part of a URI: ``s3://bucket/a/b.parquet`` -> ``b.parquet``."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def absolute(uri: str) -> str:
    """The URI with a local path made absolute, so that it means the same on every worker."""
    return "".join(split(uri))


def with_path(uri: str, path: str) -> str:
    """The URI of another path on the same filesystem; local files become absolute paths."""
    return split(uri)[0] + path


def matches(uri: str, pattern: str) -> bool:
    """Whether the path of a URI is one that a glob means; ``**`` stands for any folders."""
    return _matches(_SCHEME.sub("", uri).split("/"), pattern.split("/"))


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    is_match = bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0])
    return is_match and _matches(parts[1:], pattern[1:])
