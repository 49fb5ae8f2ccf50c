#!/usr/bin/python3
"""osbuild's verdict on a module of a manifest, for tests.

Started in a checkout of osbuild, reads from standard input
{"name": NAME, "1": OBJECT or null, "2": OBJECT or null}, the object as it would
stand in a manifest of that format, and prints "valid" or "refused".
"""

import json
import sys

sys.path.insert(0, ".")

import osbuild.meta  # noqa: E402

case = json.load(sys.stdin)
verdicts = []
for version in "1", "2":
    if case[version] is not None:
        # Anew for each: get_schema moves the definitions out of what it is made of.
        info = osbuild.meta.Index(".").get_module_info("Stage", case["name"])
        if info is None:
            sys.exit("osbuild has no such stage")
        schema = osbuild.meta.Schema(info.get_schema(version), case["name"])
        verdicts.append(schema.validate(case[version]).valid)
print("valid" if all(verdicts) else "refused")
