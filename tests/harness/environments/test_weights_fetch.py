"""Weights: the manifest holds together, downloads resume and are checked, and a user's own files are enough."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.environments.weights import fetch as fetching
from harness.environments.weights.fetch import check, fetch
from harness.environments.weights.manifest import File, WeightSet, read_manifest
from harness.environments.weights.store import availability, digests, missing
from harness.errors import HarnessError, NotAvailable, WeightsError
from harness.system.files import weights_folder
from videomla_models.checkpoints.locate import resolve

BODY = bytes(range(256)) * 4000
SHA = hashlib.sha256(BODY).hexdigest()


class Host(BaseHTTPRequestHandler):
    """Serves BODY whole, by ranges, torn, behind a hub's redirect, or not at all."""

    requests: list[tuple[str, str]] = []  # noqa: RUF012

    def do_GET(self):
        start = self.headers.get("Range", "")
        Host.requests.append((self.path, start))
        if self.path == "/gone":
            return self.send_error(404)
        if self.path.startswith("/hub/"):
            self.send_response(302)
            self.send_header("Location", "/plain")
            self.send_header("X-Linked-Etag", f'"{self.path[5:]}"')
            self.send_header("Content-Length", "0")
            return self.end_headers()
        body = archive() if self.path == "/zip" else BODY
        first = int(start[6:-1]) if start and self.path != "/norange" else 0
        if first >= len(body):
            return self.send_error(416)
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        torn = self.path == "/torn" and not first
        self.wfile.write(body[first : first + 1000] if torn else body[first:])
        return None

    def log_message(self, *arguments):
        return


def archive() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as opened:
        opened.writestr("models/other.pth", b"no")
        opened.writestr("models/wanted.pth", BODY)
    return held.getvalue()


