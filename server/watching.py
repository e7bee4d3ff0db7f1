"""Observers of a campaign that need no terminal."""

from __future__ import annotations

from typing import Any

from core.report import numbers


class LogObserver:
    """Prints one line a round."""

    def phase(self, title: str, answers: int, done: int) -> None:
        """Print the phase."""
        print(f"{title}: {answers - done} answers to come", flush=True)

    def answered(self, site: str) -> None:
        """Say nothing: rounds are enough in a log."""

    def round_finished(self, line: dict[str, Any]) -> None:
        """Print the round."""
        print(round_summary(line), flush=True)


def round_summary(line: dict[str, Any]) -> str:
    """Return one round in one line, for people."""
    parts = [f"{line['phase']} {line['round']}/{line['rounds']}"]
    if line.get("loss") is not None:
        parts.append(f"loss {line['loss']:.4f}")
    errors = {target: mae for target, mae in line.get("mae", {}).items() if mae is not None}
    parts += [f"{target} {mae:.2f} {line['unit'][target]}" for target, mae in errors.items()]
    if line.get("segmentation"):
        found = (edges["onset"]["sensitivity"] for edges in line["segmentation"].values())
        parts.append(f"P, QRS, T found {' '.join(numbers.fixed(share, 2) for share in found)}")
    if line.get("macro_auroc") is not None:
        parts.append(f"macro AUROC {line['macro_auroc']:.3f}")
    if line.get("epsilon"):
        parts.append(f"epsilon at most {numbers.epsilon(max(line['epsilon'].values()))}")
    if line["left_out"]:
        parts.append("left out " + ", ".join(f"{out['site']} ({out['reason']})" for out in line["left_out"]))
    return "  ".join(parts)
