"""Disks that fail."""

import errno


class FullDisk:
    """A raw file on a disk with room for `room` more bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = self.file.write(data[: self.room])
        self.room -= part
        return part

    def __getattr__(self, name):
        return getattr(self.file, name)
