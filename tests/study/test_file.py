"""A study's file is read strictly, and says where it is wrong."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from layercache.errors import OptionError, UnknownNameError
from layercache.probing.training.config import HParams, Noise, TrainConfig, paper_grid
from layercache.study import file
from layercache.study.file import Study, parse_study, read_study
from layercache.study.plan import PlannedExtraction, PlannedProbe, plan

HEAD = '[[heads]]\nhead = "linear"\nlayers = "last"\ntokens = "cls"\n'
LEAST = 'models = ["vit_nano"]\ndatasets = ["digits"]\n' + HEAD


def parse(text: str) -> Study:
    return parse_study(text, where="s.toml", name="s")


def test_parse_study_smallest_file_uses_the_paper_s_protocol() -> None:
    study = parse(LEAST)
    (head,) = study.heads
    assert (study.name, study.models, study.datasets, study.seeds) == (
        "s",
        ["vit_nano"],
        ["digits"],
        (0,),
    )
    assert (study.out, study.cache) == (Path("reports/s"), None)
    assert head.configs == paper_grid("linear")
    assert head.train_config == TrainConfig()
    assert (head.name, dict(head.options)) == ("linear last cls", {})


def test_parse_study_every_key_is_read() -> None:
    study = parse(
        """
name = "mine"
models = ["vit_nano", "clip_b16"]
datasets = ["digits", "waves"]
seeds = [4, 2]
out = "there"
cache = "caches"
[grid]
lr = [0.1, 0.01]
weight_decay = 0
dropout = [0.0, 0.5]
[protocol]
epochs = 3
min_steps = 0
batch = 64
noise = { std = 0.1, probability = 1 }
[extract]
precision = "bf16"
root = "data"
[model.clip_b16]
weights = "clip.safetensors"
batch_size = 8
[dataset.waves]
source = "folder:/data/waves"
limit = 100
limit_seed = 3
[probe]
device = "cpu"
memory = "2GB"
[report]
per_head = true
[[heads]]
head = "attentive"
[[heads]]
head = "attentive-tokens"
lr = 0.5
epochs = 9
[[heads]]
head = "hybrid"
tokens = "cls,ap"
spatial = "grid:2"
spatial_layers = "1,5"
embedding = true
[[heads]]
head = "knn"
layers = "last"
shots = 5
"""
    )
    attentive, every, hybrid, knn = study.heads
    assert study.seeds == (4, 2)
    assert attentive.configs == tuple(
        HParams(lr=a, weight_decay=0.0, dropout=b) for a in (0.1, 0.01) for b in (0.0, 0.5)
    )
    assert attentive.train_config == TrainConfig(
        epochs=3, min_steps=0, batch=64, noise=Noise(std=0.1, probability=1)
    )
    assert (every.layers, every.tokens, every.train_config.epochs, every.configs[0].lr) == (
        "last",
        "all",
        9,
        0.5,
    )
    assert every.train_config.batch == 64
    assert hybrid.name == "hybrid all cls+ap grid:2@1,5 embedding"
    assert dict(hybrid.options) == {"spatial": "grid:2", "spatial_layers": "1,5", "embedding": True}
    assert (knn.configs, knn.name) == ((), "knn last cls+ap 5 shots")
    assert study.source("waves") == "folder:/data/waves"
    assert {name: table.options() for name, table in study.model.items()} == {
        "clip_b16": {"weights": "clip.safetensors", "batch_size": 8}
    }
    assert study.extract.options() == {"precision": "bf16", "data_root": "data"}
    assert study.dataset["waves"].options("source") == {"limit": 100, "seed": 3}
    assert study.probe.options() == {"device": "cpu", "memory_budget": "2GB"}
    assert study.report.options() == {"per_head": True}


def test_parse_study_reads_the_example_of_the_documentation() -> None:
    assert file.__doc__ is not None
    study = parse(textwrap.dedent(file.__doc__.split("\n\n", 1)[1].split("Paths are")[0]))
    assert (study.engine, study.seeds) == ("ray", (0, 1, 2))
    assert [head.name for head in study.heads] == ["attentive last cls+ap", "attentive all cls+ap"]
    assert list(study.model) == ["clip_b16"]


def test_parse_study_takes_models_by_their_address() -> None:
    models = ["hf-hub:lab/uni", "local-dir:/models/uni"]
    study = parse(LEAST.replace('["vit_nano"]', '["hf-hub:lab/uni", "local-dir:/models/uni"]'))
    assert study.models == models


def test_parse_study_list_of_layers_or_tokens_makes_one_column_each() -> None:
    study = parse(LEAST.replace('"last"', '["1", "2"]').replace('"cls"', '["cls", "ap"]'))
    assert [head.name for head in study.heads] == [
        "linear 1 cls",
        "linear 1 ap",
        "linear 2 cls",
        "linear 2 ap",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("mdoels = 1\n" + LEAST, r"unknown key in s\.toml 'mdoels': did you mean models"),
        (
            LEAST + "[extract]\nbatchsize = 3\n",
            r"unknown key in s\.toml: \[extract\] 'batchsize': did you mean batch_size",
        ),
        (LEAST + '[extract]\nweights = "w"\n', r"'weights'.*\(it belongs to \[model\.NAME\]\)"),
        (
            LEAST + '[dataset.digits]\nprecision = "bf16"\n',
            r"\[dataset\.digits\] 'precision'.*belongs to \[extract\] or \[model\.NAME\] or",
        ),
        (
            LEAST + "[model.vit_nnao]\nbatch_size = 3\n",
            r"unknown table in s\.toml 'model\.vit_nnao': did you mean model\.vit_nano\? "
            r"\(it is not among models",
        ),
        (
            LEAST + "[grid]\nlearning_rate = 1\n",
            r"unknown key in s\.toml: \[grid\] 'learning_rate'",
        ),
        (
            LEAST + "[protocol]\nnoise = { sdt = 1 }\n",
            r"\[protocol\]: noise 'sdt': did you mean std",
        ),
        (
            LEAST.replace("vit_nano", "vit_nanno"),
            r"unknown model in s\.toml 'vit_nanno': did you mean vit_nano",
        ),
        (
            LEAST.replace("digits", "digit"),
            r"unknown dataset in s\.toml 'digit': did you mean digits",
        ),
        (
            LEAST.replace('"linear"', '"liner"'),
            r"unknown head in s\.toml: \[\[heads\]\] number 1 'liner': did you mean linear",
        ),
        (
            LEAST.replace('"last"', '"lst"'),
            r"unknown layers in s\.toml: \[\[heads\]\] number 1 'lst': did you mean last",
        ),
        (
            LEAST.replace('"cls"', '"cls+pa"'),
            r"unknown tokens in s\.toml: \[\[heads\]\] number 1 'pa': .*ap",
        ),
        (
            LEAST.replace("linear", "fusion") + 'spatial = "cls"\n',
            r"unknown spatial in s\.toml: \[\[heads\]\] number 1 'cls'.*all, grid:K, patch",
        ),
        (
            LEAST + 'join = "vit_b61"\n',
            r"unknown model in s\.toml 'vit_b61': did you mean vit_b16",
        ),
    ],
)
def test_parse_study_unknown_word_suggests_the_nearest(text: str, fault: str) -> None:
    with pytest.raises(UnknownNameError, match=fault):
        parse(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("models = 1 2", r"s\.toml: not valid TOML: .*line 1"),
        (HEAD + "[grid]\n", r"s\.toml: models is missing: expected a list of models, as in \["),
        (LEAST.replace('["digits"]', "[]"), r"s\.toml: datasets: expected a list of datasets"),
        (
            LEAST.replace('["digits"]', "[3]"),
            r"s\.toml: datasets: expected a text in quotes, got 3",
        ),
        ("heads = 3\n" + LEAST.replace(HEAD, ""), r"heads: expected tables \[\[heads\]\], one per"),
        (LEAST + "[extract]\nwait = 1\n", r"\[extract\]: wait: expected true or false, got 1"),
        (
            LEAST + '[extract]\ncodec = "zstd"\ncompressor = "zstd"\n',
            r"\[extract\]: codec: given twice, also by another spelling",
        ),
        (
            LEAST + '[probe]\nprecision = "fp16"\n',
            r"\[probe\]: precision: expected 'fp32' or 'bf16', got 'fp16'",
        ),
        (
            LEAST.replace('["digits"]', '["digits", "digits"]'),
            "datasets: expected each name once, got digits, digits",
        ),
        (
            LEAST.replace('["vit_nano"]', '"vit_nano"'),
            r"models: expected a list of models, as in \[.*\], got 'vit_nano'",
        ),
        ("seeds = 0\n" + LEAST, "seeds: expected a number of seeds"),
        ("seeds = [1, 1]\n" + LEAST, "seeds: expected a number of seeds"),
        (
            "seeds = true\n" + LEAST,
            r"seeds: expected a number of seeds .* or a list of .*, got True",
        ),
        (
            LEAST + "[extract]\nbatch_size = 3.5\n",
            r"\[extract\]: batch_size: expected a whole number, got 3\.5",
        ),
        (
            LEAST + '[grid]\nlr = [0.1, "fast"]\n',
            r"\[grid\]: lr: expected a number, got 'fast'",
        ),
        (
            LEAST + "[grid]\nlr = [-1]\n",
            r"s\.toml: \[grid\]: lr: expected a finite number > 0, got -1",
        ),
        (LEAST + "[protocol]\nepochs = 0\n", r"\[protocol\]: epochs: expected at least 1, got 0"),
        (LEAST + "epochs = 0\n", r"number 1: epochs: expected at least 1"),
        (LEAST + "[protocol]\nnoise = 3\n", r"noise: expected a table such as"),
        (LEAST + HEAD, r"\[\[heads\]\]: 'linear last cls' is in this file twice"),
        (LEAST + 'spatial = "grid:2"\n', "a linear head has no spatial tokens"),
        (LEAST + 'spatial = "all"\n', "a linear head has no spatial tokens"),
        (LEAST.replace("linear", "hybrid"), "a hybrid head needs spatial tokens"),
        (
            LEAST.replace("linear", "hybrid") + 'spatial = "all"\n',
            r"\[\[heads\]\]: 'hybrid last cls all@last': layer 12, token 'cls' is in both "
            "tokens cls and spatial all",
        ),
        (
            LEAST.replace("linear", "fusion") + 'spatial = "all"\n[extract]\nstore = "int8"\n',
            r"\[extract\] with head 'fusion last cls all@last': store 'int8' is for patch and ",
        ),
        (
            LEAST + '[extract]\nstore = "int9"\n',
            r"\[extract\]: store: store 'int9': expected int8, pca:R",
        ),
        (
            LEAST + '[model.vit_nano]\nstore = "int8"\n',
            r"s\.toml: store is how spatial tokens are stored, and no head has any",
        ),
        (
            LEAST + 'join = ["vit_nano", "vit_b16"]\n',
            r"\[\[heads\]\]: 'linear last cls joined to vit_nano joined to vit_b16' is joined to "
            "every model of this study",
        ),
        (LEAST + 'join_width = "pad"\n', "number 1: join_width: sets the width that joined"),
        (
            LEAST.replace("linear", "efficient") + 'join = "vit_b16"\n',
            "number 1: join: several encoders can be joined for the heads linear, attentive",
        ),
        (
            LEAST.replace("linear", "knn") + "lr = 0.1\n",
            "knn is a baseline with its own configurations: leave out lr",
        ),
        (
            'models = ["vit_nano"]\ndatasets = ["digits"]\n[[heads]]\nlayers = "last"\n',
            r"number 1: head is missing: expected one of linear, ",
        ),
    ],
)
def test_parse_study_wrong_value_raises_with_its_key(text: str, fault: str) -> None:
    with pytest.raises(OptionError, match=fault):
        parse(text)


def test_parse_study_several_faults_are_listed_with_one_line_each() -> None:
    with pytest.raises(OptionError) as caught:
        parse("""models = ["vit_nano"]
