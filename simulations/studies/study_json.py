"""A study's findings as files: one JSON file for its page, and tables for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from core.atomic_write import write_atomically


def write_study(summary: dict[str, Any], out: Path) -> None:
    """Write ``study.json`` and, for other programs, ``arms.csv``, ``differences.csv``, ``by_class.csv``, ``by_site.csv``."""
    write_atomically(out / "study.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    keys = ["topology", "start", "variant", "epsilon", "delta", "unit", "patients"]
    nested = ("settings", "by_class", "by_site", "interval")
    plain = [{key: value for key, value in row.items() if key not in nested} for row in summary["arms"]]
    ends = [dict(zip(("low", "high"), row.get("interval") or (None, None), strict=True)) for row in summary["arms"]]
    pd.DataFrame([row | end for row, end in zip(plain, ends, strict=True)]).to_csv(out / "arms.csv", index=False)
    differences = []
    for row in summary["differences"]:
        low, high = row["interval"] or (None, None)
        one, other = (row[side] for side in ("of", "against"))
        line = {"kind": row["kind"], "label": row["label"], "difference": row["difference"], "low": low, "high": high}
        line |= {"p": row["p"], "p_holm": row["p_holm"]}
        differences.append(line | {f"of_{k}": one[k] for k in keys} | {f"against_{k}": other[k] for k in keys})
    pd.DataFrame(differences).to_csv(out / "differences.csv", index=False)
    for name in ("by_class", "by_site"):
        lines = []
        for group in summary["groups"]:
            for part, found in group[name].items():
                measures = {key: value for key, value in found.items() if key != "interval"}
                if name == "by_class":
                    measures |= dict(zip(("low", "high"), found["interval"] or (None, None), strict=True))
                lines.append({key: group[key] for key in keys} | {name[3:]: part} | measures)
        pd.DataFrame(lines).to_csv(out / f"{name}.csv", index=False)
