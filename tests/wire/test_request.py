"""Is every request decoded to what the kernel meant? Golden bytes, odd names, both forms of SETXATTR."""

from typing import Any

import pytest

from tests.wire import kernel
from tests.wire.samples import GID, NODEID, PID, SAMPLES, UID, UNIQUE, Sample
from unionfs.wire import request
from unionfs.wire.abi import Opcode
from unionfs.wire.request import Malformed


def decode(message: bytes | bytearray, setxattr_ext: bool = True) -> Any:
    """The way of the session: header first, then the body by operation, over a view of a reused buffer."""
    view = memoryview(message)
    header = request.decode_header(view)
    return request.decoders(setxattr_ext)[header.opcode](view[request.HEADER.size :], header)


by_sample = pytest.mark.parametrize("sample", SAMPLES, ids=[sample.label for sample in SAMPLES])


@by_sample
def test_golden_request_decodes(sample: Sample) -> None:
    decoded = decode(sample.message, sample.setxattr_ext)
    assert decoded == sample.decoded
    assert type(decoded) is type(sample.decoded)


@by_sample
def test_golden_header_decodes(sample: Sample) -> None:
    header = request.decode_header(sample.message)
    assert header[:7] == (len(sample.message), sample.opcode, UNIQUE, NODEID, UID, GID, PID)
    assert header.total_extlen == (7 if sample.label == "MKDIR with extensions" else 0)


@by_sample
def test_the_kernel_of_the_tests_sends_the_golden_bytes(sample: Sample) -> None:
    assert sample.built == sample.message


@by_sample
def test_what_is_decoded_outlives_the_buffer_except_bulk_data(sample: Sample) -> None:
    buffer = bytearray(sample.message)
    decoded = decode(buffer, sample.setxattr_ext)
    buffer[:] = bytes(len(buffer))
    kept = [value for value in decoded if not isinstance(value, memoryview)]
    assert kept == [value for value in sample.decoded if not isinstance(value, memoryview)]


def test_every_operation_has_a_decoder_and_a_sample() -> None:
    operations = {int(opcode) for opcode in Opcode}
    assert set(request.DECODERS) == operations
    assert set(request.decoders(False)) == operations
    assert {sample.opcode for sample in SAMPLES} == operations


def test_data_of_a_write_is_not_copied() -> None:
    buffer = bytearray(kernel.write(5, 1, 0, b"before"))
    written = decode(buffer)
    buffer[-6:] = b"behind"
    assert bytes(written.data) == b"behind"


def test_header_and_buffer_must_agree_on_the_length() -> None:
    message = kernel.lookup(1, b"name")
    with pytest.raises(Malformed, match="says it has"):
        request.decode_header(message + b"\0")
    with pytest.raises(Malformed, match="says it has"):
        request.decode_header(message[:-1])


@pytest.mark.parametrize("name", [b"x", b"x" * 255, b"x" * 1024, b"\xff\xfe", b"new\nline", b".", b"..", b" "])
def test_names_pass_as_they_are(name: bytes) -> None:
    assert decode(kernel.lookup(1, name)).name == name
    assert decode(kernel.mkdir(1, name, 0o755)).name == name
    assert decode(kernel.rename(1, name, 2, name)) == (2, 0, name, name)


NAMED = {
    "LOOKUP": kernel.lookup,
    "UNLINK": kernel.unlink,
    "RMDIR": kernel.rmdir,
    "MKDIR": lambda nodeid, name: kernel.mkdir(nodeid, name, 0o755),
    "MKNOD": lambda nodeid, name: kernel.mknod(nodeid, name, 0o100644),
    "SYMLINK": lambda nodeid, name: kernel.symlink(nodeid, name, b"target"),
    "CREATE": lambda nodeid, name: kernel.create(nodeid, name, 0, 0o100644),
    "LINK": lambda nodeid, name: kernel.link(nodeid, name, 5),
    "RENAME from": lambda nodeid, name: kernel.rename(nodeid, name, 2, b"new"),
    "RENAME to": lambda nodeid, name: kernel.rename(nodeid, b"old", 2, name),
    "RENAME2 from": lambda nodeid, name: kernel.rename2(nodeid, name, 2, b"new", 1),
    "RENAME2 to": lambda nodeid, name: kernel.rename2(nodeid, b"old", 2, name, 1),
}


