"""Where do kernel and union meet?  The session on /dev/fuse, dispatch, passthrough, deferred work; the only importer of trio."""
