"""The weights of a transformers model: digest, files, checkpoints that do not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from layercache.errors import BackboneError
from layercache.extraction.models.loading import load_encoder
from tests.extraction.models.transformers_models import (
    DEPTH,
    IMAGES,
    TOLERANCE,
    build,
    copy_of,
    edit,
    folder,
    hidden_states,
    load,
    processor,
)


def test_digest_is_of_the_towers_tensors_whatever_the_file(tmp_path: Path) -> None:
    digest = load("vit").weights_digest
    sharded, torch_file = tmp_path / "sharded", tmp_path / "torch"
    build("vit").save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    processor("vit").save_pretrained(sharded)
    shutil.copytree(folder("vit"), torch_file)
    torch.save(load_file(torch_file / "model.safetensors"), torch_file / "pytorch_model.bin")
    (torch_file / "model.safetensors").unlink()
    for path in (sharded, torch_file):
        assert load_encoder(f"hf:{path}").weights_digest == digest

    path = copy_of("vit", tmp_path)
    state = load_file(path / "model.safetensors")
    for key, changes in [
        ("vit.encoder.layer.1.attention.attention.key.weight", True),
        ("vit.embeddings.position_embeddings", True),
        ("vit.layernorm.bias", True),
        ("classifier.weight", False),
    ]:
        changed = {**state, key: state[key] + 0.5}
        save_file(changed, path / "model.safetensors", metadata={"format": "pt"})
        assert (load_encoder(f"hf:{path}").weights_digest != digest) == changes, key


@pytest.mark.parametrize("wrapper", ["", "model.", "module."])
@pytest.mark.parametrize("names", ["checkpoint", "module"])
def test_weights_of_a_file_replace_the_folders(tmp_path: Path, wrapper: str, names: str) -> None:
    other = build("vit").vit
    with torch.no_grad():
        other.layers[1].mlp.fc1.weight += 0.1
    if names == "module":
        state = other.state_dict()
    else:
        other.save_pretrained(tmp_path / "saved")
        state = load_file(tmp_path / "saved" / "model.safetensors")
    file = tmp_path / "weights.pt"
    torch.save({"state_dict": {f"{wrapper}{key}": value for key, value in state.items()}}, file)
    backbone = load("vit", weights=file)
    assert backbone.weights_digest != load("vit").weights_digest
    expected = [x[:, 0] for x in hidden_states("vit")["block"]]
    got = load("vit", weights=file, tap="block")(IMAGES)[:, 0].numpy()
    np.testing.assert_allclose(got[0], expected[0], **TOLERANCE)
    assert np.abs(got[1] - expected[1]).max() > 1e-3


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = copy_of("vit", tmp_path)
    edit(path / "config.json", num_hidden_layers=2)
    with pytest.raises(BackboneError, match=r"16 unexpected: .*\.2\."):
        load_encoder(f"hf:{path}")
    edit(path / "config.json", num_hidden_layers=4)
    with pytest.raises(BackboneError, match=r"16 missing: "):
        load_encoder(f"hf:{path}")
    edit(path / "config.json", num_hidden_layers=3, intermediate_size=48)
    with pytest.raises(BackboneError, match=r"of another shape: .*expected \(48, 24\), got"):
        load_encoder(f"hf:{path}")
    (path / "model.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(BackboneError, match="cannot be loaded"):
        load_encoder(f"hf:{path}")
    (path / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"there is no model\.safetensors or "):
        load_encoder(f"hf:{path}")


def test_beit_without_weights_for_its_final_norm_has_the_tap_block(tmp_path: Path) -> None:
    path = copy_of("beit", tmp_path)
    state = load_file(path / "model.safetensors")
    kept = {key: value for key, value in state.items() if "pooler" not in key}
    save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"needs a final norm for layer 3.*use tap 'block'"):
        load_encoder(f"hf:{path}")
    assert load_encoder(f"hf:{path}", tap="block")(IMAGES).shape[0] == DEPTH
