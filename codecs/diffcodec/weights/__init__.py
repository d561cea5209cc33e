"""Weights: the syntax of sources, and strict loading.

    cdc                                what ships, by its name; `zoo`: CompressAI's, of its models
    outputs/mine/model                 a folder that `Codec.save` or a training wrote, or a file
    hf://owner/repo[@revision][/file]  a repository of the hub as such a folder, or a file of one
    https://host/file.pth#sha256=…     a download, checked against its sha256
    pip://distribution/file            a file of an installed Python distribution

`#sha256=` and 64 hex digits may follow any of these. A name that ships takes precedence over a
folder of that name, which is `./cdc`. Pickled checkpoints are read with `weights_only=True`. Keys
are renamed by an explicit table, and loaded with `strict=True`.
"""