@pytest.fixture
def host(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Host.requests.clear()
    monkeypatch.setattr(fetching, "_patience", 0.0)
    monkeypatch.setenv("VIDEOMLA_WEIGHTS", str(tmp_path / "root"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def one(**fields) -> WeightSet:
    return WeightSet(name="set", title="", files=(File(path="a/b.pth", licence="MIT", **fields),))


def test_a_file_is_downloaded_checked_linked_and_not_again(host):
    weights = one(url=f"{host}/plain", sha256=SHA, links=("hub/copy.pth",))
    done = fetch(weights)
    assert done.brought == ["a/b.pth"]
    assert (weights.folder / "a/b.pth").read_bytes() == BODY
    assert (weights.folder / "hub/copy.pth").read_bytes() == BODY
    assert missing(weights) == []
    assert fetch(weights).here == ["a/b.pth"]
    assert len(Host.requests) == 1
    (weights.folder / "hub/copy.pth").unlink()
    assert fetch(weights).brought == ["a/b.pth"]
    assert (weights.folder / "hub/copy.pth").read_bytes() == BODY
    assert len(Host.requests) == 1


def test_a_torn_download_goes_on_where_it_stopped(host):
    assert fetch(one(url=f"{host}/torn", sha256=SHA)).brought == ["a/b.pth"]
    assert Host.requests == [("/torn", ""), ("/torn", "bytes=1000-")]


@pytest.mark.parametrize("before", [0, 50])
def test_nothing_is_written_past_the_size_that_is_known(host, before):
    weights = one(url=f"{host}/plain", bytes=100)
    part = weights.folder / "a/b.pth.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY[:before])
    with pytest.raises(WeightsError, match=r"b\.pth has more than 100 bytes"):
        fetch(weights)
    assert not part.exists()
    assert missing(weights)


def test_a_part_of_an_earlier_call_is_taken_up_even_where_the_host_knows_no_ranges(host):
    for path in ("plain", "norange"):
        weights = one(url=f"{host}/{path}", sha256=SHA)
        target = weights.folder / "a/b.pth"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.with_name("b.pth.part").write_bytes(BODY[:5000])
        fetch(weights)
        assert target.read_bytes() == BODY
        assert Host.requests[-1] == (f"/{path}", "bytes=5000-")


def test_a_whole_part_that_the_host_has_no_more_of_is_fetched_anew(host):
    weights = one(url=f"{host}/plain", sha256=SHA)
    target = weights.folder / "a/b.pth"
    target.parent.mkdir(parents=True)
    target.with_name("b.pth.part").write_bytes(BODY + b"x")
    fetch(weights)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("fields", [{"sha256": "0" * 64}, {"sha256_prefix": "00000000"}, {"bytes": 3}])
def test_a_file_that_is_not_the_published_one_is_refused_and_not_kept(host, fields):
    weights = one(url=f"{host}/plain", **fields)
    with pytest.raises(WeightsError, match=r"b\.pth has"):
        fetch(weights)
    assert not any(path.is_file() for path in weights.folder.rglob("*"))


def test_the_digest_that_a_hub_publishes_on_its_redirect_is_held_to(host):
    assert fetch(one(url=f"{host}/hub/{SHA}")).brought == ["a/b.pth"]
    other = one(url=f"{host}/hub/{'1' * 64}")
    (other.folder / "a/b.pth").unlink()
    with pytest.raises(WeightsError, match=r"a/b\.pth has 1111"):
        fetch(other)


def test_a_file_without_a_published_digest_is_recorded_and_later_held_to_that(host):
    weights = one(url=f"{host}/plain")
    done = fetch(weights)
    assert (done.brought, done.recorded) == ([], {"a/b.pth": SHA})
    target = weights.folder / "a/b.pth"
    assert target.with_name("b.pth.sha256").read_text() == f"{SHA}  b.pth\n"
    assert check(weights) == []
    target.write_bytes(BODY[:-1] + b"x")
    assert "is not the file of the first fetch" in check(weights)[0]
    target.unlink()
    with pytest.raises(WeightsError, match=r"not the file of the first fetch(.|\n)*delete the record b\.pth\.sha256"):
        fetch(one(url=f"{host}/zip"))
    assert not target.exists()
    assert fetch(weights).recorded == {"a/b.pth": SHA}
    target.with_name("b.pth.sha256").write_bytes(b"\xff no digest")
    target.unlink()
    assert fetch(weights).recorded == {"a/b.pth": SHA}


def test_one_member_of_an_archive(host):
    weights = one(url=f"{host}/zip", member="models/wanted.pth")
    fetch(weights)
    assert (weights.folder / "a/b.pth").read_bytes() == BODY
    assert [path.name for path in weights.folder.rglob("*") if path.suffix != ".sha256" and path.is_file()] == ["b.pth"]
    (weights.folder / "a/b.pth").unlink()
    with pytest.raises(WeightsError, match=r"no archive with models/wanted\.pth"):
        fetch(one(url=f"{host}/plain", member="models/wanted.pth"))


def test_an_archive_is_downloaded_once_for_all_of_its_members(host):
    members = ("models/wanted.pth", "models/other.pth")
    files = tuple(File(path=name, url=f"{host}/zip", member=name, licence="MIT") for name in members)
    weights = WeightSet(name="set", title="a set", files=files)
    done = fetch(weights)
    assert list(done.recorded) == list(members)
    assert [path for path, _ in Host.requests] == ["/zip"]
    assert (weights.folder / "models/other.pth").read_bytes() == b"no"
    names = sorted(path.name for path in weights.folder.rglob("*") if path.is_file())
    assert names == ["other.pth", "other.pth.sha256", "wanted.pth", "wanted.pth.sha256"]


def test_what_must_be_asked_for_is_left_out_until_it_is_named(host):
    weights = one(url=f"{host}/plain", ask="amt")
    done = fetch(weights)
    assert [file.path for file in done.left] == ["a/b.pth"]
    assert Host.requests == []
    with pytest.raises(HarnessError, match="nothing called 'atm'"):
        fetch(weights, asked=["atm"])
    assert list(fetch(weights, asked=["amt"]).recorded) == ["a/b.pth"]


def test_hosts_that_refuse_or_are_not_there(host):
    with pytest.raises(NotAvailable, match=r"answers 404 .* for a/b\.pth(.|\n)*--from"):
        fetch(one(url=f"{host}/gone"))
    with pytest.raises(NotAvailable, match="cannot be reached"):
        fetch(one(url="http://127.0.0.1:9/x"))


def test_the_users_own_files_are_enough(host, tmp_path):
    source = tmp_path / "mine with spaces"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "b.pth").write_bytes(BODY)
    (source / "b.pth").write_bytes(b"another file of that name")
    weights = one(url=f"{host}/plain", sha256=SHA)
    fetch(weights, source=source)
    assert (weights.folder / "a/b.pth").read_bytes() == BODY
    assert Host.requests == []
    (weights.folder / "a/b.pth").unlink()
    (source / "deep" / "b.pth").unlink()
    with pytest.raises(WeightsError, match="has SHA-256"):
        fetch(weights, source=source)
    (source / "b.pth").unlink()
    with pytest.raises(NotAvailable, match=r"lacks 1 of 1 files: a/b\.pth"):
        fetch(weights, source=source)
    with pytest.raises(NotAvailable, match="nowhere is no folder"):
        fetch(weights, source=tmp_path / "nowhere")


def test_check_reads_every_file(host):
    weights = one(url=f"{host}/plain", sha256=SHA)
    fetch(weights)
    assert check(weights) == []
    (weights.folder / "a/b.pth").write_bytes(BODY[:-1])
    assert len(check(weights)) == 1


def test_check_reads_what_the_harness_wrote_itself(host):
    weights = one(text="a: 1\n")
    fetch(weights)
    assert check(weights) == []
    (weights.folder / "a/b.pth").write_text("a: 2\n")
    assert "is not as `harness fetch` wrote it" in check(weights)[0]


def test_availability_says_what_to_type(host):
    state = availability("vbench", ["motion_smoothness"])
    assert not state.ready
    assert "amt_model/amt-s.pth not found" in state.reason
    assert state.fix == "harness fetch vbench --only motion_smoothness --with amt"
    target = read_manifest().get("vbench").folder / "amt_model/amt-s.pth"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"weights")
    assert availability("vbench", ["motion_smoothness"]).ready
    assert digests("vbench", ["motion_smoothness"]) == {"amt_model/amt-s.pth": hashlib.sha256(b"weights").hexdigest()}
    target.write_bytes(b"")
    assert not availability("vbench", ["motion_smoothness"]).ready


def test_the_manifest_covers_every_dimension_and_asks_for_what_is_not_free():
    sets = read_manifest().sets
    assert set(sets) == {"vbench", "clip", "hpsv3", "lpips", "videomla"}
    dimensions = set(sets["vbench"].groups)
    halves = {"long_subject_consistency", "long_background_consistency"}
    assert halves < dimensions
    assert len(dimensions - halves) == 15  # temporal flickering needs no network
    for weights in sets.values():
        assert len({file.path for file in weights.files}) == len(weights.files)
        for file in weights.files:
            assert bool(file.url) != bool(file.text)
            assert file.licence
            assert not file.url or file.url.startswith("https://")
            assert file.ask or not ("NC" in file.licence or "none" in file.licence)
    amt = next(file for file in sets["vbench"].files if "amt" in file.path)
    assert amt.ask == "amt"
    assert "non-commercial" in amt.licence
    hosts = {file.host for file in sets["vbench"].files if file.url}
    assert len(hosts) == 6


def test_the_models_checkpoints_lie_where_a_hub_id_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("VIDEOMLA_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    weights = read_manifest().get("videomla")
    name = "Hidir/VideoMLA:stage3_la6_sink1/model.pt"
    with pytest.raises(NotAvailable, match=r"harness fetch videomla --with stage3_la6_sink1$"):
        resolve(name)
    paths = [f"{stage}/model.pt" for stage in ("stage1", "stage2", "stage3", "stage3_la6_sink1")]
    assert [file.path for file in weights.files] == paths
    for file in weights.files:
        assert file.url == f"https://huggingface.co/Hidir/VideoMLA/resolve/main/{file.path}"
    mine = tmp_path / "mine" / "stage3_la6_sink1"
    mine.mkdir(parents=True)
    (mine / "model.pt").write_bytes(b"weights")
    done = fetch(weights, ["stage3_la6_sink1"], ["stage3_la6_sink1"], tmp_path / "mine")
    assert list(done.recorded) == ["stage3_la6_sink1/model.pt"]
    assert resolve(name).files == (weights.folder / "stage3_la6_sink1/model.pt",)


@pytest.mark.parametrize("repository", ["../x/y", "/etc", "a", "a/b/c"])
def test_a_repository_is_a_hub_id(repository):
    with pytest.raises(ValueError, match="repository"):
        WeightSet(name="s", title="", files=(), repository=repository)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x"])
def test_a_manifest_cannot_lead_out_of_its_folder(path):
    with pytest.raises(ValueError, match="leads out"):
        File(path=path, licence="MIT", text="x")


def test_the_root_is_the_users_choice(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDEOMLA_WEIGHTS", str(tmp_path / "w"))
    assert read_manifest().get("clip").folder == tmp_path / "w" / "clip"
    monkeypatch.delenv("VIDEOMLA_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights_folder() == Path(tmp_path) / "videomla-bench" / "weights"
