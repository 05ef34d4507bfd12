"""Unite the records, clips and products of runs of one plan, and bring a shard what other shards have done."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.contracts import Product
from harness.errors import RecordError
from harness.execute.products import SCRATCH, placed
from harness.runs.folder import Store, agrees, clip_name, inside
from harness.runs.index import IndexEntry
from harness.runs.keys import key as key_of
from harness.runs.line import Record, decode, device_label
from harness.runs.measured import PRODUCTS
from harness.runs.plan import Plan
from harness.runs.records import PLAN, RECORDS, SHARDS, RecordFile, Run, load_run
from harness.system import files
from harness.system.digests import file_sha256


@dataclass(slots=True)
class Merged:
    """What a merge brought.

    Attributes:
        records, clips: how many were new.
        devices: records brought, by the label of their device.
        left_out: key and file of each clip that does not agree with its record; neither was brought.
    """

    records: int = 0
    clips: int = 0
    devices: Counter[str] = field(default_factory=Counter)
    left_out: list[tuple[str, Path]] = field(default_factory=list)


def shards_of(folder: Path) -> list[Path]:
    """The folders of the shards of the run in `folder`, sorted."""
    return sorted(path.parent for path in (folder / SHARDS).glob(f"*/{PLAN}"))


def merge(out: Path, folders: Sequence[Path], keep_first: bool = False) -> Merged:
    """Bring `out` every result of the runs in `folders` that it lacks. A second merge brings nothing.

    `out` need not exist; it gets the plan of the first run. The newest record of a unit in each run counts, a result
    before a failure. Clips are brought where they are there. Everything is read and checked before anything is written.

    Args:
        keep_first: of two different results of one unit, keep that of `out`, or of the run that is named first.

    Raises `RecordError` for runs of other plans, a damaged record, and two different results of one unit.
    """
    folders = list(dict.fromkeys(folder.resolve() for folder in folders))
    if not folders:
        raise RecordError(f"no run to merge into {out}: none is named, and it has no {SHARDS}", "name run folders")
    if out.resolve() in folders:
        raise RecordError(f"{out} is to be merged into itself", "name another folder first")
    runs = [load_run(folder) for folder in folders]
    first = load_run(out) if (out / PLAN).is_file() else runs[0]
    for run in runs:
        _same_plan(first, run)
    with Store(out) as store:
        store.sweep()
        merged = _Merging(store, folders, None, strict=not keep_first).work()
        if first.folder != out:
            files.write_atomic(out / PLAN, files.read_regular(first.folder / PLAN))
        return merged


def elsewhere(base: Path, folder: Path) -> list[Path]:
    """The run `base` and its shards but for the one in `folder`."""
    return [base, *(shard for shard in shards_of(base) if shard != folder)]


def adopt(plan: Plan, base: Path, folder: Path) -> Merged:
    """Bring a shard of the run `base`, in `folder`, those units of its `plan` that the run or other shards have done.

    So a run that was begun with four shards may end with seven. Raises `RecordError` and `StorageError`.
    """
    with Store(folder) as store:
        keys = {unit.key for unit in plan.units}
        return _Merging(store, elsewhere(base, folder), keys, strict=False).work()


def _same_plan(first: Run, other: Run) -> None:
    planned = [
        {(group.section, group.arm, group.kind, group.plugin): group.keys for group in run.groups}
        for run in (first, other)
    ]
    differing = [place for place in {**planned[0], **planned[1]} if planned[0].get(place) != planned[1].get(place)]
    if differing:
        section, arm, _, plugin = differing[0]
        what = " of ".join(filter(None, (plugin, arm, f"section {section!r}")))
        raise RecordError(
            f"{other.folder} is of another plan than {first.folder}: the units to do differ ({what})",
            "merge runs of one suite, with the same options, device and versions",
        )


# ------------------------------------------------------------------------------------- one record


@dataclass(frozen=True, slots=True)
class _Candidate:
    """The newest record of one unit in the run of `folder`."""

    folder: Path
    entry: IndexEntry

    @property
    def where(self) -> str:
        return f"{self.folder / RECORDS} at byte {self.entry.offset}"

    def line(self) -> bytes:
        """The record as it stands in its file."""
        with files.open_regular(self.folder / RECORDS) as file:
            file.seek(self.entry.offset)
            return file.readline()

    def record(self) -> Record:
        """The record, checked against its key. Raises `RecordError`."""
        record = decode(self.line(), self.where)
        if record.key != self.entry.key or key_of(record.preimage) != record.key:
            raise RecordError(
                f"{self.where}: record {self.entry.key[:12]} is damaged: its key is that of another unit",
                "remove that line; its unit will be run again",
            )
        return record

    @property
    def done(self) -> bool:
        return self.entry.status == "ok"

    @property
    def digest(self) -> object:
        """Of the clip that was made or scored."""
        return self.entry.clip.get("digest")

    def result(self) -> tuple[object, ...]:
        """What two records of one result agree in."""
        return repr(sorted(self.entry.values.items())), self.digest, self.entry.clip.get("reference")


def _best(candidates: Sequence[_Candidate], strict: bool) -> _Candidate:
    """The first result, or where there is none the newest failure."""
    results = [candidate for candidate in candidates if candidate.done]
    if not results:
        # Of equally old ones the first, so that a second merge brings nothing.
        return max(candidates, key=lambda candidate: candidate.record().ended)
    first = results[0]
    for other in results[1:] if strict else ():
        if other.entry.text != first.entry.text and other.result() != first.result():
            names = (other.entry.context.get(name) for name in ("section", "arm", "plugin"))
            raise RecordError(
                f"{first.folder} and {other.folder} hold two different results of {other.entry.key[:12]} "
                f"({', '.join(str(name) for name in names if name)})",
                "leave one of them out, or keep the first with --keep-first",
            )
    return first


# -------------------------------------------------------------------------------------- all of them


class _Merging:
    """One merge into the run folder `store`: of the units `keys`, or of all where that is None."""

    def __init__(self, store: Store, folders: Sequence[Path], keys: Collection[str] | None, strict: bool) -> None:
        self.store, self.strict, self.merged = store, strict, Merged()
        self.candidates: dict[str, list[_Candidate]] = {}
        for folder in (store.folder, *folders):
            for key, entry in RecordFile(folder / RECORDS).newest().items():
                if keys is None or key in keys:
                    self.candidates.setdefault(key, []).append(_Candidate(folder, entry))

    def work(self) -> Merged:
        """Choose and check every record, then bring them."""
        chosen = list(self._chosen())
        for candidate in chosen:
            record = candidate.record()
            self.merged.devices[device_label(record.device)] += 1
            _products(record)
        self._bring_clips()
        left_out = {key for key, _ in self.merged.left_out}
        brought = [candidate for candidate in chosen if candidate.entry.key not in left_out]
        self.store.records.extend(candidate.line() for candidate in brought)
        self.merged.records = len(brought)
        for candidate in brought:
            if candidate.entry.kind == "measure" and candidate.done:
                self._bring_products(candidate)
        return self.merged

    def _chosen(self) -> Iterator[_Candidate]:
        """The records to bring, clips before the scores of them."""
        self.digests: dict[str, Any] = {}
        of_scores = []
        for key, candidates in self.candidates.items():
            if candidates[0].entry.kind == "score":
                of_scores.append(candidates)
                continue
            best = _best(candidates, self.strict)
            if best.entry.kind == "generate" and best.done:
                self.digests[key] = best.digest
            if best.folder != self.store.folder:
                yield best
        for candidates in of_scores:
            fitting = [each for each in candidates if not each.done or self._of_kept_clips(each.entry)]
            if fitting and (best := _best(fitting, self.strict)).folder != self.store.folder:
                yield best

    def _of_kept_clips(self, score: IndexEntry) -> bool:
        """Whether a score is of the clips that are kept: one of others says nothing."""
        names = {"digest": "of", "reference": "reference"}
        clips = {name: self.digests.get(str(score.context.get(key))) for name, key in names.items()}
        return all(clip in (None, score.clip.get(name)) for name, clip in clips.items())

    def _bring_clips(self) -> None:
        """Bring the clip of every result that lacks its own, from whichever run has it whole."""
        for key in self.digests:
            candidates = self.candidates[key]
            best = next(each for each in candidates if each.done)
            clip, name = best.entry.clip, clip_name(key)
            if clip.get("path") != name:
                raise RecordError(f"{best.where}: record {key[:12]} names a file that is no clip of it")
            if self.store.agrees(clip):
                continue
            there = [
                folder
                for each in candidates
                if (folder := each.folder) != self.store.folder and (folder / name).exists()
            ]
            whole = next((folder for folder in there if agrees(folder, clip, verify=True)), None)
            if whole is not None:
                _place(whole / name, self.store.folder / name)
                self.merged.clips += 1
            elif there and best.folder != self.store.folder:
                self.merged.left_out.append((key, there[0] / name))

    def _bring_products(self, candidate: _Candidate) -> None:
        """Bring the files of a measurement, as far as they are there and as recorded."""
        record = candidate.record()
        scratch = candidate.folder / SCRATCH
        for product in _products(record):
            source = inside(scratch, product.file)
            # A link would bring whatever it points to.
            own = source.is_file() and scratch.resolve() in source.resolve().parents
            if own and product.sha256 in ("", file_sha256(source)):
                _place(source, inside(self.store.folder / SCRATCH, product.file))
        placed(record, self.store.folder / SCRATCH, self.store.folder)


def _products(record: Record) -> list[Product]:
    """The files that a record names. Raises `RecordError` for what is none, or lies outside of the run."""
    entries: Any = record.notes.get(PRODUCTS, ())
    try:
        products = [Product(**entry) for entry in entries]
        for product in products:
            inside(Path(), product.file)
            inside(Path(), f"{product.folder}/{product.name}")
    except TypeError as error:
        raise RecordError(f"record {record.key[:12]} names products that are none", "leave its run out") from error
    return products


def _place(source: Path, target: Path) -> None:
    """Give `target` the content of `source`: a hard link where the file system allows it, else a copy."""
    with files.aside(target) as part:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)
