"""Bring weights into the weights folder, from their hosts or from files that the user has, and check them."""

from __future__ import annotations

import http.client
import math
import os
import re
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO

from harness.environments.weights.manifest import File, WeightSet
from harness.environments.weights.store import missing
from harness.errors import HarnessError, NotAvailable, StorageError, WeightsError
from harness.system import files
from harness.system.digests import digest, file_sha256

BLOCK = 1 << 20
TRIES = 4
TIMEOUT = 60.0
ARCHIVES = ".archives"
"""Folder of a set in which archives lie while their members are taken."""

HUB_DIGEST = "X-Linked-Etag"
"""Header in which Hugging Face publishes a large file's SHA-256. It stands on the redirect, not on the last answer."""


@dataclass(slots=True)
class Fetched:
    """What `fetch` did, by path: `here` already, `brought`, `left` (must be asked for by name).

    `recorded` holds the SHA-256 of files that were brought without a published digest. A later fetch and `check`
    compare with it.
    """

    here: list[str] = field(default_factory=list)
    brought: list[str] = field(default_factory=list)
    recorded: dict[str, str] = field(default_factory=dict)
    left: list[File] = field(default_factory=list)


def fetch(
    weights: WeightSet,
    only: Sequence[str] = (),
    asked: Sequence[str] = (),
    source: Path | None = None,
    log: Callable[[str], None] | None = None,
) -> Fetched:
    """Bring the files of a set, each checked before it takes its place.

    Args:
        weights: the set.
        only: groups to bring; all when empty.
        asked: names of files that must be asked for, as in `amt`.
        source: a folder of files that the user has; nothing is downloaded then.
        log: told one line a file.

    Raises:
        NotAvailable: a host cannot be reached, or `source` lacks a file.
        WeightsError: a file has not the published digest or size.
        StorageError: the disk refuses.
    """
    if source is not None and not source.is_dir():
        raise NotAvailable(f"{source} is no folder", "give the folder of your files after --from")
    say = log or (lambda line: None)
    fetched = Fetched()
    files, fetched.left = weights.choose(only, asked)
    missing_paths = set(missing(weights))
    absent: list[File] = []
    for file in files:
        target = weights.folder / file.path
        if not missing_paths & {file.path, *file.links}:
            fetched.here.append(file.path)
            continue
        try:
            checked = True if file.path not in missing_paths else _bring(file, target, weights, source, say)
            if checked is None:
                absent.append(file)
                continue
            for link in file.links:
                _place(target, weights.folder / link)
        except OSError as error:
            raise StorageError(
                f"{target} cannot be written: {error.strerror or error}", "make room, then type it again"
            ) from error
        if checked:
            fetched.brought.append(file.path)
        else:
            fetched.recorded[file.path] = _record(target)
    shutil.rmtree(weights.folder / ARCHIVES, ignore_errors=True)
    if absent:
        raise NotAvailable(
            f"{source} lacks {len(absent)} of {len(files)} files: {', '.join(file.path for file in absent[:6])}",
            "put them there under these names, or leave out --from to download them",
        )
    return fetched


def _bring(
    file: File, target: Path, weights: WeightSet, source: Path | None, say: Callable[[str], None]
) -> bool | None:
    """Write one file of the set. Returns whether a published digest was checked; None where `source` lacks the file."""
    if file.text:
        files.write_atomic(target, file.text)
        return True
    if source is None:
        size = _size(file)
        say(f"{file.path}: {size}{' ' if size else ''}from {file.host} ({file.licence})")
        return _take_member(file, target, weights) if file.member else _download(file, target)
    copy = _find(file, source, weights.name)
    if copy is None:
        return None
    say(f"{file.path}: from {copy}")
    checked = _verify(file, copy, "", recorded_digest(target))
    _place(copy, target)
    return checked


def check(weights: WeightSet, groups: Sequence[str] = ()) -> list[str]:
    """Compare every file that is here with its published digest and size. Returns a line for each that differs."""
    faults = []
    for file in weights.needed(groups):
        path = weights.folder / file.path
        if path.is_file() and file.text:
            if path.read_bytes() != file.text.encode():
                faults.append(f"{path} is not as `harness fetch` wrote it; delete it and fetch again")
        elif path.is_file():
            try:
                _verify(file, path, "", recorded_digest(path))
            except WeightsError as error:
                faults.append(error.message)
    return faults


