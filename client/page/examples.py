"""Texts to try, written for this page."""

EXAMPLES: dict[str, str] = {
    "A vote in parliament": (
        "Members of parliament have voted to tighten the rules on lobbying after a debate that ran long past midnight. "
        "The bill, which passed by 312 votes to 271, obliges ministers to publish every meeting with outside interests "
        'within a month. The prime minister told the Commons that voters were "tired of secrets" and that the law '
        "would restore trust before the next general election. Opposition leaders called the measures half-hearted and "
        "promised amendments when the bill reaches the House of Lords."
    ),
    "A retailer's results": (
        "Shares in the furniture retailer fell 9% after it warned that annual profit would miss forecasts. Sales in "
        "shops open for more than a year dropped 4% in the three months to October, while the cost of freight rose. "
        "The chief executive said the company would close twelve stores and renegotiate its loans. Analysts at two "
        "banks cut their target for the stock, and the dividend is now in doubt."
    ),
    "A cup tie": (
        "A late header by the substitute striker sent the visitors through to the quarter-finals after a tie that "
        "finished 2-1. The home side had led from a free kick before half-time, but their goalkeeper was beaten twice "
        "in the last ten minutes. The manager praised his players' fitness and said the captain should be back from "
        "his knee injury for Saturday's league match."
    ),
    "A film festival": (
        "A low-budget drama about two sisters in a fishing village took the main prize at the film festival on "
        "Sunday. Its director, who made the film with a cast of amateurs, dedicated the award to her late mother. The "
        "prize for best actor went to the star of a musical comedy, and the jury, led by an Oscar-winning "
        "screenwriter, gave a special mention to an animated short."
    ),
    "A new phone": (
        "The company's next mobile phone will let users make video calls over wireless networks and store a thousand "
        "songs. Engineers said that the chip needs half the power of the one before, so the battery lasts two days. A "
        "software update later this year will add protection against viruses, which have begun to spread between "
        "handsets through messages. Rivals are expected to show similar devices at a trade fair next month."
    ),
    "Neither fish nor fowl": (
        "The minister for culture opened the new stadium on Friday, praised the phone maker that had paid for it, and "
        "said that the concert in the evening would bring the city's hotels their best weekend of the year."
    ),
}
"""By what the page calls them. The first is the placeholder, the last is hard to place."""

PLACEHOLDER = next(iter(EXAMPLES.values()))
