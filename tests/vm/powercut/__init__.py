"""Power cuts: record what a machine writes, rebuild the disk as a cut could have left it, ask whether it still boots.

`writelog` reads the record, `replay` enumerates the disks, `ext4` and `bootmodel` say what a loader and an initramfs
would make of each, `campaign` counts. Nothing here runs a machine but `recording`.
"""
