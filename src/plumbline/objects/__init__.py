"""Files in object stores: which there are, and copies of them on this machine."""
