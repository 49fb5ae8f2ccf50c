#!/usr/bin/python3
"""A stage that tries what no stage may do, and prints a line for each attempt:

  NUMBER what: refused with ERRNO
  NUMBER what: contained, why it reaches nothing but the stage itself
  NUMBER what: DONE

The numbers are those of the attempts that must fail. 10, system calls that a filter
refuses, and 12, limits, are tried elsewhere. attempts_test.go reads the lines.
"""
import array
import ctypes
import errno
import json
import os
import signal
import socket
import stat
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
MS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8}
MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 32, 4096, 8192, 16384
MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 18, 1 << 19, 1 << 20
MNT_FORCE, MNT_DETACH, MNT_EXPIRE = 1, 2, 4
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000
SYS = {"process_vm_readv": 310, "process_vm_writev": 311, "open_tree": 428, "move_mount": 429, "fsopen": 430,
       "fsconfig": 431, "fsmount": 432, "pidfd_open": 434, "pidfd_send_signal": 424, "pidfd_getfd": 438, "mount_setattr": 442,
       "pivot_root": 155, "setns": 308, "swapon": 167, "acct": 163, "reboot": 169, "sethostname": 170, "iopl": 172, "settimeofday": 164,
       "syslog": 103, "kcmp": 312, "ptrace": 101, "mount": 165, "umount2": 166, "unshare": 272, "quotactl": 179, "adjtimex": 159, "vhangup": 153}
TREE, INPUT, OWN = "/run/osbuild/tree", "/run/osbuild/inputs/tree", "/tmp/own"


class Contained(Exception):
    """The attempt has an effect, which is of the stage's own."""


class Skipped(Exception):
    """There is nothing to attempt."""


def call(name, *args):
    """A system call; text becomes bytes, and an error an exception."""
    args = [a.encode() if isinstance(a, str) else a for a in args]
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(SYS[name]), *args)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def attempt(number, what, act, *args):
    what = what.replace("\n", " ")
    try:
        act(*args)
    except Contained as why:
        print(f"{number} {what}: contained, {why}")
    except Skipped:
        pass
    except OSError as err:
        if isinstance(err, socket.timeout):
            print(f"{number} {what}: refused with TIMEOUT")
        else:
            print(f"{number} {what}: refused with {errno.errorcode.get(err.errno, err.errno)}")
    else:
        print(f"{number} {what}: DONE")


