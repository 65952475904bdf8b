"""Folders that one stage writes and others read. dvc.yaml names them, too."""

from pathlib import Path

BASE = Path("artifacts/base")
SVD = Path("artifacts/svd")
FITS = Path("artifacts/fit")
INIT, TRAINED = Path("artifacts/init"), Path("artifacts/trained")
CORPUS = Path("artifacts/corpus")
WORK = Path("artifacts/work")  # unfinished
PREFIX = WORK / "prefix"  # stays: other models and later runs read it, too
