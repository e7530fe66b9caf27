"""Addresses of transformers models: what is found, described, downloaded and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layercache.errors import BackboneError, MissingExtraError
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.sources import describe_model
from tests.extraction.models.transformers_models import (
    DEPTH,
    build,
    copy_of,
    edit,
    folder,
    load,
    processor,
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "convnext"}, "got 'convnext': supported are beit, clip, "),
        ({"model_type": "siglip2"}, "NaFlex.*google/siglip2-base-patch16-224"),
        ({"hidden_size": "wide"}, "transformers cannot read"),
    ],
)
def test_other_architectures_are_refused_with_what_is_supported(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    path = copy_of("vit", tmp_path)
    edit(path / "config.json", **values)
    with pytest.raises(BackboneError, match=message):
        describe_model(f"hf:{path}")


def test_a_folder_of_timm_names_the_address_to_use(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_base_patch16_224"}))
    with pytest.raises(BackboneError, match=f"model of timm: use local-dir:{tmp_path} instead"):
        load_encoder(f"hf:{tmp_path}")


def test_timms_address_of_a_folder_of_transformers_names_the_one_to_use() -> None:
    with pytest.raises(BackboneError, match=f"model of transformers, use hf:{folder('vit')}"):
        load_encoder(f"local-dir:{folder('vit')}")


def test_addresses_without_a_model_say_what_is_expected(tmp_path: Path) -> None:
    for name, message in [
        ("hf:", "expected hf:ORG/NAME or hf:PATH"),
        (f"hf:{tmp_path}/none", "no such folder"),
        (f"hf:{tmp_path}", r"there is no config\.json in .*as save_pretrained writes it"),
    ]:
        with pytest.raises(BackboneError, match=message):
            load_encoder(name)
    with pytest.raises(BackboneError, match=r"downloads are forbidden .* hf:PATH"):
        load_encoder("hf:nobody/nothing", offline=True)


def test_code_of_a_repository_is_never_run(tmp_path: Path) -> None:
    path = copy_of("vit", tmp_path)
    (path / "evil.py").write_text("raise SystemExit('ran')\n")
    edit(path / "config.json", auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"})
    edit(path / "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Processor"})
    assert load_encoder(f"hf:{path}").weights_digest == load("vit").weights_digest


def test_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"transformers, which is not installed.*\[transf"):
        load_encoder("hf:nobody/nothing")


def test_describe_gives_the_figures_of_the_tower() -> None:
    info = describe_model(f"hf:{folder('dinov3')}")
    assert (info.width, info.depth, info.input_size, info.patch_size) == (24, DEPTH, 32, 8)
    assert info.tokens == ("cls", "ap", "reg", "std", "max", "attn", "grid:K", "all")
    assert "DINOv3ViTModel(" in info.architecture
    tower = build("vit").vit
    expected = sum(p.numel() for p in tower.parameters()) / 1e6
    assert describe_model(f"hf:{folder('vit')}").params_m == pytest.approx(expected)
    assert not describe_model(f"hf:{folder('siglip')}").class_token


def test_a_repository_is_downloaded_once_with_all_shards(
    server: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="layercache")
    build("vit").save_pretrained(server, max_shard_size="20KB")
    processor("vit").save_pretrained(server)
    digest = load_encoder("hf:lab/vit").weights_digest
    assert digest == load("vit").weights_digest
    downloads = [r.message for r in caplog.records if "downloading" in r.message]
    assert all(message.startswith("hf:lab/vit: downloading the weights (") for message in downloads)
    for file in server.iterdir():
        file.unlink()
    assert load_encoder("hf:lab/vit", offline=True).weights_digest == digest


def test_gated_and_missing_repositories_say_what_to_do(server: Path) -> None:
    with pytest.raises(BackboneError, match=r"is gated: accept .*hf auth login.*copy, hf:PATH"):
        load_encoder("hf:gated/vit")
    with pytest.raises(
        BackboneError, match=r"lab/none has no config\.json: expected a model of tr"
    ):
        load_encoder("hf:lab/none")
