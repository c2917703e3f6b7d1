"""Makes one text of novels of Project Gutenberg, for smollm2.py.

    python novels.py TEXT NOVEL.txt NOVEL.txt ...

What is not the novel is cut off, lines are joined to paragraphs, and the novels follow one another as they were named:
the last tenth of the text, so the end of the last, is what smollm2.py holds out.
"""

import re
import sys
from pathlib import Path

START, END = re.compile(r"\*\*\* ?START OF .*?\*\*\*", re.DOTALL), re.compile(r"\*\*\* ?END OF ")


def novel(file: Path) -> str:
    """The paragraphs of a novel.

    Raises:
        ValueError: a file that does not say where it begins and ends.
    """
    raw = file.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:  # older files
        text = raw.decode("latin-1")
    start, end = START.search(text), END.search(text)
    if start is None or end is None:
        raise ValueError(f"{file} has no lines *** START OF ... *** and *** END OF ...: expected a file of the project")
    paragraphs = re.split(r"\n\s*\n", text[start.end() : end.start()].replace("\r", ""))
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())


if __name__ == "__main__":
    target, *files = map(Path, sys.argv[1:])
    whole = "\n\n".join(map(novel, files))
    target.write_text(whole)
    print(f"{len(files)} novels, {len(whole.encode()):,} bytes")
