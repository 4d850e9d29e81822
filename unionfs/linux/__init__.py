"""Which system calls does Python lack?  The ones bound here; the only package that imports ctypes."""
