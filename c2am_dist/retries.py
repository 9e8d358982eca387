"""What is transient in an object store is tried again; every error begins with its URI."""

import functools
import logging
import os
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import tenacity

from c2am_dist import names

PATIENCE_S = float(os.environ.get("C2AM_STORAGE_PATIENCE_S", "120"))
"""For how long an operation is tried again before its error counts."""
BACKOFF_S = 0.5
"""Upper bound of the first wait; it doubles each time, up to 20 s, and the wait is random."""

_CODE = re.compile(r"(?:ExceptionName: |AWS Error (?!UNKNOWN)|::Status\()(\w+)")
_BAD_TLS = re.compile(r"curlCode: (60|77)\b")  # a certificate that no retry makes valid
_HTTP_STATUS = re.compile(r"HTTP status (\d{3})")
# Codes as S3, the two SDKs and Google's library spell them, in lower case without underscores.
_TRANSIENT = frozenset(
    "slowdown serviceunavailable internalfailure internalerror throttling throttlingexception "
    "requesttimeout operationaborted networkconnection endpointconnectionerror connectionerror "
    "connectionclosederror connecttimeouterror readtimeouterror httpclienterror "
    "responsestreamingerror incompletereaderror "
    "nosuchupload "  # of a part: somebody swept it away, and the whole is sent again
    "unavailable deadlineexceeded resourceexhausted internal aborted".split()
)
_ELSEWHERE = "the bucket is in another region than AWS_REGION or the profile says"
_REASONS = {
    "accessdenied": "access denied",
    "invalidaccesskeyid": "the credentials are refused",
    "signaturedoesnotmatch": "the credentials are refused",
    "expiredtoken": "the credentials have expired",
    "unauthenticated": "the credentials are refused",
    "nocredentialserror": "no AWS credentials found",
    "permanentredirect": _ELSEWHERE,
    "authorizationheadermalformed": _ELSEWHERE,
    "301": _ELSEWHERE,  # an answer to HEAD says no more
}
_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class StorageError(OSError):
    """Names the URI; trying again is no use, but for an UnreachableError's."""


class MissingError(StorageError, FileNotFoundError):
    """Nothing is there."""


class UnreachableError(StorageError, ConnectionError):
    """What is transient lasted until the last try."""


class TruncatedError(OSError):
    """Fewer bytes came than the object has."""


def retrying(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """A whole operation, safe to repeat, that survives what is transient in an object store.

    Throttling, 5xx, lost connections, timeouts and short answers are tried again, with random
    waits that grow, for `PATIENCE_S`. The first argument is the URI, or has it as ``.uri``.
    Local files are tried once.

    Raises:
        StorageError: one that trying again would not mend, with the URI.
        UnreachableError: the last one of those that it might have.
    """

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        first: Any = next(iter((*args, *kwargs.values())))
        uri = getattr(first, "uri", first)
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_transient),
            wait=tenacity.wait_random_exponential(multiplier=BACKOFF_S, max=20),
            stop=tenacity.stop_before_delay(PATIENCE_S),
            before_sleep=lambda state: _log_retry(uri, state),
            reraise=True,
        )
        try:
            return again(function, *args, **kwargs)
        except OSError as error:
            tries = again.statistics["attempt_number"]
            raise named(uri, error, tries) from error

    return call


def _log_retry(uri: str, state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait_s = state.next_action.sleep if state.next_action else 0.0
    text = names.printable(f"{uri}: {error}")
    _log.warning("%s; trying again in %.1f s", text, wait_s)


def _code(error: BaseException) -> str:
    """What the store calls the error, in lower case; an HTTP status where it says no more."""
    text = str(error)
    found = _CODE.search(text) or _HTTP_STATUS.search(text)
    return found.group(1).replace("_", "").lower() if found else ""


def _is_transient(error: BaseException) -> bool:
    text = str(error)
    if not isinstance(error, OSError) or isinstance(error, StorageError) or _BAD_TLS.search(text):
        return False
    status = _HTTP_STATUS.search(text)
    is_busy = status is not None and (status.group(1)[0] == "5" or status.group(1) in "408 429")
    return is_busy or isinstance(error, TruncatedError) or _code(error) in _TRANSIENT


def named(uri: str, error: OSError, tries: int = 1) -> StorageError:
    """The error with its URI, in plain words where it is a common one."""
    if isinstance(error, StorageError):
        return error
    code = _code(error)
    # 404 alone is SeaweedFS's answer where the end of an object is asked for.
    if isinstance(error, FileNotFoundError) or code in ("nosuchkey", "nosuchbucket", "404"):
        return MissingError(f"{uri}: no such {'bucket' if code == 'nosuchbucket' else 'file'}")
    if error.errno:
        return StorageError(error.errno, f"{uri}: {os.strerror(error.errno)}")
    if _is_transient(error):
        return UnreachableError(f"{uri}: gave up after {tries} tries ({error})")
    reason = _REASONS.get(code, "")
    if code == "accessdenied" and not _has_aws_credentials():
        reason = _REASONS["nocredentialserror"]
    return StorageError(f"{uri}: {reason} ({error})" if reason else f"{uri}: {error}")


def _has_aws_credentials() -> bool:
    import boto3

    return boto3.Session().get_credentials() is not None
