"Removes the saved views of widgets from the notebooks, and their state: it differs in each run, and no reader sees it"

import json
from pathlib import Path

VIEW = "application/vnd.jupyter.widget-view+json"


def strip(
    path: Path,  # a notebook
) -> int:        # views and states that were removed
    "Leave a widget's words in place of its view"
    notebook = json.loads(path.read_text())
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    removed = sum(output.get("data", {}).pop(VIEW, None) is not None for output in outputs)
    removed += notebook["metadata"].pop("widgets", None) is not None
    if removed:
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    return removed


if __name__ == "__main__":
    from lesson_contract import name_of, notebooks
    for path in notebooks():
        if removed := strip(path):
            print(f"{name_of(path)}: {removed} views and states removed")
