"""Which inodes does the kernel serve from their backing file for good?  Passthrough of inode operations, a draft.

With it every entry reply may give an inode a backing file for its whole life, at which the kernel then answers GETATTR, and
for a directory READDIR, without asking.  No released kernel has it; with `inode_passthrough=off` nothing of this is in use.

What is attached has to be right for as long as the kernel knows the nodeid, so an object must be settled: a file, symlink or
special file on the upper layer, or in a union that is never written; a directory that is on one layer alone and can neither
be copied up nor become merged.  Its number must be the real one, since stat(2) and the kernel's own check see the backing
file's; so nothing is attached where layers lie on several filesystems, nor what was copied up and kept its lower number.
No option of today maps owners or modes; one that does has to keep GETATTR here.

SETATTR stays with the server: it says whether set-id bits and capabilities go by who the caller is, while the kernel would
change the backing file with the credentials of the server.
"""

from __future__ import annotations

import errno
import logging
import os
import stat as modes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from unionfs.linux import fuse, procfs, stat
from unionfs.linux.stat import Stat
from unionfs.overlay import attrs, files, marks
from unionfs.overlay.creator import SERVER, Identity
from unionfs.overlay.inodes import ROOT_ID, names_of
from unionfs.overlay.node import DirNode, Node
from unionfs.overlay.union import Union
from unionfs.serve.attributes import Attributes
from unionfs.serve.directories import Directories
from unionfs.serve.fileio import FileIo
from unionfs.serve.files import CreateReply, Files
from unionfs.serve.listers import Listers
from unionfs.serve.lookahead import LookAhead
from unionfs.serve.notices import DeviceNotices
from unionfs.serve.opens import OpenReply
from unionfs.serve.passthrough import Backings
from unionfs.wire import abi, reply
from unionfs.wire.abi import InodePassthrough, Opcode
from unionfs.wire.kinds import BatchForget, Create, Forget, Header, Link, Open, Readdir, Rename, Tmpfile
from unionfs.wire.reply import DirBuffer, Entry, Entry2, Statx

if TYPE_CHECKING:
    from unionfs.serve.context import Context
    from unionfs.serve.names import Names
    from unionfs.serve.opens import Opens

_log: Final = logging.getLogger("unionfs")
NOT_OFFERED: Final = "inode_passthrough=draft: the kernel does not offer it, as no released one does; use inode_passthrough=off"
#: A directory larger than this many bytes is not scanned just to learn that it holds no whiteouts.
_SCAN_LIMIT: Final = 1 << 20

#: Rows of the dispatch table: operation, handler, encoder.
Rows = list[tuple[Opcode, Callable[[Header, Any], Any], Callable[[int, Any], bytes | None]]]


class Created(NamedTuple):
    """The new file's entry, and how it was opened."""

    entry: Entry2
    opened: OpenReply


class _Attached:
    """What the kernel was given for one nodeid.

    operations: bits of `ops_mask`.  io: of a regular file, whose opens use the same registration.
    listings: how many listings with nodes there had been when it was last given.
    """

    __slots__ = ("backing_id", "io", "listings", "operations")

    def __init__(self, backing_id: int, operations: int, io: FileIo | None) -> None:
        self.backing_id = backing_id
        self.operations = operations
        self.io = io
        self.listings = 0


