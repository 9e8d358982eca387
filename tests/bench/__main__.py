"""`make bench`: every benchmark, each figure a ratio within one run; table in runs/bench.

Names after the command pick some: python -m tests.bench step ingest
"""

import importlib
import json
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path

import torch

NAMES = (
    "step",
    "methods",
    "loop",
    "ingest",
    "labeling",
    "cues",
    "classify",
    "ddt",
    "sweep",
    "boxes",
    "max_box_acc",
    "masks",
    "memory",
    "gpu",
)


def machine() -> str:
    """The processor and software a table was made with."""
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{models[0] if models else platform.processor()}, {len(os.sched_getaffinity(0))} cores, "
        f"{device}, Python {platform.python_version()}, torch {torch.__version__}"
    )


def main() -> None:
    output = Path("runs/bench")
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in sys.argv[1:] or NAMES:
        started = time.perf_counter()
        found = importlib.import_module(f"tests.bench.{name}").run()
        rows += [{"benchmark": name, **row} for row in found]
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
        for row in found:
            print("  " + "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    result = {"date": date.today().isoformat(), "machine": machine(), "rows": rows}
    (output / "bench.json").write_text(json.dumps(result, indent=2) + "\n")
    columns = ("benchmark", "name", "measured", "target", "detail")
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(str(row.get(column, "")) for column in columns) for row in rows]
    table = "\n".join(f"| {line} |" for line in lines)
    (output / "bench.md").write_text(f"{result['date']}, {result['machine']}\n\n{table}\n")
    print(f"table: {output}/bench.md")


if __name__ == "__main__":
    main()
