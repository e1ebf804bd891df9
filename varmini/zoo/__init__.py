"""The systems around VAR, one short file each."""