def apart(act, *args, flags=0):
    """Does it in a process that ends with it, in namespaces of its own."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            if flags:
                call("unshare", flags)
            act(*args)
            sys.stdout.flush()
            os._exit(0)
        except BaseException as err:  # the test misses the lines
            print(f"apart: {act.__name__}: {err!r}", flush=True)
            os._exit(1)
    os.waitpid(pid, 0)


def mount(source, target, kind, flags, data=None):
    call("mount", source, target, kind if kind else 0, flags, data if data else 0)


def setattr_(fd, path, flags, clear=0, put=0, propagation=0):
    attr = struct.pack("QQQQ", put, clear, propagation, 0)
    call("mount_setattr", fd, path, flags, ctypes.c_char_p(attr), len(attr))


def mounts():
    """The mounts that are seen: path, options, type, and those of the superblock."""
    out = []
    for line in open("/proc/self/mountinfo"):
        left, right = line.rstrip("\n").split(" - ")
        fields, last = left.split(), right.split()
        path = fields[4].encode().decode("unicode_escape")
        out.append((path, fields[5].split(","), last[0], last[2].split(",")))
    return out


# What the container itself has mounted when it was a stage's already: its kernel
# filesystems, which hold nothing of others.
def own(path):
    return path in ("/proc", "/proc/cmdline", "/sys", "/dev") or path.startswith("/dev/")


def write_through(path):
    """Writes to a file, to be sure."""
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"x")
    os.close(fd)


# 1: flags of mounts.

def clear_flags(how):
    seen = set()
    for path, options, kind, _ in mounts():
        if path in seen:
            continue
        seen.add(path)
        mine = own(path)
        for flag in ("ro", "nosuid", "nodev", "noexec"):
            if flag not in options:
                continue
            left = sum(bit for name, bit in MS.items() if name in options and name != flag)

            def remount():
                mount("none", path, None, MS_REMOUNT | MS_BIND | left)
                if mine:
                    raise Contained("a kernel filesystem of the container")

            def clear(recursive=0):
                setattr_(AT_FDCWD, path, recursive, clear=MS[flag])
                if mine:
                    raise Contained("a kernel filesystem of the container")

            def bind(recursive):
                target = OWN if os.path.isdir(path) else OWN + "-file"
                mount(path, target, None, MS_BIND | recursive)
                try:
                    mount("none", target, None, MS_REMOUNT | MS_BIND | left)
                    if mine:
                        raise Contained("a kernel filesystem of the container")
                finally:
                    call("umount2", target, MNT_DETACH)

            def clone(recursive):
                fd = call("open_tree", AT_FDCWD, path, 1 | os.O_CLOEXEC | recursive)
                try:
                    setattr_(fd, "", AT_EMPTY_PATH | recursive, clear=MS[flag])
                    if mine:
                        raise Contained("a kernel filesystem of the container")
                finally:
                    os.close(fd)

            attempt(1, f"{how}remount {path} without {flag}", remount)
            attempt(1, f"{how}mount_setattr {path} without {flag}", clear)
            attempt(1, f"{how}mount_setattr all below {path} without {flag}", clear, AT_RECURSIVE)
            attempt(1, f"{how}bind {path} and remount it without {flag}", bind, 0)
            attempt(1, f"{how}bind all below {path} and remount it without {flag}", bind, MS_REC)
            attempt(1, f"{how}open_tree {path} and clear {flag}", clone, 0)
            attempt(1, f"{how}open_tree all below {path} and clear {flag}", clone, AT_RECURSIVE)


def mapped(flags):
    """Enters a user namespace with an id map."""
    uid = os.getuid()
    call("unshare", flags | CLONE_NEWUSER)
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {uid} 1")):
            with open("/proc/self/" + name, "w") as f:
                f.write(text)
    except OSError:
        pass  # then without


def nested_flags():
    mapped(CLONE_NEWNS)
    clear_flags("in a nested namespace: ")


def twice_nested_flags():
    mapped(CLONE_NEWNS)
    mapped(CLONE_NEWNS)
    clear_flags("in a twice nested namespace: ")


# 2: what is read-only, and what lies below mounts.

def read_only_places():
    yield from ("/", "/usr", "/usr/bin", "/usr/lib", "/run/osbuild/lib", "/run/osbuild/bin", "/run/osbuild/inputs", INPUT, "/run/osbuild/inputs/read")
    for path, options, _, _ in mounts():
        if not own(path) and "ro" in options:
            yield path


def remount_superblock(path):
    mount("none", path, None, MS_REMOUNT)


def write_in(path):
    """Everything that would change a file or directory."""
    if os.path.isdir(path):
        yield "make a file in", lambda: os.close(os.open(path + "/attempt", os.O_CREAT | os.O_WRONLY))
        yield "make an unnamed file in", lambda: os.close(os.open(path, os.O_TMPFILE | os.O_RDWR))
        yield "make a directory in", lambda: os.mkdir(path + "/attempt")
        yield "make a link in", lambda: os.symlink("x", path + "/attempt")
        yield "make a pipe in", lambda: os.mkfifo(path + "/attempt")
        yield "move a file to", lambda: os.rename(OWN + "-file", path + "/attempt")
    else:
        yield "open for writing", lambda: write_through(path)
        yield "truncate", lambda: os.truncate(path, 0)
        yield "map and write", lambda: map_write(path)
        yield "remove", lambda: os.unlink(path)
        yield "move away", lambda: os.rename(path, path + ".attempt")
        yield "hard link into the tree", lambda: os.link(path, TREE + "/attempt")
    yield "chmod", lambda: os.chmod(path, 0o4777)
    yield "chown", lambda: os.chown(path, 1, 1)
    yield "set times of", lambda: os.utime(path, (0, 0))
    yield "set an attribute of", lambda: os.setxattr(path, "user.attempt", b"x")
    yield "set an ACL of", lambda: os.setxattr(path, "system.posix_acl_access", struct.pack("<IHHIHHIHHI", 2, 1, 7, 0xffffffff, 4, 7, 0xffffffff, 0x20, 7, 0xffffffff))
    yield "set inode flags of", lambda: set_flags(path)


def map_write(path):
    import mmap
    fd = os.open(path, os.O_RDONLY)
    try:
        m = mmap.mmap(fd, 1, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        m[0] = m[0]
    finally:
        os.close(fd)


def set_flags(path):
    import fcntl
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, 0x40086602, struct.pack("l", 0x10))
    finally:
        os.close(fd)


def first_file(directory):
    for entry in sorted(os.scandir(directory), key=lambda e: e.name):
        if entry.is_file(follow_symlinks=False):
            return entry.path
    raise SystemExit("nothing is in " + directory)


def take_away(path, flags):
    """Sees what is below a mount."""
    before = set(os.listdir(path)) if os.path.isdir(path) else None
    call("umount2", path, flags)
    if own(path):
        raise Contained("a kernel filesystem of the container")
    if before is None:
        if os.path.getsize(path) == 0:
            raise Contained("an empty file is below")
    elif not os.listdir(path):
        raise Contained("an empty directory is below")


def move(path):
    os.makedirs(OWN, exist_ok=True)
    mount(path, OWN, None, MS_MOVE)
    if own(path) or not os.listdir(path):
        raise Contained("nothing is below")


def move_new(path):
    fd = call("open_tree", AT_FDCWD, path, os.O_CLOEXEC)
    call("move_mount", fd, "", AT_FDCWD, OWN, 4)
    if own(path) or not os.path.isdir(path) or not os.listdir(path):
        raise Contained("nothing is below")


def pivot():
    """Makes another directory the root and takes the old one apart."""
    mount("tmpfs", OWN, "tmpfs", 0)
    os.mkdir(OWN + "/old")
    call("pivot_root", OWN, OWN + "/old")
    write_through("/old/usr/bin/sh")


def pivot_and_unmount():
    mount("tmpfs", OWN, "tmpfs", 0)
    os.mkdir(OWN + "/old")
    call("pivot_root", OWN, OWN + "/old")
    call("umount2", "/old/usr", 0)


def overlay_upper(path):
    os.makedirs("/tmp/work", exist_ok=True)
    mount("overlay", OWN, "overlay", 0, f"lowerdir=/usr/lib,upperdir={path},workdir=/tmp/work,userxattr")


def overlay_over(path):
    """Writes to an overlay over what is read-only, which must not change."""
    for name in ("/tmp/ov/u", "/tmp/ov/w", OWN):
        os.makedirs(name, exist_ok=True)
    mount("tmpfs", "/tmp/ov", "tmpfs", 0)
    for name in ("/tmp/ov/u", "/tmp/ov/w"):
        os.makedirs(name, exist_ok=True)
    name = os.path.basename(first_file(path))
    before = os.stat(path + "/" + name)
    mount("overlay", OWN, "overlay", 0, f"lowerdir={path},upperdir=/tmp/ov/u,workdir=/tmp/ov/w,userxattr")
    with open(OWN + "/" + name, "a") as f:
        f.write("attempt")
    after = os.stat(path + "/" + name)
    if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
        raise Contained("it is written to the upper directory")


def spread(path):
    """Lets mounts spread to where a mount came from; the test looks whether they do."""
    mount("none", path, None, MS_SHARED)
    os.makedirs(path + "/attempt-spread", exist_ok=True)
    mount("tmpfs", path + "/attempt-spread", "tmpfs", 0)
    raise Contained("nobody has it but the container")


def second():
    places = sorted(set(read_only_places()))
    for path in places:
        apart(lambda: attempt(2, f"remount the filesystem of {path} writable", remount_superblock, path), flags=CLONE_NEWNS)
    for path in places + [first_file(p) for p in ("/usr/bin", "/run/osbuild/lib", INPUT)]:
        if path in ("/", "/run/osbuild/bin", "/run/osbuild"):
            continue  # the container's own, in memory
        for what, act in write_in(path):
            attempt(2, f"{what} {path}", act)
    for path in sorted({m[0] for m in mounts()}):
        for name, flags in (("", 0), (" with MNT_DETACH", MNT_DETACH), (" with MNT_FORCE", MNT_FORCE), (" with MNT_EXPIRE", MNT_EXPIRE)):
            def away():
                attempt(2, f"unmount {path}{name}", take_away, path, flags)
            apart(away, flags=CLONE_NEWNS)
        apart(lambda: attempt(2, f"move the mount {path}", move, path), flags=CLONE_NEWNS)
        apart(lambda: attempt(2, f"move_mount {path}", move_new, path), flags=CLONE_NEWNS)

        def nested():
            mapped(CLONE_NEWNS)
            attempt(2, f"in a nested namespace: unmount {path}", take_away, path, MNT_DETACH)
            attempt(2, f"in a nested namespace: move {path}", move, path)
        apart(nested)
    apart(lambda: attempt(2, "pivot_root and write to the old root", pivot), flags=CLONE_NEWNS)
    apart(lambda: attempt(2, "pivot_root and unmount below the old root", pivot_and_unmount), flags=CLONE_NEWNS)
    for path in ("/usr", "/usr/lib", "/run/osbuild/lib", INPUT, "/run/osbuild/inputs"):
        apart(lambda: attempt(2, f"an overlay whose upper directory is {path}", overlay_upper, path), flags=CLONE_NEWNS)
    for path in ("/usr/bin", "/run/osbuild/lib", INPUT):
        apart(lambda: attempt(2, f"an overlay over {path}", overlay_over, path), flags=CLONE_NEWNS)
    for path in ("/run", TREE):
        attempt(2, f"let mounts in {path} spread", spread, path)
        call("umount2", path + "/attempt-spread", MNT_DETACH)
        os.rmdir(path + "/attempt-spread")


# 3: device nodes.

NODES = (("mem", stat.S_IFCHR, 1, 1), ("kmsg", stat.S_IFCHR, 1, 11), ("loop-control", stat.S_IFCHR, 10, 237), ("loop0", stat.S_IFBLK, 7, 0),
         ("vda", stat.S_IFBLK, 254, 0), ("sda", stat.S_IFBLK, 8, 0), ("null", stat.S_IFCHR, 1, 3), ("tty1", stat.S_IFCHR, 4, 1), ("tun", stat.S_IFCHR, 10, 200))


def make_and_open(path, kind, number):
    os.mknod(path, kind | 0o666, number)
    try:
        os.close(os.open(path, os.O_RDWR))
    finally:
        os.unlink(path)


def third():
    for place in (TREE, "/tmp", "/dev", "/run", "/var/tmp", "/dev/shm", "/etc"):
        for name, kind, major, minor in NODES:
            attempt(3, f"make the device node {name} in {place}", make_and_open, place + "/attempt-node", kind, os.makedev(major, minor))
        attempt(3, f"open a whiteout in {place}", make_and_open, place + "/attempt-node", stat.S_IFCHR, 0)

    def fresh():
        os.makedirs(OWN, exist_ok=True)
        mount("tmpfs", OWN, "tmpfs", 0)
        for name, kind, major, minor in NODES:
            attempt(3, f"make the device node {name} in a new tmpfs", make_and_open, OWN + "/attempt-node", kind, os.makedev(major, minor))
        call("umount2", OWN, MNT_DETACH)
        for fs in ("devtmpfs", "ext4", "xfs", "btrfs", "vfat", "iso9660", "squashfs", "erofs", "nfs", "9p", "hugetlbfs"):
            with open("/tmp/image", "wb") as f:
                f.truncate(1 << 20)
            attempt(3, f"mount {fs} of a file", mount, "/tmp/image", OWN, fs, 0)
            attempt(3, f"fsopen {fs}", lambda: mount_new(fs))
    apart(fresh, flags=CLONE_NEWNS)

    def nested():
        mapped(CLONE_NEWNS)
        for name, kind, major, minor in NODES:
            attempt(3, f"in a nested namespace: make the device node {name}", make_and_open, "/tmp/attempt-node", kind, os.makedev(major, minor))
    apart(nested)
    allowed = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (10, 229)}
    for directory, _, names in os.walk("/dev"):
        for name in names:
            path = os.path.join(directory, name)
            st = os.lstat(path)
            if stat.S_ISBLK(st.st_mode) or stat.S_ISCHR(st.st_mode) and (os.major(st.st_rdev), os.minor(st.st_rdev)) not in allowed:
                attempt(3, f"open the node {path}", lambda: os.close(os.open(path, os.O_RDONLY)))
    for number in range(8):
        attempt(3, f"open loop device {number}", lambda: os.close(os.open(f"/dev/loop{number}", os.O_RDWR)))


def mount_new(fs, options=()):
    fd = call("fsopen", fs, 1)
    try:
        call("fsconfig", fd, 1, "source", "/tmp/image", 0)
        for key, value in options:
            call("fsconfig", fd, 1, key, value, 0)
        call("fsconfig", fd, 6, 0, 0, 0)
        os.close(call("fsmount", fd, 1, 0))
    finally:
        os.close(fd)


# 4: programs of the engine.

def overwrite(path, flags):
    fd = os.open(path, flags)
    try:
        os.write(fd, b"\x7f")
    finally:
        os.close(fd)


def fourth():
    paths = ["/proc/self/exe", "/proc/1/exe", "/proc/thread-self/exe", f"/proc/{os.getppid()}/exe", "/run/osbuild/bin/" + os.path.basename(sys.argv[0])]
    paths += [f"/proc/{pid}/exe" for pid in pids()]
    for directory in ("/run/osbuild/bin", "/run/osbuild/lib/stages", "/run/osbuild/lib/runners"):
        if os.path.isdir(directory):
            paths += [os.path.join(directory, name) for name in sorted(os.listdir(directory))]
    for path in dict.fromkeys(paths):
        for name, flags in (("write", os.O_WRONLY), ("read and write", os.O_RDWR), ("truncate", os.O_WRONLY | os.O_TRUNC), ("append to", os.O_WRONLY | os.O_APPEND)):
            attempt(4, f"{name} {path}", overwrite, path, flags)
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        attempt(4, f"write {path} through a descriptor", overwrite, f"/proc/self/fd/{fd}", os.O_WRONLY)
        attempt(4, f"chmod {path}", os.fchmod, fd, 0o777)
        os.close(fd)
    for pid in pids():
        if pid == os.getpid():
            continue
        attempt(4, f"write the memory of {pid}", lambda: overwrite(f"/proc/{pid}/mem", os.O_WRONLY))


def pids():
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


# 5: descriptors.

def fifth():
    for fd in list(range(3, 4096)):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError as err:
            if fd < 16 or err.errno != errno.ENOENT:
                attempt(5, f"use descriptor {fd}", os.fstat, fd)
            continue
        print(f"5 descriptor {fd} is {target}: DONE")
    for fd in range(3):
        mode = os.fstat(fd).st_mode
        path = os.readlink(f"/proc/self/fd/{fd}")
        if stat.S_ISFIFO(mode) or path == "/dev/null":
            print(f"5 descriptor {fd} leads to files: refused with ENOTDIR")
        else:
            print(f"5 descriptor {fd} is {path}: DONE")
        attempt(5, f"fchdir to descriptor {fd}", os.fchdir, fd)
        attempt(5, f"openat .. of descriptor {fd}", lambda: os.close(os.open("..", os.O_RDONLY, dir_fd=fd)))
        attempt(5, f"open descriptor {fd} of the first process as a directory", lambda: os.listdir(f"/proc/1/fd/{fd}/.."))
    root = os.stat("/")

    def is_root(path):
        st = os.stat(path)
        if (st.st_dev, st.st_ino) == (root.st_dev, root.st_ino):
            raise Contained("it is the container's root")
    for path in [".", "..", "../../../../../..", "/..", "/proc/self/cwd/..", "/proc/self/root/..", "/proc/1/cwd/..", "/proc/1/root/.."]:
        attempt(5, f"leave the root by {path}", is_root, path)
    for pid in pids():
        attempt(5, f"leave the root by that of process {pid}", is_root, f"/proc/{pid}/root/..")
        attempt(5, f"leave the root by the directory of process {pid}", is_root, f"/proc/{pid}/cwd/../../../../..")

    def chroot_twice():
        os.makedirs("/tmp/jail", exist_ok=True)
        fd = os.open("/", os.O_RDONLY)
        os.chroot("/tmp/jail")
        os.fchdir(fd)
        for _ in range(100):
            os.chdir("..")
        is_root(".")
    apart(lambda: attempt(5, "leave the root by chroot", chroot_twice))
    for name in os.environ:
        if "OSSIFY" in name and name != "OSSIFY_MODULE_CLASS" or "LIBCONTAINER" in name:
            print(f"5 the variable {name} of the engine: DONE")


# 8: sockets of this machine.

SOCKETS = ("/run/ossify-loop/socket", "/run/ossify/socket", "/var/run/docker.sock", "/run/podman/podman.sock", "/run/dbus/system_bus_socket",
           "/run/systemd/private", "/run/systemd/notify", "/run/systemd/journal/socket", "/run/udev/control", "/run/containerd/containerd.sock", "/dev/log")


def connect(address, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as s:
        s.settimeout(2)
        s.connect(address)


def eighth(args):
    for path in SOCKETS + (args["socket"], args["helper"]):
        for name, kind in (("stream", socket.SOCK_STREAM), ("packets", socket.SOCK_SEQPACKET), ("datagrams", socket.SOCK_DGRAM)):
            attempt(8, f"connect to {path} for {name}", connect, path, kind)
            attempt(8, f"connect to {path} by /proc/1/root for {name}", connect, "/proc/1/root" + path, kind)


# 9: other processes.

def ptrace(request, pid):
    call("ptrace", request, pid, 0, 0)


def vm(name, pid):
    buf = ctypes.create_string_buffer(8)
    vec = struct.pack("QQ", ctypes.addressof(buf), 8)
    call(name, pid, ctypes.c_char_p(vec), 1, ctypes.c_char_p(vec), 1, 0)


def ninth(args):
    mine = {os.getpid(), 1} | set(pids())
    if os.getpid() != 1 or os.getppid() != 0:
        print(f"9 see the parent {os.getppid()} of process {os.getpid()}: DONE")
    else:
        print("9 see the parent: refused with ESRCH")
    others = [p for p in args["pids"] if p not in mine]
    for pid in others:
        attempt(9, f"signal {pid} of this machine", os.kill, pid, 0)
        attempt(9, f"ptrace {pid}", ptrace, 16, pid)
        attempt(9, f"seize {pid}", ptrace, 0x4206, pid)
        attempt(9, f"read the memory of {pid}", vm, "process_vm_readv", pid)
        attempt(9, f"write the memory of {pid}", vm, "process_vm_writev", pid)
        attempt(9, f"pidfd_open {pid}", lambda: os.close(call("pidfd_open", pid, 0)))
        attempt(9, f"open the root of {pid}", os.listdir, f"/proc/{pid}/root/")
        attempt(9, f"read the environment of {pid}", lambda: open(f"/proc/{pid}/environ").read())
        attempt(9, f"set the priority of {pid}", os.setpriority, os.PRIO_PROCESS, pid, 19)
        attempt(9, f"set the processors of {pid}", os.sched_setaffinity, pid, {0})
        attempt(9, f"compare with {pid}", lambda: call("kcmp", os.getpid(), pid, 2, 0, 0))

    def signal_all():
        found = []
        for pid in range(2, args["last"] + 1):
            if pid in mine:
                continue
            try:
                os.kill(pid, 0)
                found.append(pid)
            except ProcessLookupError:
                pass
        if not found:
            raise OSError(errno.ESRCH, "")
    attempt(9, f"signal any process up to {args['last']}", signal_all)

    def signal_group():
        os.kill(-1, 0)
        raise Contained("the container's own")
    attempt(9, "signal all processes", signal_group)
    for group in [p for p in others]:
        attempt(9, f"signal the group {group}", os.killpg, group, 0)
    # The engine is at the other end of the API.
    for path in api_sockets():
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.connect(path)
        pid, uid, _ = struct.unpack("iii", s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if pid != 0:
            print(f"9 see who listens at {path}: DONE")
        else:
            print(f"9 see who listens at {path}: refused with ESRCH")
        try:
            peer = struct.unpack("i", s.getsockopt(socket.SOL_SOCKET, 77, 4))[0]  # SO_PEERPIDFD
        except OSError as err:
            print(f"9 get the process that listens at {path}: refused with {errno.errorcode[err.errno]}")
            s.close()
            continue
        engine(path, peer)
        os.close(peer)
        s.close()


def engine(path, peer):
    """Tries all that can be done with a descriptor of the engine's process."""
    import fcntl
    for sig in (0, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
        attempt(9, f"send signal {int(sig)} to the process that listens at {path}", lambda: call("pidfd_send_signal", peer, int(sig), 0, 0))
    for fd in range(16):
        attempt(9, f"get descriptor {fd} of the process that listens at {path}", lambda: os.close(call("pidfd_getfd", peer, fd, 0)))
    for name, flag in (("mount", CLONE_NEWNS), ("user", CLONE_NEWUSER), ("pid", CLONE_NEWPID), ("network", 0x40000000), ("ipc", 0x08000000), ("uts", 0x04000000)):
        attempt(9, f"enter the {name} namespace of the process that listens at {path}", lambda: call("setns", peer, flag))

    def namespace(number):
        fd = fcntl.ioctl(peer, 0xff00 | number)  # PIDFD_GET_*_NAMESPACE
        try:
            call("setns", fd, 0)
        finally:
            os.close(fd)
    for number in range(1, 11):
        attempt(9, f"enter namespace {number} that ioctl gives of the process that listens at {path}", namespace, number)


def api_sockets():
    found = []
    for directory, _, names in os.walk("/run/osbuild/api"):
        for name in names:
            path = os.path.join(directory, name)
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                found.append(path)
    return sorted(found)


# 11: the kernel's settings.

def eleventh():
    def kernel():
        os.makedirs(OWN, exist_ok=True)
        for fs in ("cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "binfmt_misc", "mqueue", "configfs", "pstore", "efivarfs", "bpf", "fusectl",
                   "selinuxfs", "rpc_pipefs", "nfsd", "devpts", "sysfs", "proc", "resctrl", "binder", "smackfs", "functionfs"):
            def try_mount(new):
                if new:
                    mount_new(fs)
                else:
                    mount("none", OWN, fs, 0)
                if fs == "binfmt_misc":  # since Linux 6.7 one of the user namespace's own
                    raise Contained("it is of the stage's user namespace")
                if fs == "mqueue":
                    raise Contained("it is of the stage's ipc namespace: " + " ".join(os.listdir(OWN)))
                if fs == "devpts":
                    raise Contained("it has no terminals but its own")
                if fs == "bpf":
                    raise Contained("it is empty")
                if fs in ("proc", "sysfs"):
                    raise Contained("it is of the stage's pid and network namespaces")
            attempt(11, f"mount {fs}", try_mount, False)
            for _ in range(2):
                try:
                    call("umount2", OWN, MNT_DETACH)
                except OSError:
                    break
            attempt(11, f"fsopen {fs}", try_mount, True)
        for controller in ("memory", "pids", "cpu", "devices", "freezer", "name=systemd"):
            attempt(11, f"mount the cgroup hierarchy {controller}", mount, "none", OWN, "cgroup", 0, ("none," if "=" in controller else "") + controller)
    apart(kernel, flags=CLONE_NEWNS)

    apart(lambda: attempt(11, "mount cgroup2 in a cgroup namespace of its own", in_cgroup_namespace, "cgroup2"), flags=CLONE_NEWNS | 0x02000000)

    def nested():
        mapped(CLONE_NEWNS | 0x02000000)
        for fs in ("cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "configfs"):
            attempt(11, f"in a nested namespace: mount {fs}", in_cgroup_namespace, fs)
    apart(nested)
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/proc/sys/kernel/sysrq", "/proc/sys/kernel/hostname",
                 "/proc/sys/kernel/printk", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/drop_caches", "/proc/sys/fs/protected_symlinks", "/proc/sys/fs/binfmt_misc/register",
                 "/proc/sysrq-trigger", "/proc/kcore", "/proc/kmsg", "/proc/kallsyms", "/proc/irq/default_smp_affinity", "/proc/mtrr", "/sys/fs/cgroup/release_agent",
                 "/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/cgroup.procs", "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/mm/ksm/run",
                 "/sys/module/loop/parameters/max_loop", "/sys/class/block/loop0/uevent", "/sys/kernel/debug", "/sys/kernel/security", "/sys/kernel/tracing"):
        def write():
            fd = os.open(path, os.O_WRONLY)
            os.write(fd, b"0\n")
            os.close(fd)
        attempt(11, f"write {path}", write)
    # Everything below, without writing: opening is enough.
    everything("/proc", lambda p: p.count("/") == 2 and (p[6:].isdigit() or p[6:] in ("self", "thread-self")))

    def writable_sys():
        mount("sysfs", OWN, "sysfs", 0)
        everything(OWN, lambda p: False)
    everything("/sys", lambda p: False)
    apart(writable_sys, flags=CLONE_NEWNS)

    for name, act in (("set the host's name", lambda: own_name()), ("set the clock", lambda: call("settimeofday", ctypes.c_char_p(struct.pack("qq", 1, 0)), 0)),
                      ("reboot", lambda: call("reboot", 0xfee1dead, 0x28121969, 0, 0)), ("swapon", lambda: call("swapon", "/tmp/image", 0)),
                      ("accounting", lambda: call("acct", "/tmp/image")), ("clear the kernel's log", lambda: call("syslog", 5, 0, 0)), ("ports", lambda: call("iopl", 3)),
                      ("adjust the clock", lambda: call("adjtimex", ctypes.create_string_buffer(struct.pack("I", 1) + b"\0" * 300))), ("quotas", lambda: call("quotactl", 0x800002 << 8, "/tmp/image", 0, 0)),
                      ("hang up", lambda: call("vhangup")), ("raise a limit", raise_limit), ("a real-time scheduler", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))),
                      ("a better priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, -20))):
        attempt(11, name, act)


def in_cgroup_namespace(fs):
    """The kernel lets everybody mount cgroup2 in a cgroup namespace, but not write to what
    is not theirs in it."""
    mount("none", OWN, fs, 0)
    for name, text in (("cgroup.procs", "1"), ("cgroup.freeze", "1"), ("cgroup.kill", "1"), ("cgroup.subtree_control", "+pids"), ("memory.max", "1"), ("pids.max", "1"),
                       ("release_agent", "/x"), ("notify_on_release", "1"), ("cgroup.type", "threaded")):
        try:
            with open(OWN + "/" + name, "w") as f:
                f.write(text)
            return
        except OSError:
            pass
    raise Contained("nothing can be written in it")


def own_name():
    call("sethostname", "attempted", 9)
    raise Contained("the container has a name of its own")


def raise_limit():
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        raise Skipped
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard * 2))
    except ValueError:
        raise OSError(errno.EPERM, "") from None


