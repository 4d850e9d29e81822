"""Can any bytes break the decoder? Only `Malformed` may come out, and what comes back is what was sent."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire import kernel
from tests.wire.samples import SAMPLES, Sample
from unionfs.wire import describe, request
from unionfs.wire.request import Malformed

fuzz = settings(max_examples=400)
OPCODES = st.sampled_from(sorted(request.DECODERS))
NAMES = st.binary(min_size=1, max_size=300).filter(lambda name: not {0, 47} & set(name))
STRINGS = st.binary(min_size=1, max_size=300).filter(lambda string: 0 not in string)


def survives(message: bytes, setxattr_ext: bool) -> None:
    """Decodes all that can be decoded of the message; passes on anything that is not `Malformed`."""
    view = memoryview(message)
    try:
        header = request.decode_header(view)
        decoder = request.decoders(setxattr_ext).get(header.opcode)
        if decoder is None:
            return
        decoded = decoder(view[40:], header)
        request.security_context(getattr(decoded, "extensions", ()))
        request.supplementary_group(getattr(decoded, "extensions", ()))
    except Malformed:
        return
    line = describe.describe(header, decoded)
    assert "\n" not in line


@fuzz
@given(message=st.binary(max_size=200), setxattr_ext=st.booleans())
def test_any_bytes(message: bytes, setxattr_ext: bool) -> None:
    survives(message, setxattr_ext)
    survives(struct.pack("=I", len(message)) + message[4:], setxattr_ext)


@fuzz
@given(opcode=OPCODES, body=st.binary(max_size=200), extensions=st.binary(max_size=80), ext=st.booleans())
def test_any_body(opcode: int, body: bytes, extensions: bytes, ext: bool) -> None:
    survives(kernel.request(opcode, 1, body, kernel.padded(extensions)), ext)


@fuzz
@given(
    sample=st.sampled_from(SAMPLES),
    at=st.integers(0, 500),
    put=st.binary(min_size=1, max_size=8),
    cut=st.integers(0, 8),
)
def test_any_change_of_a_good_message(sample: Sample, at: int, put: bytes, cut: int) -> None:
    at %= len(sample.message)
    changed = sample.message[:at] + put + sample.message[at + cut :]
    survives(struct.pack("=I", len(changed)) + changed[4:], sample.setxattr_ext)


@fuzz
@given(opcode=OPCODES, units=st.integers(0, 0xFFFF), body=st.binary(max_size=64))
def test_any_length_of_extensions(opcode: int, units: int, body: bytes) -> None:
    message = bytearray(kernel.request(opcode, 1, body))
    struct.pack_into("=H", message, 36, units)
    survives(bytes(message), True)


@fuzz
@given(first=NAMES, second=NAMES, target=STRINGS, value=st.binary(max_size=300))
def test_names_come_back(first: bytes, second: bytes, target: bytes, value: bytes) -> None:
    def decoded(message: bytes) -> object:
        header = request.decode_header(message)
        return request.DECODERS[header.opcode](memoryview(message)[40:], header)

    extensions = kernel.security_contexts((target, value)) + kernel.supplementary_groups(9)
    assert decoded(kernel.lookup(1, first)) == (first,)
    assert decoded(kernel.rename2(1, first, 2, second, 1)) == (2, 1, first, second)
    assert decoded(kernel.setxattr(1, target, value, 1)) == (target, value, 1, 0)
    assert decoded(kernel.write(1, 5, 6, value)) == (5, 6, len(value), 0, 0, 0, memoryview(value))
    linked = request.decode_symlink(
        memoryview(kernel.symlink(1, first, target, extensions))[40:],
        request.decode_header(kernel.symlink(1, first, target, extensions)),
    )
    assert linked[:2] == (first, target)
    assert request.security_context(linked.extensions) == ((target, value),)
    assert request.supplementary_group(linked.extensions) == 9
