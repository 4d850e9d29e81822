"""What does a message cut off do? Every sample at every length: refused, or whole in a shorter form that exists."""

import struct
from typing import Any

import pytest

from tests.wire.samples import SAMPLES, Sample
from unionfs.wire import request
from unionfs.wire.abi import INIT_EXT, Opcode
from unionfs.wire.request import Malformed

by_sample = pytest.mark.parametrize("sample", SAMPLES, ids=[sample.label for sample in SAMPLES])


def _shorter_forms(sample: Sample) -> set[int]:
    """Lengths of the body at which the cut message is one that some kernel sends: only INIT has grown."""
    if sample.opcode != Opcode.INIT:
        return set()
    extended = sample.decoded.flags & INIT_EXT
    return {8, 16, *range(20, 64)} if extended else {8}


def _relabelled(message: bytes, length: int) -> bytes:
    """The first `length` bytes, with a header that says so."""
    return struct.pack("=I", length) + message[4:length]


@by_sample
def test_cut_message_is_refused_by_its_header(sample: Sample) -> None:
    for length in range(len(sample.message)):
        with pytest.raises(Malformed):
            request.decode_header(sample.message[:length])


@by_sample
def test_cut_body_is_refused(sample: Sample) -> None:
    decode = request.decoders(sample.setxattr_ext)[sample.opcode]
    decoded: set[int] = set()
    for length in range(40, len(sample.message)):
        message = memoryview(_relabelled(sample.message, length))
        header = request.decode_header(message)
        try:
            decode(message[40:], header)
        except Malformed:
            continue
        decoded.add(length - 40)
    assert decoded == _shorter_forms(sample)


@by_sample
def test_shorter_form_has_nothing_of_the_longer(sample: Sample) -> None:
    for length in _shorter_forms(sample):
        message = memoryview(_relabelled(sample.message, 40 + length))
        short: Any = request.decoders(True)[sample.opcode](message[40:], request.decode_header(message))
        assert short[:2] == sample.decoded[:2]
        assert short.flags in {0, sample.decoded.flags & 0xFFFFFFFF, sample.decoded.flags}
        assert short.flags >> 32 == (sample.decoded.flags >> 32 if length >= 20 else 0)