# Those that the kernel keeps for each network, ipc or user namespace.
NAMESPACED = ("/proc/sys/net/", "/proc/sys/user/", "/proc/sys/fs/mqueue/", "/proc/sys/kernel/shm", "/proc/sys/kernel/msg", "/proc/sys/kernel/sem", "/proc/sys/kernel/auto_msgmni",
              "/proc/sys/kernel/ns_last_pid", "/proc/sys/kernel/domainname", "/proc/sys/kernel/hostname", "/proc/sys/kernel/pid_max")


def everything(top, leave):
    counts, found = {}, []
    for directory, directories, names in os.walk(top):
        directories[:] = [d for d in directories if not leave(os.path.join(directory, d))]
        for name in names:
            path = os.path.join(directory, name)
            if os.path.islink(path) or leave(path):
                continue
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError as err:
                code = errno.errorcode.get(err.errno, str(err.errno))
            else:
                code = "OPEN"
                if path.startswith("/proc/pressure/"):
                    code = "everybody's"
                elif path.startswith(NAMESPACED) or "/class/net/" in path or "/virtual/net/" in path or path == "/proc/cmdline":
                    code = "its own"
                else:
                    found.append(path)
            counts[code] = counts.get(code, 0) + 1
    for path in found:
        print(f"11 open {path} for writing: DONE")
    for code, n in counts.items():
        if code == "its own":
            print(f"11 open files below {top} for writing ({n} times): contained, they are of the stage's own namespaces")
        elif code == "everybody's":
            print(f"11 open files below {top} for writing ({n} times): contained, they set what only the opened file tells (poll(2))")
        elif code != "OPEN":
            print(f"11 open files below {top} for writing ({n} times): refused with {code}")


