"""Everything the stream raises."""


class StreamError(RuntimeError):
    """The stream cannot work as asked; the message is one line that names the mend."""


class StreamRejected(StreamError):  # noqa: N818 - a state, named so at every call site
    """A trainer refused this generator; `reason` is what a person can act on."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"refused by the trainer: {reason}")
        self.reason = reason


class MalformedMessage(ValueError):  # noqa: N818 - names what arrived
    """What came off a socket is not a message of this protocol.

    `reason` is a short slug, the same for the same fault, made to be counted.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class LimiterError(ValueError):
    """Settings of the pool under which training could stop; one sentence, key and mend named."""
