"""The table of the patches that brought FUSE passthrough, measured anew: plain FUSE, passthrough and a bind mount."""
