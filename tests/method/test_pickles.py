import collections
import pickle
from typing import Any

import pytest

from c2am_dist.method.pickles import Call, PickleError, read_pickle

PLAIN = {
    "values": [None, True, False, 0, 255, 65535, -1, 2**31, -(2**40), 0.5, "é", "x" * 300],
    "bytes": (b"", b"a", b"b" * 300),
    3: {"nested": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}]},
}


@pytest.mark.parametrize("protocol", [3, 4])
def test_plain_values_are_what_pickle_makes_of_them(protocol: int):
    assert read_pickle(pickle.dumps(PLAIN, protocol=protocol), ()) == PLAIN


def test_what_is_shared_stays_shared():
    inner: list[Any] = [1]
    found = read_pickle(pickle.dumps([inner, inner, "a", "a"]), ())
    assert found == [[1], [1], "a", "a"] and found[0] is found[1]


class Filled:
    def __reduce__(self) -> tuple:
        return collections.Counter, ("ab",), {"state": 1}


def test_calls_are_written_down_and_not_made():
    found = read_pickle(pickle.dumps([Filled()], protocol=4), {"collections.Counter"})
    (call,) = found
    assert isinstance(call, Call)
    assert (call.function, call.arguments, call.state) == (
        "collections.Counter",
        ("ab",),
        {"state": 1},
    )


@pytest.mark.parametrize("protocol", [2, 4])
def test_names_that_are_not_admitted_are_refused(protocol: int):
    pickled = pickle.dumps(Filled(), protocol=protocol)
    with pytest.raises(PickleError, match=r"names collections\.Counter, which is refused"):
        read_pickle(pickled, {"collections", "Counter", "collections.OrderedDict"})


def test_dict_key_that_takes_forever_to_hash_is_refused():
    doubling = b"q\x00h\x00\x86" * 60  # a tuple of the tuple before, twice
    with pytest.raises(PickleError, match="dict with a tuple as key"):
        read_pickle(b"\x80\x02})" + doubling + b"Ns.", ())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "broken pickle"),
        (b"\x80\x04", "broken pickle"),
        (b"\x80\x04.", "broken pickle"),
        (b"\x80\x04K", "broken pickle"),
        (b"\x80\x04\xff.", "broken pickle"),
        (b"\x80\x04h\x05.", "broken pickle"),
        (b"\x80\x04t.", "broken pickle"),
        (b"\x80\x04\x87.", "takes more than it gave"),
        (b"\x80\x04K\x01K\x02a.", "fills a int"),
        (b"\x80\x04K\x01K\x02b.", "fills a int"),
        (b"\x80\x04K\x01)R.", "calls a int"),
        (b"\x80\x04}(K\x01u.", "broken pickle"),
        (b"\x80\x04K\x01K\x02\x93.", r"names 1\.2, which is refused"),
        (b"\x80\x04B\xff\xff\xff\xff.", "broken pickle"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x0f.", "broken pickle|BYTEARRAY8"),
        (b"\x80\x02\x82\x01.", "EXT1, which is refused"),
        (b"\x80\x02K\x01Q.", "BINPERSID, which is refused"),
        (b"\x80\x02)\x81.", "NEWOBJ, which is refused"),
        (b"(ios\nsystem\n.", "INST, which is refused"),
        (b"I1\n.", "INT, which is refused"),
    ],
)
def test_broken_and_unneeded_instructions_are_refused(data: bytes, message: str):
    with pytest.raises(PickleError, match=message):
        read_pickle(data, ())


def test_large_place_in_the_memo_takes_no_memory():
    assert read_pickle(b"\x80\x02K\x07r\xff\xff\xff\xff.", ()) == 7


def test_endless_pickle_is_refused():
    with pytest.raises(PickleError, match="more than 20000 instructions"):
        read_pickle(b"\x80\x02" + b"}" * 20_001 + b".", ())
