"""Language models that write captions, one module a back end; nothing heavy is imported here."""
