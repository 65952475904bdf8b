"""Python source as text: the standard library of this interpreter, and pinned wheels.

Files are read and never run. Train and held-out text share no package: code of one package repeats
itself from file to file, as its licence head, names and idioms.
"""

from __future__ import annotations

import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from lesa.downloads import take_wheel
from lesa.errors import UserError
from lesa.params import AtLeastTwo, Count, Positive, Strict
from lesa.text.corpus import digest_of
from lesa.text.wikitext import Document

# Of the standard library: what tests it, what is generated, and what pip brings.
NOT_READ = {"site-packages", "test", "tests", "idle_test", "__pycache__", "pydoc_data"}


class Package(Strict):
    """A wheel of the package registry that fits every platform; its file is pinned."""

    requirement: str  # "name==version"
    sha256: str  # of the wheel, hex
    license: str

    @property
    def name(self) -> str:
        return self.requirement.partition("==")[0]


class PythonFiles(Strict):
    """Python files, split by package; the standard library is one of those trained on."""

    train: Annotated[list[Package], Field(min_length=1)]
    heldout: Annotated[list[Package], Field(min_length=1)]
    min_characters: Positive  # shorter files are dropped
    block_size: AtLeastTwo  # tokens per packed sequence of training
    seed: Count  # of the order of the training files


class PythonSource(PythonFiles):
    """Python files whose held-out ones are scored one by one."""

    files_per_package: Positive  # of each held-out package, at even distances
    file_characters: Positive  # of each of them, from its beginning


def wheel_files(package: Package, key: str) -> Iterator[Document]:
    """Every Python file of a package's wheel, by name."""
    with zipfile.ZipFile(take_wheel(package.requirement, package.sha256, key)) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".py"):
                yield document(package.name, name, archive.read(name))


def standard_library() -> Iterator[Document]:
    """Every Python file of the running interpreter's standard library, by path, less its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if not NOT_READ & set(name.parts):
            yield document("python", name.as_posix(), path.read_bytes())


def document(package: str, name: str, data: bytes) -> Document:
    """A file as a document; what is not UTF-8 is replaced, as source in another encoding is."""
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n")
    return {"id": f"{package}/{name}", "title": package, "text": text}


def python_files(source: PythonFiles, key: str) -> dict[str, list[Document]]:
    """The files of `source` that are long enough, "train" and "heldout"; of "train" none is a copy.

    Raises UserError if a package is in both; `key` names the parameters.
    """
    both = {p.name.lower() for p in source.train} & {p.name.lower() for p in source.heldout}
    if both:
        raise UserError(f"{key}.heldout: {min(both)} is in train, too; a package is in one of them")
    found = {"train": list(standard_library()), "heldout": []}
    for split, packages in (("train", source.train), ("heldout", source.heldout)):
        for index, package in enumerate(packages):
            found[split] += wheel_files(package, f"{key}.{split}.{index}")
    long = {
        split: [file for file in files if len(file["text"]) >= source.min_characters]
        for split, files in found.items()
    }
    return long | {"train": without_copies(long["train"], long["heldout"])}


def without_copies(files: list[Document], heldout: list[Document]) -> list[Document]:
    """Files that differ from every held-out one, and from those before them, in more than space:
    packages carry copies of others."""
    seen, kept = {digest_of(file["text"]) for file in heldout}, []
    for file in files:
        if (digest := digest_of(file["text"])) not in seen:
            seen.add(digest)
            kept.append(file)
    return kept


def heldout_texts(source: PythonSource, files: list[Document], key: str) -> list[Document]:
    """The beginnings of `source.files_per_package` files of each package, at even distances.

    A difference between models is resampled by package, so each must weigh much the same. Raises
    UserError if a package has too few files.
    """
    count, chosen = source.files_per_package, []
    for package in source.heldout:
        own = [file for file in files if file["title"] == package.name]
        if len(own) < count:
            raise UserError(
                f"{key}.files_per_package: {count}, but {package.requirement} has {len(own)} files "
                f"of min_characters={source.min_characters} or more"
            )
        chosen += [own[index * len(own) // count] for index in range(count)]
    return [file | {"text": file["text"][: source.file_characters]} for file in chosen]
