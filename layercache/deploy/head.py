"""A saved head that can find its backbone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from layercache.deploy.card import write_card
from layercache.deploy.classifier import Classifier, backbone_of
from layercache.extraction.plan import choose_device
from layercache.probing.results.checkpoint import FittedHead, HeadPath, head_place
from layercache.probing.results.checkpoint import load_head as read_head


@dataclass(frozen=True, kw_only=True, eq=False)
class Head(FittedHead):
    """A trained head, read from disk: `predict` and `attention` from tokens, `with_backbone` for images, `card` for people."""

    path: HeadPath
    """The probe's folder or the file that it was read from."""

    def with_backbone(
        self, *, weights: str | Path | None = None, device: str = "auto", precision: str = "fp32"
    ) -> Classifier:
        """The head on its backbone: an nn.Module from preprocessed images (B, 3, H, W) to logits (B, C).

        weights: the checkpoint that the tokens were extracted with; without it, what ships with the package or what timm downloads.
        device: "auto" takes a GPU if there is one. precision: arithmetic of the backbone, "fp32", "bf16" or "fp16".
        Raises HeadMismatchError for a backbone with any other weights than the head's own.

            head = layercache.load_head("CACHE/probes/ID")
            classifier = head.with_backbone()
            probabilities = classifier.probabilities(classifier(classifier.preprocess(image)))
        """
        device, _ = choose_device(device)
        return Classifier(
            self, backbone_of(self, weights=weights, device=device, precision=precision)
        )

    def card(self) -> str:
        """What the head is, in markdown: data, backbone, protocol, figures, limits, licence."""
        return write_card(self, self.path)


def load_head(path: str | HeadPath) -> Head:
    """The trained head of a probe: `path` is the probe's folder (CACHE/probes/ID) or its head.safetensors.

    Raises HeadMismatchError where the file is none of ours, and an error that says so where there is none.
    """
    saved = read_head(path)
    return Head(
        **{field.name: getattr(saved, field.name) for field in fields(saved)}, path=head_place(path)
    )
