"""The program `adaptive-depth`, and `python -m adaptive_depth` for launchers such as torchrun."""

import sys


def main() -> int:
    """Run one command and return its exit status; Ctrl-C is one line, also while libraries are still being imported."""
    try:
        from .cli import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("Error: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
