"""What is known of the images of a plan that were labelled before: some 40 bytes an image."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

from wsss_fast.listing.plan import Plan, short_output

_UNKNOWN, _OK, _FAILED, _FAILED_FOR_NOW = range(4)


@dataclass(frozen=True, slots=True)
class Done:
    """What resume needs to know about one image."""

    ok: bool
    lasting: bool  # a failure that stays as long as the file does
    output: str
    output_bytes: int
    size: int
    mtime_ns: int
    labels: int  # of `labels_mark`
    reason: str


class DoneTable:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        count = len(plan.names)
        self._status = bytearray(count)
        self._numbers = {name: array("q", bytes(8 * count)) for name in ("output_bytes", "size", "mtime_ns", "labels")}
        self._reasons: dict[int, str] = {}
        self._outputs: dict[int, str] = {}  # those that are not the short name
        self._next = 0

    def note(self, row: dict[str, Any]) -> None:
        """The row of an image; images that are no longer in the plan are passed over."""
        name = row["image"]
        number = self._plan.names.find(name, self._next)
        if number is None:
            return
        self._next = number + 1
        ok = row["status"] == "ok"
        self._status[number] = _OK if ok else _FAILED if row.get("lasting", True) else _FAILED_FOR_NOW
        self._numbers["output_bytes"][number] = int(row.get("output_bytes", 0))
        self._numbers["size"][number] = int(row["size"])
        self._numbers["mtime_ns"][number] = int(row["mtime_ns"])
        self._numbers["labels"][number] = labels_mark(row.get("labels"))
        self._reasons.pop(number, None)
        self._outputs.pop(number, None)
        if not ok:
            self._reasons[number] = str(row.get("reason", ""))
        elif (planned := str(row["output"])[:-4] + ".png") != short_output(name):  # npz files have the same stem
            self._outputs[number] = planned

    def get(self, number: int) -> Done | None:
        status = self._status[number]
        if status == _UNKNOWN:
            return None
        numbers = {name: values[number] for name, values in self._numbers.items()}
        output = self._outputs.get(number) or short_output(self._plan.names[number])
        return Done(ok=status == _OK, lasting=status == _FAILED, output=output, reason=self._reasons.get(number, ""), **numbers)

    def moved(self) -> list[str]:
        """Masks whose image now has another output."""
        changed = self._outputs.keys() | self._plan.unusual.keys()
        found = [(self.get(number), self._plan[number].output) for number in sorted(changed)]
        return [done.output for done, output in found if done is not None and done.ok and done.output != output]


def labels_mark(labels: Any) -> int:
    """Equal for equal labels; numbers hash the same in every process."""
    return 0 if labels is None else hash(tuple(int(label) for label in labels)) | 1
