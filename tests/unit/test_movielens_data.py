"""Ratings are given, downloaded or synthetic; a malformed file is an error that names the line."""

from __future__ import annotations

import hashlib
import io
import logging
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from rl_core.config import Settings
from rl_core.errors import DataError
from rl_core.movielens import download as movielens_download
from rl_core.movielens.data import find_ratings, load_ratings, synthetic_path
from rl_core.movielens.download import download
from rl_core.movielens.synthetic import synthetic_ratings, write_synthetic

U_DATA = b"1\t2\t5\t881250949\n3\t1\t1\t891717742\n"
NOWHERE = "http://127.0.0.1:9/ml-100k.zip"  # the discard port: refused at once


@pytest.fixture
def settings() -> Settings:
    """Of a machine where no ratings were given."""
    return Settings.from_environment().model_copy(update={"movielens_dir": None})


@pytest.fixture
def u_data(tmp_path: Path) -> Path:
    path = tmp_path / "u.data"
    path.write_bytes(U_DATA)
    return path


class TestLoadRatings:
    def test_reads_users_by_items(self, u_data: Path) -> None:
        assert load_ratings(u_data).tolist() == [[0, 5], [0, 0], [1, 0]]

    @pytest.mark.parametrize(
        "content",
        [
            U_DATA.replace(b"\n", b"\r\n"),
            U_DATA.rstrip(b"\n"),
            U_DATA + b"\n",
            U_DATA + b" \r\n\t\n\n",
            b"\xef\xbb\xbf" + U_DATA,
        ],
        ids=["crlf", "no end", "blank last line", "blank last lines", "byte order mark"],
    )
    def test_what_other_systems_and_editors_put_around_the_lines_is_fine(self, u_data: Path, content: bytes) -> None:
        u_data.write_bytes(content)
        assert load_ratings(u_data).tolist() == [[0, 5], [0, 0], [1, 0]]

    def test_of_repeated_ratings_the_last_stands(self, u_data: Path) -> None:
        u_data.write_bytes(U_DATA + b"1\t2\t3\t881250950\n")
        assert load_ratings(u_data)[0, 1] == 3

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            (b"1\t2\t5", r"4 fields separated by tabs \(user, item, rating, timestamp\), not 3, got '1\\t2\\t5'"),
            (b"1,2,5,881250949", "not 1, got '1,2,5,881250949'"),
            (b"1\t2\t5\t881250949\t", "not 5"),
            (b"", "not 1, got ''"),
            (b"x\t2\t5\t881250949", "field 1 to be a user id, an integer from 1, got 'x"),
            (b"0\t2\t5\t881250949", "field 1 to be a user id"),
            (b"1\t-2\t5\t881250949", "field 2 to be an item id"),
            (b"1\t2.5\t5\t881250949", "field 2 to be an item id"),
            (b"1\t2\t6\t881250949", r"field 3 to be a rating, an integer 1\.\.5"),
            (b"1\t2\t0\t881250949", "field 3"),
            (b"1\t2\t3.5\t881250949", "field 3"),
            (b"1\t2\t5\tyesterday", "field 4 to be a timestamp"),
            (b"1\t2\t5\t 881250949", "field 4"),
            (b"\x00\xff\x80\x01" * 100, "not 1, got .* and 340 bytes more"),
        ],
    )
    def test_a_malformed_line_is_named_with_what_was_expected_and_got(
        self, u_data: Path, line: bytes, says: str
    ) -> None:
        u_data.write_bytes(U_DATA + line + b"\n" + U_DATA)
        with pytest.raises(DataError, match=r"u\.data: line 3: expected .*" + says) as error:
            load_ratings(u_data)
        assert "\n" not in str(error.value)

    def test_binary_bytes_are_named_too(self, u_data: Path) -> None:
        u_data.write_bytes(bytes(range(256)) * 10)
        with pytest.raises(DataError, match=r"u\.data: line 1: expected 4 fields"):
            load_ratings(u_data)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"1::2::3::881250949\n", "4 fields separated by tabs"),
            (b"userId,movieId,rating,timestamp\n1,2,3.0,881250949\n", "4 fields separated by tabs"),
            (U_DATA.replace(b"\n", b"\r"), "lines that end with a newline, not with a carriage return alone"),
            (b"\n" + U_DATA, "4 fields separated by tabs"),
        ],
        ids=["ml-1m", "ml-latest", "old Mac", "blank first line"],
    )
    def test_other_forms_are_refused_at_their_first_line(self, u_data: Path, content: bytes, says: str) -> None:
        u_data.write_bytes(content)
        with pytest.raises(DataError, match=rf"u\.data: line 1: expected {says}"):
            load_ratings(u_data)

    @pytest.mark.parametrize("content", [b"", b"\n", b" \n\r\n"])
    def test_an_empty_file(self, u_data: Path, content: bytes) -> None:
        u_data.write_bytes(content)
        with pytest.raises(DataError, match=r"u\.data: is empty; expected lines of user"):
            load_ratings(u_data)

    def test_a_file_that_cant_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"none\.data: can't be read: No such file"):
            load_ratings(tmp_path / "none.data")

    def test_ids_that_no_matrix_holds(self, u_data: Path) -> None:
        u_data.write_bytes(b"999999999\t999999999\t5\t1\n")
        with pytest.raises(DataError, match="renumber the ids"):
            load_ratings(u_data)


