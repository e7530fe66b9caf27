from dataclasses import replace


def test_content_digest_of_large_files_covers_their_sizes(many, tmp_path):
    samples = many.split("train")
    assert samples.content_digest.startswith("bytes:")
    by_size = replace(samples, max_hashed_bytes=100)
    assert by_size.content_digest.startswith("sizes:")
    with open(tmp_path / "00.png", "ab") as f:
        f.write(b"x")
    assert replace(by_size).content_digest != by_size.content_digest
