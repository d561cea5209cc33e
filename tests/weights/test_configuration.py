import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hydra._internal.utils import _locate
from hydra.utils import instantiate
from omegaconf import OmegaConf

import diffcodec
from diffcodec.base.vbr import VariableRateCodec
from diffcodec.cdc import CDC
from diffcodec.latent.small_backbone import small_autoencoder, small_backbone
from diffcodec.perco import PerCo
from diffcodec.perco.captioners import FileCaptioner, FixedCaptioner
from diffcodec.sdedit.presets import Preset
from diffcodec.sdedit.small_unet import SmallUNet
from diffcodec.weights import configuration
from diffcodec.weights.configuration import (
    INHERIT,
    Configured,
    _is_given,
    argument_group,
    build,
    call,
    config_of,
    configured,
    is_by_reference,
    is_configured,
)
from diffcodec.weights.sources import shipped
from experiments.cli import compose_config


class Thing(Configured):
    """Takes everything that a config can hold."""

    def __init__(
        self,
        size: int,
        *,
        names: Sequence[str] = ("a",),
        parts: Mapping[str, Any] | None = None,
        inner: Any = None,
        weights: str | None = None,
        **more: Any,
    ) -> None:
        self.size, self.names, self.parts, self.inner = size, names, parts, inner
        self.weights, self.more = weights, more


class Heavier(Thing):
    """A subclass with other arguments, of which it hands some on."""

    def __init__(self, mass: float) -> None:
        super().__init__(int(mass))


class Piped(Configured):
    def __init__(self, source: str) -> None:
        pass


@dataclass(frozen=True)
class Plain:
    value: int = 3


@configured
def make_thing(size: int = 2, weights: str | None = None) -> Thing:
    return Thing(size, weights=weights)


def test_the_config_has_every_argument_and_nested_ones():
    thing = Thing(3, parts={"a": Plain(), "b": [1, None]}, inner=Thing(1), colour="red")
    config = config_of(thing)
    assert config.pop("_target_").endswith("Thing")
    assert config["size"] == 3
    assert config["names"] == ["a"]
    assert config["parts"]["a"]["value"] == 3
    assert config["parts"]["b"] == [1, None]
    assert config["inner"]["size"] == 1
    assert config["colour"] == "red"
    json.dumps(config)


def test_a_subclass_remembers_its_own_arguments():
    thing = Heavier(4.5)
    assert thing.arguments() == {"mass": 4.5}
    assert thing.size == 4


def test_what_a_function_built_remembers_the_function():
    thing = make_thing()
    assert is_configured(thing)
    assert config_of(thing)["_target_"].endswith("make_thing")
    assert config_of(thing)["size"] == 2


def test_what_is_no_plain_data_is_named():
    with pytest.raises(ValueError, match="cannot write inner of Thing, a object, into a config"):
        config_of(Thing(1, inner=object()))


def test_an_object_is_built_again_from_its_config():
    codec = CDC("eps", width=8, steps=[2, 3])
    again = build(json.loads(json.dumps(config_of(codec))))
    assert config_of(again) == config_of(codec)
    assert [p.name for p in again.points] == [p.name for p in codec.points]
    preset = Preset(steps=7)
    nested = build({"a": [{"_target_": "diffcodec.sdedit.presets.Preset", "steps": 7}]})
    assert nested == {"a": [preset]}
    captioner = build(config_of(FileCaptioner({"kodim01": "doors"}, path="x.json")))
    assert isinstance(captioner, FileCaptioner)  # without the data set's captions


def test_the_shortest_public_name_is_written():
    assert config_of(CDC(width=4))["_target_"] == "diffcodec.cdc.CDC"
    assert config_of(FixedCaptioner())["_target_"] == "diffcodec.perco.captioners.FixedCaptioner"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os.system", "outside this project: os.system"),
        ("diffcodecs.evil.Thing", "outside this project"),
        ("diffcodec.results.curves.write_json", "cannot be built from a config"),
        ("diffcodec.coding.fingerprint.hashlib", "cannot be built from a config"),
        ("diffcodec.nothing.Thing", "which does not exist"),
        ("diffcodec.cdc.Nothing", "which does not exist"),
    ],
)
def test_a_config_from_anywhere_calls_nothing_else(name, message):
    with pytest.raises(ValueError, match=message):
        call(name, {})


def test_unknown_arguments_list_the_known_ones():
    with pytest.raises(ValueError, match=r"has no argument widht, choose from .*width"):
        call("diffcodec.cdc.CDC", {"widht": 3})


def test_arguments_come_from_beside_the_weights_unless_they_are_given():
    codec = CDC(weights="cdc", steps=3, width=None)
    assert codec.unet.conv_out.in_channels == 16
    assert [p.name for p in codec.points] == ["lmbda=0.34,gamma=0", "lmbda=0.34,gamma=1"]
    assert codec.arguments()["width"] == 16
    assert codec.arguments()["steps"] == 3
    with pytest.raises(ValueError, match="do not fit"):
        CDC(width=8, weights="cdc")


