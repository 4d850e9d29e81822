"""What is the union?  Layers, marks, lookup, merge, nodes, changes of the upper layer; synchronous, and knows nothing of FUSE."""
