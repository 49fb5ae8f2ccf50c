#!/usr/bin/python3
"""Prints a manifest of plain configuration stages, of as many modules as it can.

    configuration.py STAGES/TESTDATA COUNT

The options are those of a case that is accepted, and so is what is there before:
an archive that the first stage unpacks. COUNT is how many follow it.
"""

import ast
import base64
import hashlib
import io
import json
import pathlib
import re
import sys
import tarfile

CASES = {
    "chmod": None, "chrony": None, "cloud-init": None, "containers.storage.conf": None, "cron.script": None,
    "crypttab": None, "debug-shell": None, "dnf.config": None, "dracut.conf": None, "first-boot": None, "fix-bls": None,
    "fstab": None, "grub2": None, "hostname": None, "ignition": None, "insights-client.config": None, "kernel-cmdline": None,
    "kernel-cmdline.bls-append": None, "keymap": None, "ln": None, "locale": None, "machine-id": None, "mkdir": None,
    "modprobe": None, "nginx.conf": None, "nm.conf": None, "nm.conn": None, "noop": None, "pam.limits.conf": None,
    "pwquality.conf": None, "resolv-conf": None, "rhsm.facts": None, "rpm.macros": None, "selinux.config": None,
    "shell.init": None, "sshd.config": None, "sysconfig": None, "sysctld": None, "systemd": None, "systemd-journald": None,
    "systemd-logind": None, "systemd-sysusers.d": None, "systemd.preset": None, "systemd.unit": None,
    "systemd.unit.create": None, "timezone": None, "tmpfilesd": None, "tuned": None, "udev.rules": None, "waagent.conf": None,
    "wsl.conf": None, "wsl-distribution.conf": None, "yum.config": None, "yum.repos": None, "zipl": None, "groups": None,
    "users": None, "copy": None, "test": None,
}


def parts(path):
    """The parts of a case by name."""
    out, name = {"": ""}, ""
    for line in path.read_text(encoding="utf8").splitlines(keepends=True):
        if match := re.fullmatch(r"-- (.+) --\n", line):
            name = match[1]
            out[name] = ""
        else:
            out[name] += line
    return out


def entries(text):
    """The tree lines of a case that say what is there before."""
    for line in filter(None, text.splitlines()):
        path, rest = line.split(": ", 1)
        kind, rest = rest.split(" ", 1)
        if not path.startswith("/"):
            return
        if kind == "link":
            target = rest.rsplit(" ", 1)[0]
            yield path, tarfile.SYMTYPE, 0o777, target, b""
        elif kind == "dir":
            yield path, tarfile.DIRTYPE, int(rest.split(" ")[0], 8), "", b""
        elif kind == "file":
            mode, _, content = rest.split(" ", 2)
            if not content.startswith('"'):
                return
            literal = re.match(r'"(?:[^"\\]|\\.)*"', content)[0]
            yield path, tarfile.REGTYPE, int(mode, 8), "", ast.literal_eval(literal).encode("latin1", "replace")


def usable(case):
    """Whether a case needs nothing but its tree."""
    extra = {k.split(" ")[0] for k in case} - {"", "options.json", "before", "want", "show", "shown", "ignore", "tools", "args.json"}
    return "want" in case and not extra and "tools" not in case and "$CASE" not in case.get("options.json", "") \
        and "input://" not in case.get("before", "") + case.get("options.json", "") and "mount://" not in case.get("options.json", "")


testdata, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
tree, stages, used = {}, [], set()
for name in [*CASES, *CASES]:
    for path in sorted((testdata / f"org.osbuild.{name}").glob("*.txtar")):
        case = parts(path)
        if path in used or not usable(case):
            continue
        before = {e[0]: e for e in entries(case.get("before", ""))}
        if any(p in tree and tree[p] != e for p, e in before.items()):
            continue
        made = {line.split(": ", 1)[0] for line in case["want"].splitlines() if ": file" in line or ": link" in line} - set(before)
        if made & (set(tree) | set().union(*(s[2] for s in stages), set())):
            continue
        tree.update(before)
        used.add(path)
        stages.append((name, json.loads(case.get("options.json") or "{}"), made | set(before)))
        break

archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w") as tar:
    for path, kind, mode, target, content in sorted(tree.values()):
        info = tarfile.TarInfo(path.lstrip("/"))
        info.type, info.mode, info.linkname, info.size = kind, mode, target, len(content)
        tar.addfile(info, io.BytesIO(content))
data = archive.getvalue()
key = "sha256:" + hashlib.sha256(data).hexdigest()
first = {"type": "org.osbuild.untar",
         "inputs": {"file": {"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": [key]}}}
json.dump({"version": "2",
           "pipelines": [{"name": "tree", "stages": [first] + [
               {"type": f"org.osbuild.{name}", "options": options} for name, options, _ in stages[:count]]}],
           "sources": {"org.osbuild.inline": {"items": {key: {"encoding": "base64", "data": base64.b64encode(data).decode()}}}}},
          sys.stdout)
print(len(stages[:count]), "stages of", len({s[0] for s in stages[:count]}), "modules", file=sys.stderr)
