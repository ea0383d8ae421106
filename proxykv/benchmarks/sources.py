"""Real text for contexts: documents from packages, data sets, the standard library or a folder.

The hash of a document's name decides its split, so a training context never shares a source file
with an evaluation context.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

from proxykv.benchmarks import records
from proxykv.benchmarks.record_schema import ANY_TEXT, record
from proxykv.config.sources import form_problem
from proxykv.runtime import debs, wheels
from proxykv.runtime.errors import ConfigError

SPLITS = ("train", "eval")
TEXT_RECORD = record(text=ANY_TEXT)
TOPICS = "pydoc_data/topics.py"  # Python's language reference as prose: {topic: text}
SENTENCE_END = re.compile(
    r"(?<=[a-z][.?!])(?:\s+|(?=[A-Z]))|(?<=[a-z][.?!][\"')\]])\s+|(?<=[。！？])(?![”’」』）])"
)
WRAPPED_CHINESE = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef]) (?=[\u3000-\u9fff])")


@dataclass(frozen=True)
class Document:
    """One text of a source.

    Attributes:
        name: unique in its source.
        text: the content.
        style: "prose" or "code".
    """

    name: str
    text: str
    style: str


@dataclass(frozen=True)
class Piece:
    """A part of a document before which a line may be inserted.

    Attributes:
        text: the content.
        indent: indentation of the inserted line.
    """

    text: str
    indent: str = ""


def load(sources: Sequence[Mapping[str, Any]], split: str, downloads: str | Path) -> list[Document]:
    """Load the documents of a split, sorted by name within each source.

    A source is one of
      {kind: wheel, name, version, files, sha256}  files of a wheel, downloaded to `downloads`;
      {kind: package, name, version, files}        files of an installed package;
      {kind: debian, name, version, files, sha256} files of a Debian package, likewise downloaded;
      {kind: hub, name, revision, files, field}    the text `field` of the records of a data set's
                                                   files (JSONL, JSON or Parquet, maybe zipped)
                                                   called `files`, a name without glob or suffix;
      {kind: stdlib, files}                        files of the running Python (its version decides
                                                   the text: prefer pinned packages);
      {kind: folder, path, files}                  a local folder; of `*.jsonl` the field `text`.
    `files` is a glob on names relative to the source, in which `*` also matches `/`. Files ending
    in `.py` are code, except Python's documentation topics; the rest is prose.

    Args:
        sources: see above.
        split: "train" or "eval".
        downloads: folder of downloaded wheels and Debian packages.

    Returns:
        The documents.

    Raises:
        ConfigError: if a source is misspelt, missing or has no file in this split.
    """
    if split not in SPLITS:
        raise ConfigError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    documents: list[Document] = []
    for source in sources:
        files = _read(source, Path(downloads))
        found = [d for name in sorted(files) for d in _documents(name, files[name], source)]
        chosen = [document for document in found if split_of(document.name) == split]
        if not chosen:
            raise ConfigError(
                f"source {dict(source)}: {len(found)} documents match, none in the {split} split; "
                "widen `files`"
            )
        documents += chosen
    return documents


def split_of(name: str) -> str:
    """The split of a document: half of all names, by their hashes, are of each split."""
    return SPLITS[hashlib.sha256(name.encode()).digest()[0] % 2]


def _read(source: Mapping[str, Any], downloads: Path) -> dict[str, str]:
    if problem := form_problem(source):
        raise ConfigError(problem)
    return READERS[source["kind"]](source, downloads)


def _wheel(source: Mapping[str, Any], downloads: Path) -> dict[str, str]:
    pin = wheels.Pin(source["name"], str(source["version"]))
    return wheels.read_text(wheels.fetch(pin, downloads, source["sha256"]), source["files"])


def _debian(source: Mapping[str, Any], downloads: Path) -> dict[str, str]:
    pin = wheels.Pin(source["name"], str(source["version"]))
    return debs.read_text(debs.fetch(pin, downloads, source["sha256"]), source["files"])


def _hub(source: Mapping[str, Any], _: Path) -> dict[str, str]:
    pin = {"hub": source["name"], "revision": source["revision"]}
    name, field = source["files"], source["field"]
    found = records.read_records(pin, name, record(**{field: ANY_TEXT}))
    return {f"{source['name']}/{name}:{i}": one[field] for i, one in enumerate(found)}


def _package(source: Mapping[str, Any], _: Path) -> dict[str, str]:
    name, version = source["name"], str(source["version"])
    try:
        package = distribution(name)
    except PackageNotFoundError as error:
        raise ConfigError(f"source {name}: not installed; pip install {name}=={version}") from error
    if package.version != version:
        raise ConfigError(
            f"source {name}: {package.version} is installed, the configuration pins {version}; "
            f"pip install {name}=={version}, or correct the version"
        )
    names = [str(file) for file in package.files or ()]
    return _matching({n: Path(str(package.locate_file(n))) for n in names}, source["files"])


def _stdlib(source: Mapping[str, Any], _: Path) -> dict[str, str]:
    root = Path(sysconfig.get_path("stdlib"))
    return _folder({"path": root, "files": source["files"]}, root)


def _folder(source: Mapping[str, Any], _: Path) -> dict[str, str]:
    root = Path(source["path"])
    if not root.is_dir():
        raise ConfigError(f"source folder {root} does not exist; create it or correct `path`")
    # Look only below the part of the glob that is fixed: a standard library is large.
    fixed = re.split(r"[*?\[]", source["files"])[0].rpartition("/")[0]
    paths = records.files_below(root / fixed) if (root / fixed).is_dir() else []
    return _matching({p.relative_to(root).as_posix(): p for p in paths}, source["files"])


READERS: dict[str, Callable[[Mapping[str, Any], Path], dict[str, str]]] = {
    "wheel": _wheel,
    "package": _package,
    "debian": _debian,
    "hub": _hub,
    "stdlib": _stdlib,
    "folder": _folder,
}


def _matching(paths: Mapping[str, Path], pattern: str) -> dict[str, str]:
    names = [name for name in paths if fnmatchcase(name, pattern)]
    return {name: _text(paths[name]) for name in names}


def _text(path: Path) -> str:
    """A file's text without a byte order mark; bytes that are not UTF-8 are replaced."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise ConfigError(f"{path}: UTF-16; convert it to UTF-8")
    return data.decode("utf-8-sig", errors="replace")


