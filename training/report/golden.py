"""Texts of our own that every artifact carries with its answers.

The service compares its logits with these before it says that it is ready. They are not there to test the model's
taste but the arithmetic: short and long, accents and emoji, a literal special token, more than one window.
"""

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
    "After the break the game opened up, and both sides had chances to settle it. " * 90,
)
