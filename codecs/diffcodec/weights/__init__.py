"""Weights: the syntax of sources, and strict loading.

    cdc                                name of a shipped model; `zoo` for CompressAI's weights
    outputs/mine/model                 a file, or a folder written by `Codec.save` or a training
    hf://owner/repo[@revision][/file]  a hub repository with such a folder, or a file of it
    https://host/file.pth#sha256=…     a download, verified by its sha256
    pip://distribution/file            a file of an installed Python distribution

`#sha256=` and 64 hex digits may be appended to any source. The name of a shipped model takes
precedence over a folder; write `./cdc` for a folder `cdc`. Pickled checkpoints are read with
`weights_only=True`. Keys are renamed by an explicit table, and loaded with `strict=True`.
"""
