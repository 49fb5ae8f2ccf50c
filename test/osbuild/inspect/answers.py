"""Answers as osbuild --inspect does, for many manifests in one process.

usage: answers.py CHECKOUT. Each line of standard input is a libdir, a tab and
the path of a manifest; for each a line is printed: the status, a tab, and what
osbuild would print, or the exception that would end it.
"""
import json
import sys

sys.path.insert(0, sys.argv[1])
import osbuild.meta  # noqa: E402

indexes = {}
sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def index_for(libdir, version):
    """osbuild changes the schemas of its index, so formats do not share one."""
    key = libdir, repr(version)
    if key not in indexes:
        indexes[key] = osbuild.meta.Index(libdir)
    return indexes[key]


def answer(libdir, path):
    with open(path, encoding="utf8") as f:
        desc = json.load(f)
    index = index_for(libdir, desc.get("version"))
    info = index.detect_format_info(desc)
    if not info:
        return 2, "Unsupported manifest format"
    result = info.module.validate(desc, index)
    if not result:
        return 2, json.dumps(result.as_dict())
    manifest = info.module.load(desc, index)
    return 0, json.dumps(info.module.describe(manifest, with_id=True))


for line in sys.stdin:
    try:
        status, text = answer(*line.rstrip("\n").split("\t"))
    except Exception as e:  # osbuild would end with a traceback
        status, text = 1, f"{type(e).__name__}: {e}".replace("\n", " ")
    print(f"{status}\t{text}", flush=True)