class InodeBackings(Backings):
    """The registered backing files, those among them that are attached to inodes.

    numbers: the inode number that the kernel was told with each nodeid.  attached: what it was given, by nodeid; that stays
    registered until FORGET, for the kernel's own reference ends no sooner and a second registration would be another file.
    opening: the nodeid of the OPEN that is being answered, which may be a former one of its node; else 0.
    """

    __slots__ = ("_held", "_one_device", "_union", "attached", "numbers", "opening", "table")

    def __init__(self, device: int, identity: Identity, union: Union, table: InodePassthrough) -> None:
        super().__init__(device, identity)
        self._union = union
        self._held: set[FileIo] = set()
        self._one_device = len({layer.dev for layer in union.layers}) == 1
        self.table = table
        self.numbers: dict[int, int] = {}
        self.attached: dict[int, _Attached] = {}
        self.opening = 0

    def probe(self, union: Union) -> None:
        """As without inodes, and prove that the kernel means by the flag what is meant here."""
        super().probe(union)
        if self.reason:
            return
        operations = self.table.getattr | self.table.readdir
        for layer in union.layers:
            try:
                fuse.backing_close(self._device, self._register_at(layer.root.fd(), operations))
            except OSError as error:
                self.reason = f"the kernel refuses a directory as backing file: {error.strerror}"
                if error.errno != errno.ELOOP:
                    return
            else:
                self.reason = ""
                break
        if not self._one_device and not self.reason:
            _log.warning("inode_passthrough=draft: nothing passes through, for the layers lie on several filesystems")

    def offers(self, node: Node) -> bool:
        """The kernel takes a backing file only under its own number, also for a mere open."""
        if not super().offers(node):
            return False
        told = self.numbers.get(self.opening or node.nodeid, node.ino)
        return told == node.ino == attrs.real_stat(node).ino

    def _operations(self, node: Node) -> int:
        """A file that may yet be copied up answers for its data alone, as long as it is open."""
        return self.table.getattr if self._one_device and node.data is None and files.is_settled(self._union, node) else 0

    def idle(self, io: FileIo) -> None:
        if io not in self._held:
            super().idle(io)

    def release(self, io: FileIo) -> None:
        if io not in self._held:
            super().release(io)

    def adopt(self, node: Node, found: Stat) -> int:
        """The id to name in an entry reply for the node, whose real stat is `found`; 0 for no backing file.

        One that was named before is named again: the kernel may have dropped the inode and not have said so yet.
        """
        known = self.attached.get(node.nodeid)
        if known is not None:
            return known.backing_id
        if self.reason or not self._fits(node, found):
            return 0
        made = self._adopt_file(node) if node.is_regular else self._adopt_other(node)
        if made is None:
            return 0
        self.attached[node.nodeid] = made
        return made.backing_id

    def _fits(self, node: Node, found: Stat) -> bool:
        settled = node.data is None and (node.upper or self._union.read_only)
        merged = isinstance(node, DirNode) and node.is_merged
        return self._one_device and settled and not merged and found.ino == node.ino and node.nodeid != ROOT_ID

    def _adopt_file(self, node: Node) -> _Attached | None:
        """Attaching must not meet opens in another mode (fs/fuse/iomode.c): then it waits for a later reply."""
        io: FileIo | None = node.attachment
        if io is None:
            io = node.attachment = FileIo()
        if io.cached or (io.backed and io.backing_upper != node.data_upper) or not self.attach(node, io):
            return None
        self.busy(io)
        self._held.add(io)
        return _Attached(io.backing_id, self.table.getattr, io)

    def _adopt_other(self, node: Node) -> _Attached | None:
        if not super().offers(node):
            return None
        operations = self.table.getattr
        if isinstance(node, DirNode) and has_own_numbers(node) and not _needs_filter(node):
            operations |= self.table.readdir
        try:
            fd = files.open_path(node)
            try:
                backing_id = self._register_at(fd, operations)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EPERM):
                self._refuse(node.layer(), error)
            return None
        self.registered += 1
        return _Attached(backing_id, operations, None)

    def _register_at(self, fd: int, operations: int) -> int:
        self._identity.assume_ids(SERVER)
        return fuse.backing_open(self._device, fd, operations)

    def is_renumbered(self, node: Node) -> bool:
        """Has the node become another inode than the kernel knows under its nodeid?  A copy-up parts it from its hard links."""
        return self.numbers.get(node.nodeid, node.ino) != node.ino

    def renew(self, node: Node) -> None:
        """Give the node a new nodeid; what is open stays with the old one."""
        if node.is_regular and node.attachment is None:
            node.attachment = FileIo()
        self._union.inodes.split(node)

    def forgotten(self, nodeid: int) -> None:
        """The kernel has dropped the inode, and with it its backing file."""
        self.numbers.pop(nodeid, None)
        gone = self.attached.pop(nodeid, None)
        if gone is None:
            return
        if gone.io is not None:
            self._held.discard(gone.io)
            self.release(gone.io)
            return
        self.registered -= 1
        try:
            fuse.backing_close(self._device, gone.backing_id)
        except OSError as error:
            _log.warning("backing file %d could not be released: %s", gone.backing_id, error.strerror)


def has_own_numbers(node: DirNode) -> bool:
    """Are the numbers in the real directory's listing those that the union shows, that of `..` included?"""
    real, parent = node.reals[0], node.parent
    if parent is None or real.parent is None or (node.upper and real.marks().impure):
        return False
    return stat.stat(real.parent.fd()).ino == parent.ino


