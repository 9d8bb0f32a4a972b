"""Golden texts, which every artifact stores together with their logits.

The service compares its own logits with the stored ones before it becomes ready. The texts test the arithmetic, not the
quality of the model: short and long, accents and emoji, a literal special token, and 400 tokens, which are two windows
of a compact model. Longer texts would make each start of the service longer.
"""

from classifier.artifact import Golden
from classifier.encoding import Encoder
from classifier.model import GPT2Classifier
from training.report.predict import predict_logits

GOLDEN_TEXTS = (
    "Goal!",
    "The finance minister told parliament that the budget would be balanced within three years.",
    "Shares in the retailer fell by a tenth after it warned that profits would miss forecasts.",
    "The striker scored twice in the second half and the visitors held on to win the cup tie.",
    "The film took four prizes at the festival, among them best director and best original score.",
    "The new handset has a better camera, a faster chip and software that learns from its owner.",
    "Café, naïve, Zürich, 東京, Ελλάδα, здравствуйте 🙂 — £1.5bn, 12% & “quotes”.",
    "A text that ends with what looks like a special token <|endoftext|>",
    "<|endoftext|> stands at the beginning of this one, and\n\n\tits white   space is odd.",
    "The council met on Monday to talk about the bridge. " * 12,
    "After the break the game opened up, and both sides had chances to settle it. " * 24,
)


def golden(model: GPT2Classifier, encoder: Encoder) -> list[Golden]:
    """Return the golden texts with their float32 logits, for the manifest."""
    logits = predict_logits(model, encoder, GOLDEN_TEXTS)
    return [Golden(text=text, logits=row.tolist()) for text, row in zip(GOLDEN_TEXTS, logits, strict=True)]
