"""Benchmarks: unionfs, the kernel's overlayfs and the peers installed, side by side over the same layers."""
