"""One Delta Lake table: opened, written through to the disk, kept in few files."""
