"""What in a Python source could turn data into code: found in its syntax tree, under whatever name it goes.

Names are followed through imports, `as`, assignments, `getattr` and subscripts with a known name. What is
dangerous is found wherever it is named, called or not, so that it cannot be handed on; of what may load
something, only `LOADERS` are allowed. A source that wants to hide from this can: it is meant for mistakes.
"""

import ast
import builtins
import re

MODULES = set(  # that nobody needs who does not run code: none may be imported, at any depth of a path
    "_pickle builtins cPickle cloudpickle code codeop copyreg cpp_extension dill imp importlib.machinery "
    "joblib jsonpickle marshal numexpr pickle5 pickletools pty runpy shelve zipimport".split()
)
NAMES = re.compile(  # of what data must not reach
    r"builtins\.(eval|exec|compile|__import__|__builtins__)|"
    r"(os|posix)\.(system|popen|startfile)|"
    r"subprocess\.(getoutput|getstatusoutput)|asyncio\.create_subprocess_shell|"
    r"importlib\.(import_module|__import__|util\.(spec_from_\w+|module_from_spec))|"
    r"pkgutil\.resolve_name|pydoc\.locate|types\.(FunctionType|CodeType)|operator\.(attrgetter|methodcaller)|"
    r"timeit\.\w+|pandas\.(eval|HDFStore)|torch\.package\.\w+|torch\.(jit|hub)\.load\w*|"
    r"yaml\.(\w+\.)?C?(Unsafe|Full)?(Loader|Constructor)"
)
LOADER = re.compile(
    r"(un)?(load|Load|pickle)(s|er|_\w+)?|\w+_(load|load_all|pickle)|Unpickler|read_(pickle|hdf|array)"
)
LOADERS = {  # the others need `Loader`, `weights_only`, or no `allow_pickle`: see `visit_Call`
    *("json.load", "json.loads", "tomllib.load", "tomllib.loads", "yaml.safe_load", "ast.literal_eval"),
    *("safetensors.torch.load", "safetensors.torch.load_file", "onnx.load"),
}
PICKLE = {"pickle.PickleError", "pickle.PicklingError", "pickle.UnpicklingError"}  # what others raise
SAFE = {"yaml.SafeLoader", "yaml.CSafeLoader", "_Loader"}  # the last is cunet.parameters's
OPEN = {"pickle", "torch", "yaml", "numpy", "pandas", "os", "sys", "subprocess", "importlib"}
KEYS = {"shell": False, "allow_pickle": False, "trust_remote_code": False, "weights_only": True}  # or absent