# ------------------------------------------------------------------------------------- from the user's files


def _find(file: File, source: Path, name: str) -> Path | None:
    """The user's copy: under its path, below the set's name, or under its bare name anywhere in the folder."""
    for candidate in (source / file.path, source / name / file.path):
        if candidate.is_file():
            return candidate
    names = {Path(file.path).name, file.url.rpartition("/")[2]} if not file.member else {Path(file.path).name}
    matches = sorted(path for path in files.below(source) if path.name in names and path.is_file())
    fitting = [path for path in matches if _fits(file, path)] if len(matches) > 1 else matches
    if len(fitting) > 1 and not (file.sha256 or file.sha256_prefix):
        raise HarnessError(
            f"{source} holds {len(fitting)} files called {Path(file.path).name}",
            f"keep the one for {file.path} in {source / file.path}",
        )
    return fitting[0] if fitting else None


def _fits(file: File, path: Path) -> bool:
    try:
        _verify(file, path, "")
    except WeightsError:
        return False
    return True


def _place(source: Path, target: Path) -> None:
    """Link `target` to `source`, or copy it where the disk has no hard links. `target` is never half a file."""
    with files.aside(target) as part:
        try:
            os.link(source.resolve(), part)
        except OSError:
            shutil.copyfile(source, part)


# ------------------------------------------------------------------------------------------ from the hosts


def _download(file: File, target: Path) -> bool:
    """Bring `file.url` into `target`. Returns whether there was a published digest to check it by."""
    part = _part_of(target)
    published = _receive_patiently(file, part)
    try:
        checked = _verify(file, part, published, recorded_digest(target))
    except WeightsError:
        part.unlink(missing_ok=True)
        raise
    files.put(part, target)
    return checked


def _take_member(file: File, target: Path, weights: WeightSet) -> bool:
    """Bring one member of the archive `file.url` into `target`. The archive is downloaded once for all its members."""
    archive = weights.folder / ARCHIVES / digest(file.url)[:16]
    if not archive.is_file():
        _receive_patiently(file, _part_of(archive))
        files.put(_part_of(archive), archive)
    try:
        with files.aside(target) as part:
            with zipfile.ZipFile(archive) as opened, opened.open(file.member) as member, part.open("wb") as out:
                shutil.copyfileobj(member, out, BLOCK)
            return _verify(file, part, "", recorded_digest(target))
    except (zipfile.BadZipFile, KeyError, WeightsError) as error:
        archive.unlink()
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"what {file.host} sent for {file.path} is no archive with {file.member}", "type it again"
        ) from error


def _part_of(target: Path) -> Path:
    """The path under which a file grows until it is whole. Makes its folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(target.name + ".part")


def _receive_patiently(file: File, part: Path) -> str:
    """Bring the whole of `file.url` into `part`, from where it stopped. Returns the SHA-256 that its host publishes."""
    for attempt in range(TRIES):
        try:
            return _receive(file.url, part, None if file.member else file.bytes)
        except urllib.error.HTTPError as error:
            error.close()
            # 416: `part` is already as long as the file, so it is of another version, and is begun anew.
            if error.code == 416:
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code != 429:
                raise NotAvailable(
                    f"{file.host} answers {error.code} {error.reason} for {file.path}",
                    f"download {file.url} by other means and type: harness fetch … --from FOLDER",
                ) from error
            cause: Exception = error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            cause = error
        if attempt < TRIES - 1:
            time.sleep(min(2.0**attempt, 8.0) * _patience)
    raise NotAvailable(
        f"{file.host} cannot be reached for {file.path}: {getattr(cause, 'reason', cause) or cause}",
        f"type it again to go on where it stopped, or fetch {file.url} by other means and use --from FOLDER",
    ) from cause


_patience = 1.0
"""Factor on the waits between tries; tests set it to 0."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the digest that a hub publishes on the way."""

    def __init__(self) -> None:
        self.published = ""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        self.published = _hub_digest(headers) or self.published
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _hub_digest(headers: Message) -> str:
    match = re.fullmatch(r'(?:W/)?"?([0-9a-f]{64})"?', headers.get(HUB_DIGEST, "") or "")
    return match[1] if match else ""