def _needs_filter(node: DirNode) -> bool:
    """Does the real directory hold names that the union does not show, or is it too large to look?"""
    real = node.reals[0]
    if real.marks().xwhiteouts or stat.stat(real.fd()).size > _SCAN_LIMIT:
        return True
    with os.scandir(procfs.fd_path(real.fd())) as entries:
        return any(entry.name.startswith(marks.MARKER) or _is_whiteout(entry) for entry in entries)


def _is_whiteout(entry: os.DirEntry[bytes]) -> bool:
    if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False) or entry.is_symlink():
        return False
    found = entry.stat(follow_symlinks=False)
    return modes.S_ISCHR(found.st_mode) and found.st_rdev == 0


class _ListedAttributes(Attributes):
    """What names nodes in a listing, which can give them no backing file.  last: the nodeid that it named last."""

    __slots__ = ("_backings", "last")

    def __init__(self, context: Context, opens: Opens, backings: InodeBackings) -> None:
        super().__init__(context, opens)
        self._backings = backings
        self.last = 0

    def entry(self, node: Node, found: Stat) -> Entry:
        if self._backings.is_renumbered(node):
            self._backings.renew(node)
        self.last = node.nodeid
        self._backings.numbers[self.last] = node.ino
        return super().entry(node, found)


class InodeOperations:
    """The handlers that name nodes, with what the draft adds to them; the others stay as they are."""

    __slots__ = ("_backings", "_context", "_directories", "_files", "_listed", "_listings", "_names", "_notices", "_union")

    def __init__(self, context: Context, backings: InodeBackings, names: Names, open_files: Files) -> None:
        self._context = context
        self._union = context.union
        self._backings = backings
        self._names = names
        self._files = open_files
        self._listed = _ListedAttributes(context, open_files.opens, backings)
        ahead, listers = LookAhead(context.union), Listers(context.notices)
        self._directories = Directories(context, self._listed, open_files.opens, ahead, listers)
        self._listings = 0
        assert isinstance(context.notices, DeviceNotices)
        self._notices = context.notices

    def rows(self) -> Rows:
        """The rows of the dispatch table that differ."""
        names = self._names
        return [
            (Opcode.LOOKUP, self._naming(names.lookup), self._encode),
            (Opcode.SYMLINK, self._naming(names.symlink), self._encode),
            (Opcode.MKNOD, self._naming(names.mknod), self._encode),
            (Opcode.MKDIR, self._naming(names.mkdir), self._encode),
            (Opcode.LINK, self.link, self._encode),
            (Opcode.CREATE, self.create, _encode_created),
            (Opcode.TMPFILE, self.tmpfile, _encode_created),
            (Opcode.OPEN, self.open, _encode_opened),
            (Opcode.RENAME, self.rename, _encode_nothing),
            (Opcode.RENAME2, self.rename, _encode_nothing),
            (Opcode.READDIRPLUS, self.readdirplus, _encode_listing),
            (Opcode.FORGET, self.forget, _no_answer),
            (Opcode.BATCH_FORGET, self.batch_forget, _no_answer),
        ]

    def _naming(self, handle: Callable[[Header, Any], Entry | None]) -> Callable[[Header, Any], Entry2 | None]:
        def named(header: Header, request: Any) -> Entry2 | None:
            entry = handle(header, request)
            return None if entry is None else self.entry(entry)

        return named

    def _encode(self, unique: int, entry: Entry2 | None) -> bytes:
        return reply.negative2(unique, *self._context.valid) if entry is None else reply.entry2(unique, entry)

    def entry(self, entry: Entry) -> Entry2:
        """The same entry with the node's backing file."""
        node = self._union.inodes.by_id[entry.nodeid]
        found = attrs.real_stat(node)
        if self._backings.is_renumbered(node):
            # The lookup counted for the old nodeid is the first of the new one.
            node.lookups -= 1
            self._backings.renew(node)
            node.lookups = 1
        self._backings.numbers[node.nodeid] = node.ino
        backing_id = self._backings.adopt(node, found)
        if backing_id:
            self._backings.attached[node.nodeid].listings = self._listings
        statx = Statx(*found[:23])._replace(ino=node.ino, nlink=attrs.link_count(node, found), dev_major=0, dev_minor=0)
        return Entry2(node.nodeid, *entry[1:6], backing_id, 0, statx)

    def create(self, header: Header, request: Create) -> Created:
        """The entry is taken before the open, which so may refer to its backing file."""
        return self._created(self._files.create(header, request))

    def tmpfile(self, header: Header, request: Tmpfile) -> Created:
        return self._created(self._files.tmpfile(header, request))

    def _created(self, made: CreateReply) -> Created:
        entry = self.entry(made.entry)
        return Created(entry, self._at_attached(entry.nodeid, made.opened))

    def open(self, header: Header, request: Open) -> OpenReply:
        """A node that has become another inode gets a new nodeid, which `Files` sends the VFS to look for (ESTALE)."""
        node = self._union.inodes.by_id.get(header.nodeid)
        if node is not None and node.nodeid == header.nodeid and self._backings.is_renumbered(node):
            self._backings.renew(node)
        self._backings.opening = header.nodeid
        try:
            opened = self._files.open(header, request)
        finally:
            self._backings.opening = 0
        return self._at_attached(header.nodeid, opened)

    def _at_attached(self, nodeid: int, opened: OpenReply) -> OpenReply:
        """Id 0 stands for the attached file.

        A listing since may have made the inode anew and without it, if the kernel had dropped it: then the id itself is named,
        which is right in both cases.
        """
        attached = self._backings.attached.get(nodeid)
        if attached is None or attached.listings != self._listings or not opened.flags & abi.FOPEN_PASSTHROUGH:
            return opened
        return opened._replace(backing_id=0)

    def link(self, header: Header, request: Link) -> Entry2:
        entry = self.entry(self._names.link(header, request))
        self._check_listing(self._union.inodes.by_id.get(header.nodeid))
        return entry

    def rename(self, header: Header, request: Rename) -> None:
        self._names.rename(header, request)
        by_id = self._union.inodes.by_id
        for directory, name in ((by_id.get(header.nodeid), request.oldname), (by_id.get(request.newdir), request.newname)):
            self._check_listing(directory)
            if isinstance(directory, DirNode):
                self._check_listing(directory.children.get(name))

    def _check_listing(self, node: Node | None) -> None:
        """After a change: a directory whose real listing shows other numbers than the union gets a new node without it.

        An object with an origin has come into it, or it has come into a directory with another number.
        """
        if not isinstance(node, DirNode):
            return
        attached = self._backings.attached.get(node.nodeid)
        if attached is not None and attached.operations & self._backings.table.readdir and not has_own_numbers(node):
            names = [(parent.nodeid, name) for parent, name in names_of(node)]
            self._backings.renew(node)
            trio.lowlevel.spawn_system_task(self._expire, names)

    async def _expire(self, names: list[tuple[int, bytes]]) -> None:
        """Let the kernel look the names up again."""
        flags = abi.EXPIRE_ONLY if self._context.flags & abi.HAS_EXPIRE_ONLY else 0
        for parent, name in names:
            await trio.to_thread.run_sync(self._notices.name_changed, parent, name, flags, abandon_on_cancel=True)

    def readdirplus(self, header: Header, request: Readdir) -> DirBuffer:
        """Entries of a listing carry no backing file."""
        self._listings += 1
        buffer = self._directories.readdirplus(header, request)
        if self._listed.last not in self._union.inodes.by_id:
            # The one that no longer fitted into the answer, and so was forgotten again.
            self._backings.forgotten(self._listed.last)
        return buffer

    def forget(self, header: Header, request: Forget) -> None:
        self._names.forget(header, request)
        self._forgotten(header.nodeid)

    def batch_forget(self, header: Header, request: BatchForget) -> None:
        self._names.batch_forget(header, request)
        for nodeid, _ in request.items:
            self._forgotten(nodeid)

    def _forgotten(self, nodeid: int) -> None:
        node = self._union.inodes.by_id.get(nodeid)
        if node is None or (node.nodeid == nodeid and node.lookups <= 0):
            self._backings.forgotten(nodeid)


def _encode_created(unique: int, value: Created) -> bytes:
    return reply.create2(unique, value.entry, *value.opened)


def _encode_opened(unique: int, value: OpenReply) -> bytes:
    return reply.open_(unique, value.fh, value.flags, value.backing_id)


def _encode_nothing(unique: int, value: None) -> bytes:
    return reply.empty(unique)


def _encode_listing(unique: int, value: DirBuffer) -> bytes:
    return value.reply(unique)


def _no_answer(unique: int, value: None) -> None:
    return None
