"""What do the kernel and the server say to each other? The FUSE protocol 7.31 to 7.46 as pure functions over bytes.

Nothing here does I/O: `request` and `reply` turn one message into a value and back, `notify` builds what the server
says unasked, `init` negotiates, `describe` puts it into words. The layouts are those of <linux/fuse.h>; every integer
is in the machine's byte order, because the kernel at the other end runs on the same machine.
"""
