"""What is the union?  Layers, marks, lookup, merge, nodes and every change of the upper layer; synchronous, knows nothing of FUSE."""