@pytest.mark.parametrize("build", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize("name", [b"", b"/", b"a/b", b"../a", b"a/"], ids=repr)
def test_what_cannot_be_a_name_is_refused(build: Any, name: bytes) -> None:
    with pytest.raises(Malformed):
        decode(build(1, name))


@pytest.mark.parametrize("build", [kernel.lookup, kernel.unlink, kernel.rmdir, kernel.removexattr])
def test_a_name_ends_at_the_only_nul(build: Any) -> None:
    with pytest.raises(Malformed):
        decode(build(1, b"two\0names"))


def test_attribute_names_may_have_slashes_but_not_be_empty() -> None:
    assert decode(kernel.getxattr(1, b"user.a/b", 0)).name == b"user.a/b"
    assert decode(kernel.setxattr(1, b"user.a/b", b"")).value == b""
    for message in (kernel.getxattr(1, b"", 0), kernel.removexattr(1, b""), kernel.setxattr(1, b"", b"value")):
        with pytest.raises(Malformed):
            decode(message)


def test_setxattr_is_read_as_negotiated() -> None:
    value = bytes(range(256))
    assert decode(kernel.setxattr(1, b"user.x", value, 1, 1), setxattr_ext=True) == (b"user.x", value, 1, 1)
    assert decode(kernel.setxattr_compat(1, b"user.x", value, 1), setxattr_ext=False) == (b"user.x", value, 1, 0)
    assert decode(kernel.setxattr_compat(1, b"user.x", b"\0\0"), setxattr_ext=False).value == b"\0\0"


def test_symlink_target_is_any_string() -> None:
    assert decode(kernel.symlink(1, b"link", b"/a//b/../")).target == b"/a//b/../"
    with pytest.raises(Malformed):
        decode(kernel.symlink(1, b"link", b""))


def test_unnamed_file_may_have_any_name() -> None:
    for name in (b"/", b"", b"#123"):
        body = bytes(16) + name + b"\0"
        assert decode(kernel.request(51, 1, body)).name == name


def test_values_at_the_end_of_their_range() -> None:
    most = (1 << 64) - 1
    assert decode(kernel.getattr_(1, most)) == (1, most)
    assert decode(kernel.setattr_(1, 0x18, times=(-(1 << 63), (1 << 63) - 1, 0)))[4:6] == (-(1 << 63), (1 << 63) - 1)
    assert decode(kernel.lseek(1, 1, -(1 << 63), 4)).offset == -(1 << 63)
    assert decode(kernel.read(1, 1, (1 << 63) - 1, (1 << 32) - 1)).size == (1 << 32) - 1
    assert decode(kernel.setattr_(1, 6, owner=((1 << 32) - 1, 0))).uid == (1 << 32) - 1


def test_counts_are_checked_before_they_are_believed() -> None:
    for opcode in (Opcode.BATCH_FORGET, Opcode.REMOVEMAPPING):
        with pytest.raises(Malformed):
            decode(kernel.request(opcode, 0, b"\xff" * 24))
    assert decode(kernel.batch_forget([])).items == ()


def test_fields_that_a_later_protocol_appends_are_ignored() -> None:
    message = kernel.request(3, 1, kernel.getattr_(1, 9)[40:] + bytes(8))
    assert decode(message) == (1, 9)


def test_high_flags_count_only_with_init_ext() -> None:
    assert decode(kernel.init(7, 45, 1 << 30 | 1 << 37)).flags == 1 << 30 | 1 << 37
    assert decode(kernel.init(7, 45, 1 | 1 << 37)).flags == 1
    assert decode(kernel.init_old(7, 33, 1 << 30)).flags == 1 << 30


def test_ancient_init_is_decoded_far_enough_to_be_refused() -> None:
    assert decode(kernel.request(26, 0, b"\x07\0\0\0\x05\0\0\0")) == (7, 5, 0, 0)
