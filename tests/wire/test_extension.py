"""Are labels and groups that trail a creating request found, and only there?"""

import struct

import pytest

from tests.wire import kernel
from unionfs.wire.cursor import Malformed
from unionfs.wire.extension import security_context, split_extensions, supplementary_group
from unionfs.wire.request import DECODERS, decode_header

LABEL = (b"security.selinux", b"system_u:object_r:tmp_t:s0\0")
SECOND = (b"security.SMACK64", b"x")


def _extensions_of(message: bytes) -> tuple[tuple[int, bytes], ...]:
    header = decode_header(message)
    decoded = DECODERS[header.opcode](memoryview(message)[40:], header)
    extensions: tuple[tuple[int, bytes], ...] = decoded.extensions
    return extensions


BUILDERS = {
    "CREATE": lambda extensions: kernel.create(1, b"name", 0, 0o644, extensions=extensions),
    "MKNOD": lambda extensions: kernel.mknod(1, b"name", 0o100644, extensions=extensions),
    "MKDIR": lambda extensions: kernel.mkdir(1, b"name", 0o755, extensions=extensions),
    "SYMLINK": lambda extensions: kernel.symlink(1, b"name", b"target", extensions=extensions),
    "TMPFILE": lambda extensions: kernel.tmpfile(1, 0, 0o644, extensions=extensions),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_every_creating_request_carries_them(build: object) -> None:
    assert callable(build)
    assert _extensions_of(build(b"")) == ()
    both = _extensions_of(build(kernel.security_contexts(LABEL) + kernel.supplementary_groups(77)))
    assert security_context(both) == (LABEL,)
    assert supplementary_group(both) == 77


@pytest.mark.parametrize("contexts", [(), (LABEL,), (SECOND,), (LABEL, SECOND), (SECOND, LABEL, SECOND)])
def test_contexts_of_any_number_and_length(contexts: tuple[tuple[bytes, bytes], ...]) -> None:
    extensions = _extensions_of(kernel.mkdir(1, b"d", 0o755, extensions=kernel.security_contexts(*contexts)))
    assert security_context(extensions) == contexts
    assert supplementary_group(extensions) is None


@pytest.mark.parametrize(("groups", "found"), [((), None), ((0,), 0), ((77, 78), 77), ((1, 2, 3), 1)])
def test_group_is_the_first(groups: tuple[int, ...], found: int | None) -> None:
    extensions = _extensions_of(kernel.mkdir(1, b"d", 0o755, extensions=kernel.supplementary_groups(*groups)))
    assert supplementary_group(extensions) == found
    assert security_context(extensions) == ()


def test_unknown_type_is_passed_over() -> None:
    unknown = struct.pack("=II", 16, 33) + b"whatever"
    extensions = _extensions_of(
        kernel.mkdir(1, b"d", 0o755, extensions=unknown + kernel.supplementary_groups(5) + kernel.security_contexts(LABEL))
    )
    assert extensions[0] == (33, b"whatever")
    assert supplementary_group(extensions) == 5
    assert security_context(extensions) == (LABEL,)


@pytest.mark.parametrize(
    ("body", "units"),
    [
        (b"", 1),
        (bytes(7), 1),
        (struct.pack("=II", 7, 0), 1),
        (struct.pack("=II", 9, 0), 1),
        (struct.pack("=II", 0xFFFFFFFF, 32), 1),
        (struct.pack("=II", 8, 0) + bytes(8), 2),
    ],
)
def test_records_that_do_not_add_up_are_refused(body: bytes, units: int) -> None:
    with pytest.raises(Malformed):
        split_extensions(memoryview(body), units)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        struct.pack("=II", 4, 0) + b"name\0abc",
        struct.pack("=II", 0, 0) + b"name",
        struct.pack("=II", 0, 0) + b"\0",
    ],
)
def test_label_cut_off_is_refused(payload: bytes) -> None:
    with pytest.raises(Malformed):
        security_context(((1, payload),))


@pytest.mark.parametrize("payload", [b"", b"\1\0\0", b"\1\0\0\0", b"\1\0\0\0\0\0\0"])
def test_group_cut_off_is_refused(payload: bytes) -> None:
    with pytest.raises(Malformed):
        supplementary_group(((32, payload),))
