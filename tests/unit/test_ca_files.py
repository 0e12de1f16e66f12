"""What a ceremony writes is never written over another."""

from pathlib import Path

import pytest

from otahsm.errors import ConfigError
from otahsm.token.files import write_new, write_numbered


def test_a_second_record_in_the_same_second_has_a_name_of_its_own(tmp_path: Path) -> None:
    record = tmp_path / "ceremonies" / "20261125T200618Z-ca-csr.txt"
    written = [write_numbered(record, str(n).encode(), "the record") for n in range(3)]
    assert [path.name for path in written] == [
        "20261125T200618Z-ca-csr.txt",
        "20261125T200618Z-ca-csr-2.txt",
        "20261125T200618Z-ca-csr-3.txt",
    ]
    assert [path.read_text() for path in written] == ["0", "1", "2"]


def test_a_named_file_that_exists_stays(tmp_path: Path) -> None:
    write_new(tmp_path / "a", b"first", "the record")
    with pytest.raises(ConfigError, match=r"can't write the record .*/a: the file exists"):
        write_new(tmp_path / "a", b"second", "the record")
    assert (tmp_path / "a").read_bytes() == b"first"


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ceremonies").write_text("a file")
    with pytest.raises(ConfigError, match="can't write"):
        write_numbered(tmp_path / "ceremonies" / "a.txt", b"", "the record")
