#!/usr/bin/python3
"""Makes one manifest of osbuild's own test data.

    data.py CHECKOUT SEED NATIVE OUTPUT

Each test/data/stages/NAME/b.json of the checkout becomes pipelines named NAME and
NAME-PIPELINE, on the host as build root. Its stage org.osbuild.rpm is replaced by
the archive SEED, the first tree of the comparison, and org.osbuild.selinux is left
out. NATIVE is the list of `ossify modules --json`. The manifest goes to OUTPUT, the
names of its final pipelines and of those left out, with the reason, to standard
output: "compare NAME" or "without NAME: REASON".
"""

import base64
import hashlib
import json
import pathlib
import sys

checkout, seed, native, output = sys.argv[1:]
modules = {(m["class"], m["name"]) for m in map(json.loads, open(native, encoding="utf8"))}
data = open(seed, "rb").read()
seed_id = "sha256:" + hashlib.sha256(data).hexdigest()
sources = {"org.osbuild.inline": {"items": {seed_id: {"encoding": "base64", "data": base64.b64encode(data).decode()}}}}
UNPACK = {"type": "org.osbuild.untar",
          "inputs": {"file": {"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": [seed_id]}}}
# What cannot run on a tree without packages.
WITHOUT = {
    "rpm": "nothing but packages",
    "rpmkeys.import": "RPM's database differs from one run to the next; the stage's own cases have keys",
    "rpm-kernel-install": "nothing but packages",
    "hmac": "sha512hmac is in no package of Debian; the stage's own cases have a stand-in",
    "grub2": "copies boot loaders of a Fedora build root; the stage's own cases have some",
    "grub2.legacy": "copies boot loaders of a Fedora build root; the stage's own cases have some",
}


def rename(value, names):
    """Replaces references to pipelines."""
    if isinstance(value, dict):
        return {rename(k, names): rename(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [rename(v, names) for v in value]
    if isinstance(value, str) and value.startswith("name:") and value[5:] in names:
        return "name:" + names[value[5:]]
    return value


pipelines = []
for path in sorted(pathlib.Path(checkout, "test/data/stages").glob("*/b.json")):
    name = path.parent.name
    manifest = json.loads(path.read_text(encoding="utf8"))
    parts = [p for p in manifest["pipelines"] if p["name"] != "build"]
    missing = sorted({s["type"] for p in parts for s in p.get("stages", [])
                      if ("Stage", s["type"]) not in modules and s["type"] not in ("org.osbuild.rpm", "org.osbuild.selinux")})
    if name in WITHOUT:
        print(f"without {name}: {WITHOUT[name]}")
        continue
    if missing:
        print(f"without {name}: not native: {' '.join(missing)}")
        continue
    names = {p["name"]: name if p["name"] == "tree" else f"{name}-{p['name']}" for p in parts}
    for part in parts:
        part = rename({k: v for k, v in part.items() if k not in ("build", "runner")}, names)
        part["name"] = names[part["name"]]
        stages, packages = [], False
        for stage in part.get("stages", []):
            if stage["type"] == "org.osbuild.rpm" and not packages:
                stages.append(UNPACK)
                packages = True
            elif stage["type"] not in ("org.osbuild.rpm", "org.osbuild.selinux"):
                stages.append(stage)
        part["stages"] = stages
        pipelines.append(part)
    for source, content in manifest.get("sources", {}).items():
        if source == "org.osbuild.inline":
            sources[source]["items"].update(content["items"])
    print(f"compare {name}")

used = json.dumps(pipelines)
sources["org.osbuild.inline"]["items"] = {k: v for k, v in sources["org.osbuild.inline"]["items"].items() if k in used}
with open(output, "w", encoding="utf8") as file:
    json.dump({"version": "2", "pipelines": pipelines, "sources": sources}, file)