def test_parts_find_their_own_arguments_in_what_they_are_part_of():
    backbone = small_backbone(weights="perco")
    assert backbone.unet.config.block_out_channels == (64, 128, 192)
    assert small_autoencoder(weights="perco").vae.config.block_out_channels == (64, 128)
    # And what is built on a part finds its own where the part's weights come from.
    codec = PerCo(backbone, rate=["8x8/256"])
    assert codec.model.local_channels == 48
    assert codec.pretrained
    assert isinstance(PerCo(weights="perco").captioner, type(codec.captioner))


def test_weights_are_by_reference_where_others_have_them(tmp_path):
    network = SmallUNet([4], 1)
    assert not is_by_reference(network)
    assert is_by_reference(SmallUNet(weights="small_denoiser"))
    reference = config_of(SmallUNet(weights="small_denoiser"))["weights"]
    assert reference.startswith("small_denoiser#sha256=")
    assert is_by_reference(Piped("hf://a/b"))
    assert not is_by_reference(Thing(1, weights=str(tmp_path)))
    assert config_of(Thing(1, weights=str(tmp_path)))["weights"] is None


def test_an_explicit_none_wins_and_what_is_not_given_inherits():
    def bound_of(codec):
        return codec.arguments()["caption_max_bpp"]

    saved = bound_of(PerCo(weights="perco"))
    assert saved == 0.01
    assert bound_of(PerCo(weights="perco", caption_max_bpp=INHERIT)) == saved
    assert bound_of(PerCo(weights="perco", caption_max_bpp=None)) is None
    assert bound_of(diffcodec.load("perco", caption_max_bpp=None)) is None
    assert bound_of(diffcodec.load("perco")) == saved
    for override, expected in (("null", None), ("inherit", saved), ("0.5", 0.5)):
        cfg = compose_config(["codec=perco", f"codec.caption_max_bpp={override}"])
        assert bound_of(instantiate(cfg.codec)) == expected
    level = [0, 3]
    codec = VariableRateCodec(weights="mbt2018_mean_vbr", level=level)
    assert len(codec.points) == 2
    assert len(VariableRateCodec(weights="mbt2018_mean_vbr", level=None).points) == 8


def test_what_was_saved_as_none_is_none_again(tmp_path):
    codec = diffcodec.load("perco", caption_max_bpp=None, rate=["8x8/256"])
    codec.save(tmp_path)
    again = diffcodec.load(str(tmp_path))
    assert again.arguments()["caption_max_bpp"] is None
    assert [p.name for p in again.points] == [p.name for p in codec.points]


def test_every_null_of_the_yamls_stands_for_itself_or_for_what_is_saved():
    # An argument that may be None and that weights bring along must be `inherit` there.
    saved = {
        (value["_target_"], key)
        for folder in shipped().values()
        for value in nested(json.loads((folder / "config.json").read_text()))
        for key in value
        if not key.endswith("weights")
    }
    for name in ("perco", "cdc", "mbt2018_mean_vbr", "diffc"):
        cfg = OmegaConf.to_container(compose_config([f"codec={name}"]).codec, resolve=False)
        for value in nested(cfg):
            target = inspect.unwrap(_locate(value["_target_"]))
            function = inspect.unwrap(target.__init__) if isinstance(target, type) else target
            parameters = inspect.signature(function).parameters
            for key, entry in value.items():
                if entry is None and (value["_target_"], key) in saved:
                    assert not _is_given(None, parameters[key]), (name, key)


def nested(tree):
    """The mappings of a config that say what is built of them."""
    if isinstance(tree, Mapping):
        if "_target_" in tree:
            yield tree
        for value in tree.values():
            yield from nested(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from nested(value)


@argument_group
class Sizes:
    width: int = 4
    scale: float = 1.0
    name: str | None = None


class Grouped(Configured):
    def __init__(self, sizes: Sizes = Sizes(), *, weights: str | None = None) -> None:  # noqa: B008
        self.sizes = sizes


def test_fields_of_a_group_that_are_not_given_are_those_of_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(configuration, "TRUSTED", "tests.")
    config = {
        "_target_": config_of(Grouped())["_target_"],
        "sizes": {"_target_": config_of(Grouped())["sizes"]["_target_"], "width": 9, "scale": 2.0},
        "weights": None,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = str(tmp_path)
    assert Grouped(weights=source).sizes == Sizes(9, 2.0)
    assert Grouped(Sizes(scale=3.0), weights=source).sizes == Sizes(9, 3.0)
    # A given field counts even if it equals the default.
    assert Grouped(Sizes(width=4), weights=source).sizes == Sizes(4, 2.0)
    assert Grouped(Sizes(scale=3.0)).sizes == Sizes(4, 3.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": "wide"}, "width must be of type int, got 'wide'"),
        ({"width": None}, "width must be of type int, got None"),
        ({"scale": "1"}, "scale must be of type float, got '1'"),
        ({"name": 3}, "name must be of type str or null, got 3"),
    ],
)
def test_a_field_of_another_type_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Sizes(**given)
    assert Sizes(scale=2) == Sizes(scale=2.0)