# 13: the network.

def thirteenth(args):
    names = sorted(name for _, name in socket.if_nameindex())
    print("13 see another interface than lo: " + ("refused with ENODEV" if names == ["lo"] else f"DONE {names}"))
    for family, host in [(socket.AF_INET, h) for h in ["127.0.0.1", "127.0.0.53", "0.0.0.0", "169.254.169.254", "8.8.8.8"] + args["addresses"]] + [(socket.AF_INET6, "::1"), (socket.AF_INET6, "2001:4860:4860::8888")]:
        for port in (args["tcp"], 22, 53, 80, 111, 443):
            def tcp():
                with socket.socket(family, socket.SOCK_STREAM) as s:
                    s.settimeout(1)
                    s.connect((host, port))
            attempt(13, f"connect to {host} port {port}", tcp)

        def udp():
            with socket.socket(family, socket.SOCK_DGRAM) as s:
                s.settimeout(0.2)
                s.connect((host, args["udp"]))
                s.send(b"attempt")
                s.recv(10)
        attempt(13, f"ask {host} by UDP", udp)
    for name in args["abstract"]:
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
            attempt(13, f"connect to the abstract socket {name} by type {int(kind)}", connect, "\0" + name, kind)
    with open("/proc/net/unix") as f:
        others = [line.split()[-1] for line in f if "@" in line]
    print("13 see abstract sockets: " + ("refused with ENOENT" if not others else f"DONE {others}"))
    for name, family, kind, protocol in (("raw IP", socket.AF_INET, socket.SOCK_RAW, 1), ("raw IPv6", socket.AF_INET6, socket.SOCK_RAW, 58),
                                         ("packets", socket.AF_PACKET, socket.SOCK_RAW, 0x300), ("cooked packets", socket.AF_PACKET, socket.SOCK_DGRAM, 0x300)):
        attempt(13, f"a socket for {name}", lambda: socket.socket(family, kind, protocol).close())

    def link(kind):
        # RTM_NEWLINK with an interface of that kind.
        def attr(number, data):
            raw = struct.pack("HH", 4 + len(data), number) + data
            return raw + b"\0" * (-len(raw) % 4)
        body = struct.pack("BxHiII", 0, 0, 0, 0, 0) + attr(3, b"attempt0\0") + attr(18, attr(1, kind.encode() + b"\0"))
        ask(0, struct.pack("IHHII", 16 + len(body), 16, 0x605, 1, 0) + body)

    def ask(protocol, message):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as s:
            s.settimeout(1)
            s.bind((0, 0))
            s.send(message)
            reply = s.recv(4096)
            length, kind = struct.unpack_from("IH", reply)
            code = struct.unpack_from("i", reply, 16)[0]
            if kind == 2 and code < 0:
                raise OSError(-code, "")
    for kind in ("dummy", "veth", "bridge", "macvlan", "vlan", "wireguard"):
        attempt(13, f"make an interface of the kind {kind}", link, kind)
    body = struct.pack("BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0)
    attempt(13, "make a route", lambda: ask(0, struct.pack("IHHII", 16 + len(body), 24, 0x605, 1, 0) + body))
    attempt(13, "write to the audit log", lambda: ask(9, struct.pack("IHHII", 16 + 8, 1005, 5, 1, 0) + b"attempt\0"))
    attempt(13, "set the audit daemon", lambda: ask(9, struct.pack("IHHII", 16 + 40, 1001, 5, 1, 0) + b"\1" * 40))
    attempt(13, "talk to the packet filter", lambda: ask(12, struct.pack("IHHII", 20, 0xa00, 5, 1, 0) + b"\2\0\0\0"))

    def uevents():
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as s:
            s.bind((0, 1))
            s.settimeout(0.2)
            s.recv(100)
    attempt(13, "hear of the machine's devices", uevents)

    def forge():
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as s:
            s.sendto(b"add@/attempt\0ACTION=add\0", (0, 2))
    attempt(13, "forge news of devices", forge)

    def up():
        import fcntl
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            fcntl.ioctl(s, 0x8914, b"lo" + b"\0" * 14 + struct.pack("H", 0) + b"\0" * 14)
    attempt(13, "take an interface down", up)
    attempt(13, "open /dev/net/tun", lambda: os.close(os.open("/dev/net/tun", os.O_RDWR)))
    for pid in (1, os.getpid()):
        for name in ("net", "mnt", "user", "pid", "ipc", "uts", "cgroup", "time"):
            def enter():
                fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY)
                try:
                    # NS_GET_PARENT and NS_GET_USERNS lead to those of the engine.
                    import fcntl
                    for request in (0xb702, 0xb701):
                        try:
                            up = fcntl.ioctl(fd, request)
                        except OSError:
                            continue
                        try:
                            same = os.path.samestat(os.fstat(up), os.stat("/proc/self/ns/user"))
                            if not same:
                                call("setns", up, 0)
                                return
                        finally:
                            os.close(up)
                    raise OSError(errno.EPERM, "")
                finally:
                    os.close(fd)
            attempt(13, f"enter what owns the {name} namespace of {pid}", enter)


