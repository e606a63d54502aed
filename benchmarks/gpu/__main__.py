"""`python -m benchmarks.gpu PART [PART …] [options]`, from the project's root."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

PARTS = ("steps", "data_path", "autoencoders", "shared_card")


def main(argv: Sequence[str] | None = None) -> int:
    """Run parts one after the other in this process, each with the same options."""
    words = list(sys.argv[1:] if argv is None else argv)
    parts = []
    while words and words[0] in PARTS:
        parts.append(words.pop(0))
    if not parts:
        print(f"usage: python -m benchmarks.gpu PART [PART …] [options]; parts: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    return max(importlib.import_module(f"benchmarks.gpu.{part}").main(words) for part in parts)


if __name__ == "__main__":
    sys.exit(main())
