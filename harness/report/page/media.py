"""Bring the clips of a run into a page's folder: as they are, or as a copy that every browser plays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import ClipError
from harness.runs.folder import agrees, inside
from harness.system import files, video
from harness.system.digests import digest

CLIPS, STRIPS = "clips", "strips"
PREVIEW_CRF = 18
"""x264's rate factor of a copy for browsers, at which a copy looks like the clip (FFmpeg's H.264 encoding guide)."""
LONG_SECONDS = 6.0
"""From here on a clip has a strip of thumbnails: longer than the 5 s that most models make in one go."""
THUMBNAILS, THUMBNAIL_WIDTH = 12, 120
_END = {True: ".mp4", False: ".preview.mp4"}


@dataclass(slots=True)
class Media:
    """The media files of a page in `folder`. `names` are those that belong to it, relative to the folder.

    With `name_of`, which names a file by its clip, the files say nothing of where a clip is from: one that the harness
    did not encode is a copy under an ordinary name, as its file may tell of its model, and there are no thumbnails.
    """

    folder: Path
    names: set[str] = field(default_factory=set)
    name_of: Callable[[str], str] | None = None

    def place(self, run: Path, key: str, clip: Mapping[str, Any]) -> dict[str, Any]:
        """What the page says of the clip that a record of `run` names.

        `file` is its path in the page, `preview` says that it is a copy, `strip` is its thumbnails, if it is long.
        Raises `ClipError` where the file is gone or cannot be read, `StorageError` where the page cannot be written.
        """
        if not agrees(run, clip):
            raise ClipError("the clip was deleted or changed since")
        source = inside(run, str(clip["path"]))
        # Made of what the record says, and never that itself: a record is not trusted with a path.
        name = digest(f"{key} {clip.get('sha256')}")[:32]
        encoder = clip.get("encoder", {})
        plays = encoder.get("pix_fmt") == "yuv420p" and encoder.get("codec") == "libx264"
        plays = plays or (self.name_of is None and video.plays_anywhere(source))
        frames, rate = int(clip["frames"]), float(clip["frame_rate"]) or 1.0
        target = f"{CLIPS}/{self.name_of(name) if self.name_of else f'{name}{_END[plays]}'}"
        self.names.add(target)
        if plays:
            self._link(source, self.folder / target)
        elif not (self.folder / target).exists():
            files.make_folder(self.folder / CLIPS)
            video.write(self.folder / target, video.stream(source, 16), rate, PREVIEW_CRF, "veryfast")
        placed: dict[str, Any] = {"file": target, "frames": frames, "rate": rate}
        placed["size"] = [int(clip["width"]), int(clip["height"])]
        if not plays:
            placed["preview"] = True
        if frames / rate > LONG_SECONDS and frames >= THUMBNAILS and self.name_of is None:
            placed["strip"] = f"{STRIPS}/{name}.jpg"
            self.names.add(placed["strip"])
            self._strip(source, self.folder / placed["strip"], frames)
        return placed

    def _link(self, source: Path, target: Path) -> None:
        """A hard link, which takes no room; a copy on another file system."""
        if target.exists() and target.samefile(source):
            return
        with files.storage(target):
            files.make_folder(target.parent)
            target.unlink(missing_ok=True)
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)

    def _strip(self, source: Path, target: Path, frames: int) -> None:
        if target.exists():
            return
        places = [int((number + 0.5) * frames / THUMBNAILS) for number in range(THUMBNAILS)]
        thumbnails = {
            number: video.scaled(
                frame, max(2, round(THUMBNAIL_WIDTH * frame.shape[0] / frame.shape[1])), THUMBNAIL_WIDTH
            )
            for number, frame in video.frames_at(source, places)
        }
        files.write_atomic(target, video.jpeg(np.concatenate([thumbnails[place] for place in places], axis=1)))

    def sweep(self) -> None:
        """Delete what an earlier page in this folder had and this one has not."""
        for part in (CLIPS, STRIPS):
            for path in (self.folder / part).glob("*"):
                if path.is_file() and f"{part}/{path.name}" not in self.names:
                    path.unlink()
