"""Where MNIST is looked for, how it is verified and downloaded, and that the genuine files are the genuine ones."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pooch
import pytest
import torch

from ffrl.data import mnist
from ffrl.data.download import DataUnavailable
from ffrl.data.mnist import load_mnist, mnist_files
from ffrl.errors import ArgumentError, DataError

TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
real_retrieve = pooch.retrieve


def files_under(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("split", "counts"), [("train", TRAIN_COUNTS), ("test", TEST_COUNTS)])
def test_genuine_mnist(mnist_dir: Path, split: str, counts: list[int]) -> None:
    images, labels, source = load_mnist(split, mnist_dir)
    assert images.shape == (sum(counts), 28, 28) and images.dtype == torch.uint8
    assert torch.bincount(labels).tolist() == counts
    assert str(mnist_dir / "mnist") in source
    for name in mnist.SPLITS[split]:
        assert hashlib.md5((mnist_dir / "mnist" / name).read_bytes()).hexdigest() == MD5[name]
    if split == "train":
        pixels = images.double() / 255
        assert abs(float(pixels.mean()) - 0.13066) < 1e-5 and abs(float(pixels.std()) - 0.30811) < 1e-5


def test_places_in_order(
    cache: Path, tiny_folder: Path, tiny_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named = tiny_folder / "mnist"
    for data_dir in (tiny_folder, named):  # the folder around mnist/, or mnist/ itself
        assert mnist_files("train", data_dir)[0].parent == named
    cache.mkdir(parents=True)
    for name, content in tiny_files.items():
        (cache / name).write_bytes(content)
    assert mnist_files("test")[0].parent == cache
    monkeypatch.setenv("FFRL_DATA", str(tiny_folder))
    assert mnist_files("test")[0].parent == named
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("FFRL_DATA", str(tmp_path / "other"))  # holds other sets, say
    assert mnist_files("test")[0].parent == cache
    monkeypatch.setenv("FFRL_DATA", "")
    assert mnist_files("test")[0].parent == cache
    images, labels, source = load_mnist("test", tiny_folder)
    assert images.shape == (5, 28, 28) and labels.tolist() == [0, 1, 2, 3, 4] and str(named) in source


def test_only_the_files_of_the_split_are_needed(cache: Path, tiny_folder: Path) -> None:
    (tiny_folder / "mnist" / "train-images-idx3-ubyte.gz").unlink()
    assert load_mnist("test", tiny_folder)[0].shape[0] == 5
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is missing"):
        load_mnist("train", tiny_folder)


def replace(folder: Path, name: str, content: bytes) -> None:
    (folder / "mnist" / name).write_bytes(content)


LABELS, IMAGES = "t10k-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: replace(d, LABELS, b""), ["wrong SHA-256", hashlib.sha256(b"").hexdigest(), LABELS]),
        (lambda d: replace(d, IMAGES, (d / "mnist" / IMAGES).read_bytes()[:-100]), ["wrong SHA-256", IMAGES]),
        (lambda d: replace(d, LABELS, (d / "mnist" / IMAGES).read_bytes()), ["wrong SHA-256", LABELS, "expected"]),
        (lambda d: (d / "mnist" / LABELS).unlink(), [LABELS, "is missing"]),
        (lambda d: ((d / "mnist" / LABELS).unlink(), (d / "mnist" / LABELS).mkdir()), [LABELS, "cannot be read"]),
        (lambda d: (d / "mnist").rename(d / "elsewhere"), ["lacks", IMAGES, LABELS, "looked in"]),
        (lambda d: d.rename(d.with_name("moved")), ["does not exist"]),
        (lambda d: (d.rename(d.with_name("moved")), d.write_text("")), ["is not a folder"]),
    ],
    ids=[
        "empty",
        "truncated",
        "images as labels",
        "one missing",
        "a folder",
        "none",
        "no data_dir",
        "data_dir is a file",
    ],
)
@pytest.mark.parametrize("by_variable", [False, True], ids=["data_dir", "FFRL_DATA"])
def test_bad_folders_are_named(
    cache: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, spoil, words: list[str], by_variable: bool
) -> None:
    spoil(tiny_folder)
    if by_variable:
        monkeypatch.setenv("FFRL_DATA", str(tiny_folder))
        if "lacks" in words:  # FFRL_DATA may hold other sets only; then the search goes on
            words = ["Looked at", str(tiny_folder / "mnist"), str(cache), IMAGES]
    with pytest.raises(DataError) as caught:
        load_mnist("test", None if by_variable else tiny_folder)
    for word in [*words, str(tiny_folder)]:
        assert word in str(caught.value)
    assert not cache.exists()


def test_damaged_file_in_the_cache_is_named_and_kept(cache: Path, tiny_files: dict[str, bytes]) -> None:
    cache.mkdir(parents=True)
    for name, content in tiny_files.items():
        (cache / name).write_bytes(content)
    (cache / LABELS).write_bytes(tiny_files[LABELS][:-1])
    with pytest.raises(DataError, match="wrong SHA-256") as caught:
        load_mnist("test")
    assert str(cache / LABELS) in str(caught.value) and mnist.SHA256[LABELS] in str(caught.value)
    assert (cache / LABELS).read_bytes() == tiny_files[LABELS][:-1]


def test_unknown_split() -> None:
    with pytest.raises(ArgumentError, match="split = 'valid'"):
        mnist_files("valid")


def test_offline_says_every_place_and_what_to_do(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("FFRL_DATA", str(tmp_path / "other"))
    with pytest.raises(DataUnavailable) as caught:
        load_mnist("train")
    places = [str(tmp_path / "other" / "mnist"), str(cache), *mnist.MIRRORS, *mnist.SHA256, "FFRL_DATA", "data_dir"]
    for word in [*places, "no network"]:
        assert word in str(caught.value)
    assert not cache.exists()


def test_download_without_pooch_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(DataUnavailable, match=r"pooch is not installed \(pip install pooch\)"):
        load_mnist("train")


def test_download_asks_the_mirrors_in_order_with_the_checksum(
    cache: Path, tiny_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def retrieve(url: str, known_hash: str, fname: str, path: Path, downloader: object) -> str:
        asked.append((url, known_hash))
        if url.startswith(mnist.MIRRORS[0]) and "labels" in url:
            raise ConnectionError("mirror is down")
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / fname).write_bytes(tiny_files[fname])
        return str(Path(path) / fname)

    monkeypatch.setattr("pooch.retrieve", retrieve)
    images, labels, source = load_mnist("test")
    assert images.shape == (5, 28, 28) and labels.tolist() == [0, 1, 2, 3, 4] and str(cache) in source
    first, second = mnist.MIRRORS
    digests = [f"sha256:{mnist.SHA256[name]}" for name in (IMAGES, LABELS, LABELS)]
    assert asked == list(zip([first + IMAGES, first + LABELS, second + LABELS], digests, strict=True))
    load_mnist("test")
    assert len(asked) == 3  # now in the cache
    assert files_under(cache) == sorted([IMAGES, LABELS])


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, bytes | tuple[int, bytes]], str]]:
    """A real web server on this machine: what it serves by path (with a false length if a pair), and its address."""
    served: dict[str, bytes | tuple[int, bytes]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = served.get(self.path)
            if content is None:
                self.send_error(404)
                return
            length, body = content if isinstance(content, tuple) else (len(content), content)
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield served, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_real_download_from_the_second_mirror(
    cache: Path, tiny_files: dict[str, bytes], mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, address = mirror
    served.update({f"/second/{name}": content for name, content in tiny_files.items()})
    served[f"/first/{IMAGES}"] = b"<html>not the file</html>"
    monkeypatch.setattr("pooch.retrieve", real_retrieve)
    monkeypatch.setattr(mnist, "MIRRORS", (f"{address}/first/", f"{address}/second/"))
    assert load_mnist("test")[1].tolist() == [0, 1, 2, 3, 4]
    assert files_under(cache) == sorted([IMAGES, LABELS])
    assert load_mnist("train")[1].shape == (7,)
    assert {name: (cache / name).read_bytes() for name in files_under(cache)} == tiny_files


def test_failed_downloads_leave_nothing(
    cache: Path, tiny_files: dict[str, bytes], mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, address = mirror
    whole = tiny_files[IMAGES]
    served[f"/first/{IMAGES}"] = (len(whole), whole[:-50])  # the connection breaks
    served[f"/second/{IMAGES}"] = whole[:-1] + b"?"
    monkeypatch.setattr("pooch.retrieve", real_retrieve)
    monkeypatch.setattr(mnist, "MIRRORS", (f"{address}/first/", f"{address}/second/", f"{address}/third/"))
    with pytest.raises(DataUnavailable) as caught:
        load_mnist("test")
    for word in (f"{address}/first/{IMAGES} (", f"{address}/second/{IMAGES} (ValueError", "404", mnist.SHA256[IMAGES]):
        assert word in str(caught.value)
    assert files_under(cache) == []