# 14: garbage for the API.

def fourteenth():
    null = os.open("/dev/null", os.O_RDWR)
    deep = b'{"method": ' + b"[" * 50000 + b"]" * 50000 + b"}"
    messages = [b"", b"\0", b"\0" * 1000, b"garbage", b"{", b"[]", b"null", b"{}", b'{"method": null}', b'{"method": 7}', b'{"method": "exception"}',
                b'{"method": "exception", "exception": []}', b'{"method": "create-device"}', b'{"method": "create-device", "fd": 0, "dir_fd": 1}',
                b'{"method": "create-device", "fd": -1, "dir_fd": 99999999999}', b'{"fd": 0, "dir_fd": 1, "offset": -1, "sizelimit": 18446744073709551615}',
                b'{"method": "read-tree", "object-id": "../../../etc"}', b'{"method": "mkdtemp"}', b'{"method": "source", "name": "../.."}', b'{"method": "setup-stdio"}',
                b'{"make": {"type": "ext4", "size": 1048576, "uuid": "", "label": ""}}', b'{"finish": "/etc"}', b"\xff" * 5000, b"9" * 100000, deep,
                b"<args-via-fd>", b'"<args-via-fd>"', '{"method": "\u202e\x1b]0;x\x07"}'.encode()]
    for path in api_sockets():
        answers = 0

        def garbage(message, fds):
            nonlocal answers
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
                s.settimeout(5)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                s.connect(path)
                s.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
                s.shutdown(socket.SHUT_WR)
                reply, ancillary, _, _ = s.recvmsg(100000, socket.CMSG_SPACE(1024))
                answers += len(reply) > 0
                if ancillary:
                    return  # descriptors of the engine
                if not reply:
                    raise OSError(errno.EPIPE, "")
                value = json.loads(reply)
                if value.get("method") == "exception" or "error" in value or "path" in value and value["path"] is None:
                    raise OSError(errno.EINVAL, "")
        for i, message in enumerate(messages):
            for name, fds in (("no descriptor", []), ("one", [null]), ("two", [null, 0]), ("250", [null] * 250), ("directories", [os.open("/", os.O_RDONLY)] * 2)):
                attempt(14, f"say garbage {i} with {name} to {path}", garbage, message, fds)
                for fd in fds:
                    if fd > 2 and fd != null:
                        os.close(fd)
                        break
        for size in (17 << 20, 200 << 20, 1 << 40):
            def large():
                fd = os.memfd_create("attempt")
                try:
                    os.ftruncate(fd, size)
                    garbage(b"<args-via-fd>", [fd])
                finally:
                    os.close(fd)
            attempt(14, f"say {size} bytes to {path}", large)

        def pipe():
            r, w = os.pipe()
            try:
                garbage(b"<args-via-fd>", [r])
            finally:
                os.close(r)
                os.close(w)
        attempt(14, f"say a pipe that nobody writes to {path}", pipe)

        def many():
            open_ones = []
            try:
                for _ in range(500):
                    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                    s.setblocking(False)
                    open_ones.append(s)
                    s.connect(path)
                    s.send(b"{")
                raise Contained("they wait for the engine")
            finally:
                for s in open_ones:
                    s.close()
        attempt(14, f"open many connections to {path}", many)
    os.close(null)


def main():
    args = json.load(open("/run/osbuild/lib/attempts.json"))
    os.makedirs(OWN, exist_ok=True)
    open(OWN + "-file", "w").close()
    fifth()  # before anything is open
    apart(clear_flags, "", flags=CLONE_NEWNS)
    apart(nested_flags)
    apart(twice_nested_flags)
    second()
    third()
    fourth()
    eighth(args)
    ninth(args)
    eleventh()
    thirteenth(args)
    fourteenth()
    print("the attempts have ended", flush=True)


main()
