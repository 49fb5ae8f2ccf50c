#!/usr/bin/python3
"""Run a command that asks for loop devices as osbuild's stages do.

PYTHONPATH is a checkout of osbuild, whose server makes the devices. As in its
sandbox, the command has a /dev of its own, for their nodes.
"""
import os
import stat
import subprocess
import sys

from osbuild.loop import Loop
from osbuild.remoteloop import LoopServer

ADDRESS = "/run/osbuild/api/remoteloop"
DEV = """
/usr/bin/mount -t tmpfs -o mode=0755 tmpfs /dev
for node in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 0666 /dev/${node%:*} c 1 ${node#*:}
done
exec "$@"
"""


def mknod(self, dir_fd, mode=0o600):
    """Make the node itself: mounts of this process do not reach the command."""
    os.mknod(self.devname, stat.S_IFBLK | mode, os.makedev(self.LOOP_MAJOR, self.minor), dir_fd=dir_fd)


Loop.mknod = mknod
if os.path.exists(ADDRESS):
    os.unlink(ADDRESS)
with LoopServer(socket_address=ADDRESS, rundir="/run/osbuild"):
    done = subprocess.run(["unshare", "--mount", "sh", "-euc", DEV, "sh"] + sys.argv[1:], check=False)
sys.exit(done.returncode)
