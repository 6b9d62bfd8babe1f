"""Safetensors files: what was altered is refused, what is whole reads back, in permissions too."""

import hashlib
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models import tensors
from ppo_pipeline.models.tensors import CHECKSUM, checksum, read_tensors, write_tensors
from ppo_pipeline.storage.files import atomic_folder

TENSORS = {
    "b": torch.arange(6.0).reshape(2, 3),
    "a": torch.tensor(3, dtype=torch.int64),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "none": torch.empty(0, 4),
}


def same(found: dict[str, torch.Tensor]) -> bool:
    return set(found) == set(TENSORS) and all(
        found[n].dtype == t.dtype and found[n].shape == t.shape and torch.equal(found[n], t) for n, t in TENSORS.items()
    )


def test_tensors_come_back_and_others_read_them_too(tmp_path: Path) -> None:
    write_tensors(TENSORS, tmp_path / "t")
    assert same(read_tensors(tmp_path / "t"))
    assert same(load_file(tmp_path / "t"))
    write_tensors(dict(reversed(TENSORS.items())), tmp_path / "again")
    assert (tmp_path / "t").read_bytes() == (tmp_path / "again").read_bytes()


def test_the_file_is_the_format_s_own_with_sorted_metadata_and_the_checksum(tmp_path: Path) -> None:
    """Byte by byte: header in lines of 8 bytes, then the tensors, those of wide numbers first."""
    write_tensors({"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([3], dtype=torch.int16)}, tmp_path / "t")
    numbers = struct.pack("<2fh", 1.0, 2.0, 3)
    digest = hashlib.sha256(b"a\0torch.int16\0(1,)\0" + numbers[8:] + b"b\0torch.float32\0(2,)\0" + numbers[:8])
    header = (
        '{"__metadata__":{"format":"pt","sha256":"' + digest.hexdigest() + '"},'
        '"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"I16","shape":[1],"data_offsets":[8,10]}}'
    )
    size = -(-len(header) // 8) * 8
    assert (tmp_path / "t").read_bytes() == struct.pack("<Q", size) + header.ljust(size).encode() + numbers


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_killed_while_it_writes_the_old_file_is_whole_and_the_next_writer_clears_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While tensors are hashed and written, and between that and the checksum's place in the header."""
    folder = tmp_path / "trainer"
    with atomic_folder(folder) as partial:
        write_tensors(TENSORS, partial / "t")
    for place in ("checksum", "_set_checksum"):
        monkeypatch.setattr(tensors, place, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        child = os.fork()
        if not child:
            try:
                with atomic_folder(folder) as partial:
                    write_tensors({"b": torch.zeros(1000)}, partial / "t")
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        monkeypatch.undo()
        assert same(read_tensors(folder / "t"))
        left = [path for path in tmp_path.iterdir() if path != folder]
        assert len(left) == 1
        if place == "_set_checksum":
            with pytest.raises(PipelineError, match="damaged"):
                read_tensors(left[0] / "t")
        with atomic_folder(folder) as partial:
            write_tensors(TENSORS, partial / "t")
        assert [*tmp_path.iterdir()] == [folder]


def test_a_file_is_readable_for_those_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_tensors(TENSORS, tmp_path / "t")
    finally:
        os.umask(before)
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o640


def test_every_flipped_bit_gives_an_error_or_the_same_tensors(tmp_path: Path) -> None:
    """The header's padding and the checksum's own name change no tensor."""
    write_tensors(TENSORS, tmp_path / "t")
    good = (tmp_path / "t").read_bytes()
    refused = 0
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "t").write_bytes(damaged)
        try:
            assert same(read_tensors(tmp_path / "t")), place
        except PipelineError:
            refused += 1
    assert refused > 0.9 * len(good)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, share: float) -> None:
    write_tensors(TENSORS, tmp_path / "t.safetensors")
    good = (tmp_path / "t.safetensors").read_bytes()
    (tmp_path / "t.safetensors").write_bytes(good[: int(len(good) * share)])
    with pytest.raises(PipelineError, match=r"t\.safetensors: damaged \(.*\); delete it and rerun"):
        read_tensors(tmp_path / "t.safetensors")


def test_a_file_without_a_checksum_is_read_and_one_of_other_tensors_refused(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "plain")
    assert same(read_tensors(tmp_path / "plain"))
    save_file(TENSORS, tmp_path / "other", metadata={CHECKSUM: checksum({**TENSORS, "a": torch.tensor(4)})})
    with pytest.raises(PipelineError, match="its tensors are not those of its checksum"):
        read_tensors(tmp_path / "other")
    with pytest.raises(PipelineError, match="no such file; `dvc repro` or `dvc pull` brings it"):
        read_tensors(tmp_path / "nothing")


@pytest.mark.parametrize(
    "other",
    [
        {"x": TENSORS["b"]},
        {"b": TENSORS["b"].reshape(3, 2)},
        {"b": TENSORS["b"].view(torch.int32)},
        {"b": TENSORS["b"] + 1},
    ],
    ids=["name", "shape", "format", "bytes"],
)
def test_the_checksum_is_of_name_shape_format_and_bytes(other: dict[str, torch.Tensor]) -> None:
    assert checksum(other) != checksum({"b": TENSORS["b"]})


def test_the_same_tensors_are_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """safetensors puts two entries of metadata in a random order."""
    code = (
        "import sys, torch; from pathlib import Path; from ppo_pipeline.models.tensors import write_tensors; "
        "[write_tensors({'b': torch.ones(3), 'a\"é': torch.zeros(2, 2)}, Path(sys.argv[1], f'{i}')) for i in range(20)]"
    )
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        subprocess.run([sys.executable, "-c", code, tmp_path / name], check=True)
    assert len({path.read_bytes() for path in tmp_path.glob("*/*")}) == 1
    tensors = read_tensors(tmp_path / "one/0")
    assert torch.equal(tensors["b"], torch.ones(3)) and tensors['a"é'].shape == (2, 2)