def _documents(name: str, text: str, source: Mapping[str, Any]) -> Iterable[Document]:
    if name.endswith(TOPICS):
        topics = _first_dict(text)
        return [Document(f"{name}:{topic}", topics[topic], "prose") for topic in sorted(topics)]
    if name.endswith(".jsonl"):
        where = f"source {source.get('path', source.get('name'))}: {name}"
        found = records.parse(name, partial(BytesIO, text.encode()), where)
        records.check(found, TEXT_RECORD, where)
        return [Document(f"{name}:{i}", x["text"], "prose") for i, x in enumerate(found, start=1)]
    return [Document(name, text, "code" if name.endswith(".py") else "prose")]


def _first_dict(text: str) -> dict[str, str]:
    tree = ast.parse(text)
    return next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign))


def pieces(document: Document) -> list[Piece]:
    """Cut a document where another line can be inserted without breaking anything.

    Prose: sentences of running text. Code: statements (see `_code`).
    """
    return _code(document.text) if document.style == "code" else _prose(document.text)


def _prose(text: str) -> list[Piece]:
    """Sentences. Each ends in a space, or in an empty line at the end of its paragraph.

    Paragraphs are separated by empty lines; hard-wrapped lines are joined. Indented blocks
    (grammar, listings) and paragraphs without a full stop (titles, rules) are left out.
    A sentence ends at `.`, `?` or `!`, possibly quoted or bracketed, before white space or an
    upper-case letter: crude about abbreviations, which does no harm here. A Chinese one ends at its
    full stop, and no space follows it.
    """
    found = []
    for paragraph in re.split(r"\n[ \t]*\n", text):
        block = paragraph.strip("\n")
        if block.startswith((" ", "\t")) or not re.search(r"[a-z][.?!]|[。！？]", block):
            continue
        joined = WRAPPED_CHINESE.sub("", " ".join(block.split()))
        sentences = [sentence for sentence in SENTENCE_END.split(joined) if sentence]
        found += [Piece(s if s[-1] in "。！？" else s + " ") for s in sentences[:-1]]
        found += [Piece(sentence + "\n\n") for sentence in sentences[-1:]]
    return found


def _code(text: str) -> list[Piece]:
    """Statements of any depth, each of which starts a line.

    Empty and comment lines belong to the statement before them; what stands above the first one
    (licence, module docstring) is left out, and no docstring is cut. A file that does not parse
    yields nothing.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return []
    lines = text.split("\n")
    starts = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and not _is_docstring(node):
            decorators = getattr(node, "decorator_list", [])
            row = min([node.lineno, *(d.lineno for d in decorators)]) - 1
            indent = lines[row][: len(lines[row]) - len(lines[row].lstrip())]
            alone = len(indent.encode()) == node.col_offset
            if alone and not lines[row].lstrip().startswith("elif"):
                starts[row] = indent
    rows = pairwise([*sorted(starts), len(lines)])
    return [Piece("\n".join(lines[row:end]) + "\n", starts[row]) for row, end in rows]


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