def text_of(node: ast.AST) -> str | None:
    """The text that an expression is, if it is one whatever happens: literals, and their sums."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = text_of(node.left), text_of(node.right)
        return None if None in parts else "".join(parts)
    return None


class Finder(ast.NodeVisitor):
    """Walks over a source; `found` has each danger with its line."""

    def __init__(self, tree: ast.AST):
        self.found, self.meant, self.guarded = [], {}, set()
        self.trees = list(ast.walk(tree))
        for node in self.trees:  # wherever a name is imported, it is taken for that module everywhere
            if isinstance(node, ast.Import):
                first = {n.name.split(".")[0] for n in node.names if not n.asname}
                self.meant |= {name: name for name in first} | {
                    n.asname: n.name for n in node.names if n.asname
                }
            elif isinstance(node, ast.ImportFrom) and not node.level:
                self.meant |= {(n.asname or n.name): f"{node.module}.{n.name}" for n in node.names}
        pairs = [pair for node in self.trees for pair in assigned(node)]
        for _ in range(3):  # a name for a name for a name
            known = {name: self.name(value) for name, value in pairs if name not in self.meant}
            self.meant |= {name: meant for name, meant in known.items() if meant}

    def name(self, node: ast.AST) -> str | None:
        """The full dotted name of what an expression is; None if it is no import, built-in, or part of it."""
        if isinstance(node, ast.Name):
            of_python = hasattr(builtins, node.id) or node.id == "__builtins__"
            return self.meant.get(node.id) or (f"builtins.{node.id}" if of_python else None)
        if isinstance(node, ast.NamedExpr):
            return self.name(node.value)
        owner, attribute = None, None
        if isinstance(node, ast.Attribute):
            owner, attribute = node.value, node.attr
        elif isinstance(
            node, ast.Subscript
        ):  # vars(pickle)["load"], sys.modules["pickle"], globals()["eval"]
            owner, attribute = node.value, text_of(node.slice)
        elif isinstance(node, ast.Call) and self.name(node.func) == "builtins.getattr" and len(node.args) > 1:
            owner, attribute = node.args[0], text_of(node.args[1])
        if attribute is None:
            return None
        if isinstance(owner, ast.Call) and self.name(owner.func) in ("builtins.vars", "builtins.globals"):
            base = self.name(owner.args[0]) if owner.args else None
            return f"{base}.{attribute}" if base else self.name(ast.Name(attribute))
        if isinstance(owner, ast.Attribute) and owner.attr == "__dict__":
            owner = owner.value
        base = self.name(owner)
        if base == "sys.modules":
            return attribute
        return f"{base}.{attribute}" if base else None

    def add(self, node: ast.AST, what: str) -> None:
        self.found.append(f"{node.lineno}: {what}")

    def check(self, node: ast.AST, name: str | None) -> None:
        """Add an expression, or an import, that is dangerous by its name."""
        if name is None or name.startswith("cunet."):
            return
        parts = name.split(".")
        inside = {*parts, *(".".join(parts[i : i + 2]) for i in range(len(parts)))}
        bad = bool((MODULES - {"builtins"}) & inside) or name == "builtins" or name.startswith("builtins.__b")
        bad |= bool(NAMES.fullmatch(name)) or name.startswith("builtins.builtins")
        bad |= "pickle" in parts and name != "pickle" and name not in PICKLE
        external = parts[0] != "builtins" and name not in LOADERS | PICKLE | SAFE
        bad |= external and len(parts) > 1 and bool(LOADER.fullmatch(parts[-1])) and node not in self.guarded
        if bad:
            self.add(node, name)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.check(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            return
        for alias in node.names:
            if alias.name == "*":  # and nobody knows what is called by what name
                self.add(node, f"{node.module}.*")
            self.check(node, f"{node.module}.{alias.name}")

    def visit_Name(self, node: ast.Name) -> None:
        name = self.name(node) if isinstance(node.ctx, ast.Load) else None
        if name == "pickle":  # alone: it is handed on, or gets another name
            self.add(node, name)
        self.check(node, name)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.check(node, self.name(node))
        if self.name(node.value) is None or not isinstance(node.value, ast.Name):
            self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.check(node, self.name(node))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = self.name(node.func)
        given = {key.arg: key.value for key in node.keywords if key.arg}
        for key in node.keywords:
            if key.arg is None and isinstance(key.value, ast.Dict):  # **{"shell": True}
                given |= {text_of(k): v for k, v in zip(key.value.keys, key.value.values, strict=True) if k}
        for key, wanted in KEYS.items():
            if key in given and not (isinstance(given[key], ast.Constant) and given[key].value is wanted):
                self.add(node, f"{key}={ast.unparse(given[key])}")
        loader = given.get("Loader", node.args[1] if len(node.args) > 1 else None)
        fine = called == "torch.load" and "weights_only" in given
        fine |= called == "numpy.load" and len(node.args) < 3 and all(key.arg for key in node.keywords)
        fine |= (
            called == "yaml.load"
            and loader is not None
            and (self.name(loader) or ast.unparse(loader)) in SAFE
        )
        if fine:
            self.guarded.add(node.func)
        if called == "builtins.getattr":
            self.check(node, self.name(node))
            base = self.name(node.args[0]) if node.args else None
            if base and base.split(".")[0] in OPEN and text_of(node.args[1]) is None:
                self.add(node, f"getattr({base}, ...)")
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("eval", "query") and node.args:
            self.add(node, f".{node.func.attr}(...)")  # a pandas expression; a network's eval() takes nothing
        self.generic_visit(node)


def assigned(node: ast.AST) -> list[tuple[str, ast.AST]]:
    """The names that a statement or an expression gives a value, each with it."""
    if isinstance(node, ast.Assign):
        return [(target.id, node.value) for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign | ast.NamedExpr) and isinstance(node.target, ast.Name) and node.value:
        return [(node.target.id, node.value)]
    return []


def dangers(source: str) -> list[str]:
    """Each place of a Python source by which data could become code: its line and what stands there."""
    tree = ast.parse(source)
    finder = Finder(tree)
    finder.visit(tree)
    return finder.found
