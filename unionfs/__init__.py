"""What unionfs is: a union (overlay) filesystem for Linux in userspace, with the kernel's on-disk format and FUSE passthrough."""

__version__ = "0.1.0"
