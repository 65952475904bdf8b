"""Secrets in text: passwords in addresses, tokens, and what stands under a name that says so.

Parameters that hold one are refused, as DVC writes them into dvc.lock (`lesa.params`); errors are
said without it (`lesa.errors`).
"""

from __future__ import annotations

import re

HIDDEN = "***"
_NAME = r"(?:token|secret|password|passwd|api[_-]?key|access[_-]?key|private[_-]?key|credentials?)"
_VALUE = r"""(?!["']?\$)(?:"[^"]*"|'[^']*'|[^\s&;,]+)"""  # no `$NAME`, which names a variable
PATTERNS = [  # the first group stays
    re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/]+(?=@)", re.IGNORECASE),
    re.compile(rf"([\w-]*{_NAME}=(?!=)){_VALUE}", re.IGNORECASE),
    re.compile(rf"((?:^|(?<=\s))--?[\w-]*{_NAME}\s+)(?!-){_VALUE}", re.IGNORECASE),
    re.compile(r"(\b(?:bearer|authorization:\s*basic)\s+)[\w.~+/-]{8,}=*", re.IGNORECASE),
    re.compile(r"(\b)(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-(?:proj-)?)[A-Za-z0-9_]{20,}"),
    re.compile(r"(\b)(?:AKIA[0-9A-Z]{16}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*)"),
]


def redacted(text: str) -> str:
    """`text` with `***` in the place of each secret; the same text if it holds none."""
    for pattern in PATTERNS:
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text