datasets = [1]
[extract]
batchsize = 3
workers = -1
[[heads]]
head = ["linear", "liner"]
lr = "fast"
""")
    assert str(caught.value).splitlines() == [
        "s.toml: 5 faults:",
        "  s.toml: datasets: expected a text in quotes, got 1",
        "  s.toml: [[heads]] number 1: lr: expected a number, got 'fast'",
        "  unknown head in s.toml: [[heads]] number 1 'liner': did you mean linear?",
        "  s.toml: [extract]: workers: expected a whole number of at least 0, got -1",
        "  unknown key in s.toml: [extract] 'batchsize': did you mean batch_size or input_size?",
    ]


def test_parse_study_several_unknown_names_are_listed_with_one_line_each() -> None:
    with pytest.raises(OptionError) as caught:
        parse(LEAST.replace("vit_nano", "vit_nanno").replace('"digits"', '"digit", "photo"'))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()[1:]] == [
        "  unknown model in s.toml 'vit_nanno'",
        "  unknown dataset in s.toml 'digit'",
        "  unknown dataset in s.toml 'photo'",
    ]


@pytest.mark.parametrize(
    ("table", "old", "new"),
    [
        ("extract", 'store_dtype = "float32"', 'storage_dtype = "float32"'),
        ("extract", 'codec = "zstd"', 'compressor = "zstd"'),
        ("extract", "wait = true", "wait_for_lock = true"),
        ("extract", 'on_error = "stop"', 'on_error = "raise"'),
        ("protocol", "batch = 32", "batch_size = 32"),
        ("probe", 'memory = "2GB"', 'memory_budget = "2GB"'),
    ],
)
def test_parse_study_old_spelling_means_the_new_one(table: str, old: str, new: str) -> None:
    first, second = (parse(f"{LEAST}[{table}]\n{line}\n") for line in (old, new))
    assert first == second != parse(LEAST)


def test_read_study_without_name_takes_the_file_s(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(LEAST)
    assert read_study(tmp_path / "grid.toml").name == "grid"
    with pytest.raises(OptionError, match=r"nowhere\.toml: there is no such file"):
        read_study(tmp_path / "nowhere.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(OptionError, match=r"latin\.toml: cannot be read"):
        read_study(tmp_path / "latin.toml")


def test_study_without_downloads_overrides_every_table() -> None:
    study = parse(LEAST + "[dataset.digits]\noffline = false\n")
    jobs = plan(study.forbid_downloads())
    assert all(job.options.offline for job in jobs if isinstance(job, PlannedExtraction))
    assert study.extract.offline is None


def test_selection_metric_of_the_study_is_that_of_every_head_without_its_own() -> None:
    study = parse(
        'select = "auroc"\n'
        + LEAST
        + '[[heads]]\nhead = "linear"\nlayers = "last"\ntokens = "cls"\nselect = "log_loss"\n'
        + '[report]\nmetrics = ["ece", "f1_macro"]\n'
    )
    by_auc, by_loss = study.heads
    assert by_auc.options["select"] == "roc_auc"
    assert by_loss.options["select"] == "log_loss"
    assert by_loss.name == "linear last cls by log_loss"
    assert study.report.options() == {"metrics": ["expected_calibration_error", "f1_macro"]}
    with pytest.raises(OptionError, match="unknown metric 'f1_makro': did you mean f1_macro"):
        parse('select = "f1_makro"\n' + LEAST)


def test_target_of_the_study_is_that_of_every_head_without_its_own() -> None:
    study = parse(
        'target = "age"\ntask = "regression"\n'
        + LEAST
        + '[[heads]]\nhead = "linear"\nlayers = "last"\ntokens = "cls"\ntarget = "sex"\n'
        + '[dataset.digits]\nannotations = "ages.csv"\n'
    )
    ages, sexes = study.heads
    assert dict(ages.options) == {"target": "age", "task": "regression"}
    assert dict(sexes.options) == {"target": "sex"}
    assert ages.name == "linear last cls for age"
    assert study.annotations("digits") == "ages.csv"
    assert {job.cache.annotations for job in plan(study) if isinstance(job, PlannedProbe)} == {
        "ages.csv"
    }


def test_unknown_task_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="regression"):
        parse('task = "regresion"\n' + LEAST)