def _receive(url: str, part: Path, size: int | None) -> str:
    """Append to `part` what it lacks of `url`. Returns the SHA-256 that the host publishes; empty without one.

    Nothing is written past `size` bytes. Raises `WeightsError` where the host sends more.
    """
    offset = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "videomla-bench"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    redirects = _Redirects()
    with urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT) as answer:
        # A host that knows no ranges answers 200 with the whole file, which then replaces the part.
        resumed = answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(f"bytes {offset}-")
        length = answer.headers.get("Content-Length")
        with part.open("ab" if resumed else "wb") as out:
            received, room = 0, math.inf if size is None else size - (offset if resumed else 0)
            while block := answer.read(BLOCK):
                received += len(block)
                if received > room:
                    part.unlink()
                    raise WeightsError(f"{part.stem} has more than {size:,} bytes at {url}", "fetch it again")
                out.write(block)
        # urllib takes a connection that closes early for the end of the file.
        if length is not None and received < int(length):
            raise ConnectionError(f"the connection closed after {received} of {length} bytes")
        return _hub_digest(answer.headers) or redirects.published


# ------------------------------------------------------------------------------------------------ checking


def _record(target: Path) -> str:
    """Write the SHA-256 of a file of which none is published, in the form of `sha256sum`, and return it."""
    sha256 = file_sha256(target)
    files.write_atomic(_record_of(target), f"{sha256}  {target.name}\n")
    return sha256


def recorded_digest(target: Path) -> str:
    """The SHA-256 that the first fetch of `target` recorded; empty where none did."""
    try:
        with _record_of(target).open(encoding="utf-8") as file:
            line = file.read(64)
    except (OSError, UnicodeDecodeError):
        return ""
    return line if re.fullmatch(r"[0-9a-f]{64}", line) else ""


def _record_of(target: Path) -> Path:
    return target.with_name(target.name + ".sha256")


def _verify(file: File, path: Path, by_host: str, first_fetch: str = "") -> bool:
    """Compare a file with its published size and digests. Returns whether there was a digest.

    Args:
        file, path: the entry of the manifest, and the file to read.
        by_host: the SHA-256 that the host sent; empty without one.
        first_fetch: the digest that the first fetch recorded; counts where none is published.
    """
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        raise WeightsError(f"{path} has {size} bytes, {file.path} has {file.bytes}", "fetch it again")
    if size == 0:
        raise WeightsError(f"{path} is empty", "fetch it again")
    published_digests = [sha256 for sha256 in (file.sha256, file.sha256_prefix, by_host) if sha256]
    if not published_digests and first_fetch and file_sha256(path) != first_fetch:
        raise WeightsError(
            f"{path} is not the file of the first fetch, whose SHA-256 was {first_fetch}",
            f"fetch it again; if another was published since, delete the record {Path(file.path).name}.sha256 first",
        )
    if not published_digests:
        return False
    actual = file_sha256(path)
    for published in published_digests:
        if not actual.startswith(published):
            raise WeightsError(f"{path} has SHA-256 {actual}, {file.path} has {published}", "fetch it again")
    return True


def _size(file: File) -> str:
    """The exact size where it is known, else about how many megabytes; nothing for a file that is written here."""
    if file.bytes is not None:
        return f"{file.bytes:,} bytes"
    return f"about {file.about:g} MB" if file.about else ""


def listing(sets: Iterable[WeightSet]) -> list[tuple[str, str, str, str, str]]:
    """Rows for people: set, path, size, licence, and whether it is here, left out unless asked for, or missing."""
    rows = []
    for weight_set in sets:
        absent = set(missing(weight_set))
        for file in weight_set.files:
            state = "missing" if absent & {file.path, *file.links} else "here"
            if state == "missing" and file.ask:
                state = f"missing; only with --with {file.ask}"
            rows.append((weight_set.name, file.path, _size(file), file.licence, state))
    return rows