class TestGivenData:
    def test_a_folder_or_the_file_itself(self, u_data: Path) -> None:
        for given in (u_data, u_data.parent):
            assert find_ratings(Settings(movielens_dir=given), NOWHERE) == (u_data, "file")

    def test_the_real_thing_is_known_by_its_md5(self, u_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(movielens_download, "MD5", hashlib.md5(U_DATA, usedforsecurity=False).hexdigest())
        assert find_ratings(Settings(movielens_dir=u_data), NOWHERE)[1] == "movielens-100k"

    @pytest.mark.parametrize("name", ["", "nowhere"])
    def test_nothing_there_is_an_error_that_names_the_variable(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(DataError, match=r"no such file; BANDIT_MOVIELENS_DIR must be a folder holding u\.data"):
            find_ratings(Settings(movielens_dir=tmp_path / name), NOWHERE)


@pytest.fixture
def grouplens(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of a small MovieLens whose md5 counts as the right one; `/broken` gives another file."""
    monkeypatch.setattr(movielens_download, "MD5", hashlib.md5(U_DATA, usedforsecurity=False).hexdigest())

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            archive = io.BytesIO()
            with zipfile.ZipFile(archive, "w") as file:
                file.writestr("ml-100k/u.data", U_DATA if self.path == "/right" else b"other")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"not a zip" if self.path == "/no-zip" else archive.getvalue())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class TestDownload:
    def test_is_kept_and_tells_the_terms(
        self, settings: Settings, grouplens: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        path, data = find_ratings(settings, f"{grouplens}/right")
        assert (path, data) == (settings.home / "data/ml-100k/u.data", "movielens-100k")
        assert path.read_bytes() == U_DATA
        assert [entry.name for entry in path.parent.iterdir()] == ["u.data"]
        assert "no redistribution" in caplog.text
        assert find_ratings(settings, NOWHERE) == (path, data)

    def test_of_another_file_is_refused(self, tmp_path: Path, grouplens: str) -> None:
        with pytest.raises(DataError, match=r"u\.data has md5"):
            download(tmp_path / "u.data", f"{grouplens}/wrong")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("url", ["/no-zip", None])
    def test_that_fails_is_an_error_of_one_line(self, tmp_path: Path, grouplens: str, url: str | None) -> None:
        with pytest.raises(DataError, match="could not be downloaded") as error:
            download(tmp_path / "u.data", grouplens + url if url else NOWHERE)
        assert "\n" not in str(error.value)

    def test_from_a_server_that_never_answers_is_given_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(movielens_download, "_FIRST_BYTE_S", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
            with pytest.raises(DataError, match="could not be downloaded"):
                download(tmp_path / "u.data", url)


class TestOffline:
    def test_falls_back_to_synthetic_ratings_and_says_so(
        self, settings: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            path, data = find_ratings(settings, NOWHERE)
        assert (path, data) == (synthetic_path(settings.home), "synthetic")
        assert "using synthetic ratings" in caplog.text

    def test_stays_synthetic_when_the_network_comes_back(self, settings: Settings, grouplens: str) -> None:
        find_ratings(settings, NOWHERE)
        assert find_ratings(settings, f"{grouplens}/right")[1] == "synthetic"


class TestSyntheticRatings:
    def test_have_the_shape_of_movielens_100k(self, tmp_path: Path) -> None:
        write_synthetic(tmp_path / "u.data")
        ratings = load_ratings(tmp_path / "u.data")
        assert ratings.shape == (943, 1682)
        assert np.count_nonzero(ratings) == 100_000
        assert np.count_nonzero(ratings, axis=1).min() >= 20
        assert set(np.unique(ratings)) == {0, 1, 2, 3, 4, 5}

    def test_are_skewed_to_popular_items(self) -> None:
        _, items, _, _ = synthetic_ratings()
        counts = np.sort(np.bincount(items))[::-1]
        assert counts[:168].sum() > 0.35 * 100_000  # a tenth of the items, over a third of the ratings

    def test_are_the_same_for_the_same_seed(self) -> None:
        for one, other in zip(synthetic_ratings(3), synthetic_ratings(3), strict=True):
            assert np.array_equal(one, other)
        assert not np.array_equal(synthetic_ratings(3)[1], synthetic_ratings(4)[1])
