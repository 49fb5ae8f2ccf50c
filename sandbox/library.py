"""Compiles the Python package in a folder, which is given as the argument.

Before that, the __init__.py of the package and of each package in it, where it
does nothing but import names from modules beside it, is made to do so only when
such a name is asked for. Every stage imports osbuild's package for its API, and
its __init__.py loads the whole of it, which takes longer than most stages do.
"""
import ast
import compileall
import os
import py_compile
import sys

ON_DEMAND = '''
_PARTS = {parts!r}


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(f"module {{__name__!r}} has no attribute {{name!r}}")
    from importlib import import_module
    if name in _PARTS:
        module, attribute = _PARTS[name]
        value = getattr(import_module("." + module, __name__), attribute)
    else:
        try:
            value = import_module("." + name, __name__)
        except ModuleNotFoundError as missing:
            if missing.name != __name__ + "." + name:
                raise
            raise AttributeError(f"module {{__name__!r}} has no attribute {{name!r}}") from None
    globals()[name] = value
    return value
'''


def on_demand(path):
    with open(path, encoding="utf8") as f:
        source = f.read()
    lines = source.split("\n")
    parts = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module and node.names[0].name != "*":
            for alias in node.names:
                parts[alias.asname or alias.name] = (node.module, alias.name)
            for i in range(node.lineno - 1, node.end_lineno):
                lines[i] = ""
        elif isinstance(node, ast.Expr):
            ast.literal_eval(node.value)
        elif isinstance(node, ast.Assign):
            ast.literal_eval(node.value)
        else:
            return
    with open(path, "w", encoding="utf8") as f:
        f.write("\n".join(lines) + ON_DEMAND.format(parts=parts))


def main(folder):
    # Statements have their last line since Python 3.8.
    for where, _, files in os.walk(folder) if sys.version_info >= (3, 8) else ():
        if "__init__.py" in files:
            try:
                on_demand(os.path.join(where, "__init__.py"))
            except (SyntaxError, ValueError):
                pass  # it does more than that, and stays
    # The copy is never changed, so no import has to compare times.
    keywords = {}
    if sys.version_info >= (3, 7):
        keywords["invalidation_mode"] = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, quiet=1, **keywords)


if __name__ == "__main__":
    main(sys.argv[1])
