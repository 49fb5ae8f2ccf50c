"""Lets osbuild's tests run Ossify wherever they run osbuild.

A plugin of pytest: `pytest -p ossify_plugin`, with OSSIFY naming the program.
Commands that start osbuild's Python package start the program under the name of
osbuild, and so does the function that the package offers to tests.
"""

import os
import subprocess
import sys
import tempfile

import osbuild.main_cli

_folder = tempfile.TemporaryDirectory(prefix="ossify-as-osbuild-")
_program = os.path.join(_folder.name, "osbuild")
os.symlink(os.path.abspath(os.environ["OSSIFY"]), _program)


class _Popen(subprocess.Popen):
    def __init__(self, args, *rest, **keywords):
        if isinstance(args, list) and args[:3] == [sys.executable, "-m", "osbuild"]:
            args = [_program] + args[3:]
        super().__init__(args, *rest, **keywords)


def _osbuild_cli(no_reexec=False):
    return subprocess.run([_program] + sys.argv[1:], check=False).returncode


subprocess.Popen = _Popen
osbuild.main_cli.osbuild_cli = _osbuild_cli
