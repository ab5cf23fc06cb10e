"""What `accelerate` did to each module, as data and as a table."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Entry:
    """One module that `accelerate` knows. `by` says what replaced it, `reason` why nothing did.

    `difference` is how far the module's output is from the library's after `verify`, as a share of its largest value.
    """

    name: str
    kind: str
    library: str
    by: str = ""
    reason: str = ""
    difference: float | None = None


@dataclass
class Report:
    """The result of `accelerate`: one `Entry` for each module it knows; `print(report)` shows a table.

    `difference` is that of the model's output after `verify`, None without.
    """

    entries: list[Entry] = field(default_factory=list)
    difference: float | None = None

    @property
    def replaced(self) -> list[Entry]:
        return [e for e in self.entries if e.by]

    @property
    def left(self) -> list[Entry]:
        """The modules that are known but run the library's own code."""
        return [e for e in self.entries if not e.by]

    def __str__(self) -> str:
        if not self.entries:
            return "no Swin attention that swin_fast knows"
        lines = [["module", "class", "what happened", "difference"]]
        for e in self.entries:
            kind = f"{e.library} {e.kind}".strip()
            state = e.by if e.by else f"left alone: {e.reason}"
            lines.append([e.name or "(the model)", kind, state, "" if e.difference is None else f"{e.difference:.1e}"])
        if self.difference is None:
            lines = [line[:3] for line in lines]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        text.append(f"{len(self.replaced)} replaced, {len(self.left)} left alone")
        if self.difference is not None:
            text[-1] += f"; the output differs by {self.difference:.1e} of its largest value"
        return "\n".join(text)
