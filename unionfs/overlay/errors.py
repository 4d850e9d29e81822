"""What can go wrong that is not an errno of one operation?"""

from unionfs.overlay.node import DirNode, Node


class LayerError(Exception):
    """The layers can't be made a union; the message is one line for the user.

    exit_code: what the command should exit with, in mount(8)'s terms (32: mount failure, 1: the options contradict).
    """

    def __init__(self, message: str, exit_code: int = 32) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class CopyUpNeeded(Exception):
    """An operation has to wait until a file's data are on the upper layer; raised before it has changed anything.

    Whoever catches it completes a `copyup.CopyUp(union, node)` outside the event loop and starts the operation again.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(f"copy-up of node {node.nodeid} is needed first")
        self.node = node


class ScanNeeded(Exception):
    """An operation has to wait until a large directory's index is built; raised before it has changed anything.

    Whoever catches it completes a `scan.Scan(union, node)` in slices and starts the operation again.  shows_something: the part
    that was read has names that show.
    """

    def __init__(self, node: DirNode, *, shows_something: bool = False) -> None:
        super().__init__(f"node {node.nodeid} has too many names to be scanned at once")
        self.node = node
        self.shows_something = shows_something
