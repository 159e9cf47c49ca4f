"""Formats of recordings (`core.protocols.Format`); `data.source.open_format` finds that of a path."""
