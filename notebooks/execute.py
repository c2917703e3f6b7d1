"""Run the notebooks of this folder and keep what they print and draw: `python notebooks/execute.py [NAME.ipynb ...]`.

Each runs in a fresh kernel and an empty folder. What is kept names no time, no process and no path of the machine.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent


def run(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run all cells in `folder`; raises `CellExecutionError` where one raises."""
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=900, record_timing=False, resources=resources).execute()


def strip(notebook: NotebookNode) -> NotebookNode:
    """Leave out what differs from run to run without meaning anything: stderr (logs), and versions of the kernel."""
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    notebook.metadata = NotebookNode(
        kernelspec={"name": "python3", "display_name": "Python 3", "language": "python"},
        language_info={"name": "python"},
    )
    return notebook


def main() -> None:
    for path in [Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            notebook = run(nbformat.read(path, as_version=4), Path(folder))
        nbformat.write(strip(notebook), path)


if __name__ == "__main__":
    main()
