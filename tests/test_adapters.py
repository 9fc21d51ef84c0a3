"""Tests of `adapters`: their start, their gradients, and their folders."""

import json
import pickle

import pytest
import torch
from llama_index.core.embeddings import MockEmbedding

from llama_index.finetuning.embeddings import ConfigurationError, ModelFolderError
from llama_index.finetuning.embeddings.adapters import (
    BaseAdapter,
    LinearLayer,
    LowRankAdapter,
    TwoLayerNN,
    describe_adapter_folder,
    get_activation_function,
    load_adapter,
    save_adapter,
)

ROWS = torch.nn.functional.normalize(torch.arange(24.0).reshape(4, 6).sin(), dim=1)


class Gate(BaseAdapter):
    """A custom adapter as old code wrote them: a config, a forward, all else inherited."""

    def __init__(self, dim, strength=1.0):
        super().__init__()
        self.strength = strength
        self.gate = torch.nn.Parameter(torch.linspace(0.5, 1.5, dim))

    def get_config_dict(self):
        return {"dim": len(self.gate), "strength": self.strength}

    def forward(self, embed):
        return embed * self.gate * self.strength


class SavesItself(Gate):
    """A custom adapter with a folder layout of its own."""

    def save(self, output_path):
        torch.save(self.gate, f"{output_path}/gate.pt")

    @classmethod
    def load(cls, input_path):
        gate = torch.load(f"{input_path}/gate.pt", weights_only=True)
        adapter = cls(len(gate))
        adapter.gate.data.copy_(gate)
        return adapter


def write_retired(folder, config, weights):
    """Write a folder as the retired package did."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize(
    "adapter",
    [
        LinearLayer(6, 6),
        LinearLayer(6, 6, bias=True),
        LowRankAdapter(6, rank=2),
        TwoLayerNN(6, 5, 6, add_residual=True),
    ],
    ids=["linear", "linear with bias", "low rank", "two layers with residual"],
)
def test_adapters_start_as_the_identity(adapter):
    """A fresh adapter leaves vectors as they are, for one vector and for many."""
    assert torch.allclose(adapter(ROWS), ROWS, atol=5e-4)
    assert torch.allclose(adapter(ROWS[0]), ROWS[0], atol=5e-4)


def test_linear_layer_is_w_x_plus_b():
    """[[0, 2], [1, 0]] maps (3, 5) to (10, 3), and the bias (1, 1) makes that (11, 4)."""
    layer = LinearLayer(2, 2, bias=True)
    layer.linear.weight.data = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    layer.linear.bias.data = torch.tensor([1.0, 1.0])
    assert layer(torch.tensor([3.0, 5.0])).tolist() == [11.0, 4.0]


def test_linear_layer_may_shorten():
    """From 3 to 2 dimensions it starts by keeping the first two."""
    assert LinearLayer(3, 2)(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1.0, 2.0]


def test_low_rank_is_x_plus_b_a_x():
    """With A = (1, 0) and B = (0, 3), the vector (2, 5) gets 3 * 2 added to its second part."""
    adapter = LowRankAdapter(2, rank=1)
    adapter.down.weight.data = torch.tensor([[1.0, 0.0]])
    adapter.up.weight.data = torch.tensor([[0.0], [3.0]])
    assert adapter(torch.tensor([2.0, 5.0])).tolist() == [2.0, 11.0]


def test_two_layers():
    """relu(-1), relu(2) = 0, 2, summed by the second layer: 2; with the residual, 2 + x."""
    adapter = TwoLayerNN(2, 2, 2, add_residual=True)
    adapter.linear1.weight.data = torch.eye(2)
    adapter.linear2.weight.data = torch.ones(2, 2)
    assert adapter(torch.tensor([-1.0, 2.0])).tolist() == [1.0, 4.0]
    adapter._add_residual = False
    assert adapter(torch.tensor([-1.0, 2.0])).tolist() == [2.0, 2.0]


def test_every_weight_of_the_residual_branch_has_a_gradient_at_the_start():
    """The retired residual weight of zero starved the branch; here each weight moves."""
    adapter = TwoLayerNN(6, 5, 6, bias=True, add_residual=True)
    (adapter(ROWS) * torch.linspace(1, 2, 6)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in adapter.parameters())


def test_bias_of_two_layers():
    """Without `bias` there is none, with it both layers have one."""
    names = {name for name, _ in TwoLayerNN(4, 3, 4).named_parameters()}
    with_bias = {name for name, _ in TwoLayerNN(4, 3, 4, bias=True).named_parameters()}
    assert with_bias - names == {"linear1.bias", "linear2.bias"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("relu", 0.0), ("sigmoid", 0.268941), ("tanh", -0.761594), ("leaky_relu", -0.01)],
)
def test_activation_functions(name, value):
    """Each at -1."""
    function = get_activation_function(name)
    assert function(torch.tensor(-1.0)).item() == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: get_activation_function("swish"), r"must be in \('gelu', .*\) \(got 'swish'\)"),
        (lambda: LinearLayer(0, 3), r"'in_features' must be at least 1 \(got 0\)"),
        (lambda: LowRankAdapter(4, rank=5), r"'rank' must be at most 'in_features'"),
        (lambda: TwoLayerNN(4, 3, 5, add_residual=True), r"'add_residual' needs"),
    ],
)
def test_bad_arguments(build, message):
    """Each is refused at construction."""
    with pytest.raises(ConfigurationError, match=message):
        build()


def test_a_subclass_without_its_methods_says_so():
    """What a subclass must define is named when it is missing."""

    class Empty(BaseAdapter):
        pass

    with pytest.raises(NotImplementedError, match="Empty must define 'forward'"):
        Empty()(ROWS)
    with pytest.raises(NotImplementedError, match="Empty must define 'get_config_dict'"):
        Empty().save("nowhere")


@pytest.mark.parametrize(
    "adapter",
    [
        LinearLayer(6, 4, bias=True),
        LowRankAdapter(6, rank=3),
        TwoLayerNN(6, 5, 6, bias=True, activation_fn_str="tanh", add_residual=True),
        TwoLayerNN(6, 5, 4),
        Gate(6, strength=2.0),
    ],
    ids=lambda adapter: type(adapter).__name__,
)
def test_saved_and_loaded(adapter, tmp_path):
    """An adapter comes back with its arguments and weights, also into an existing folder."""
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.rand(parameter.shape))
    (tmp_path / "a").mkdir()
    adapter.save(str(tmp_path / "a"))
    loaded = type(adapter).load(str(tmp_path / "a"))
    assert loaded.get_config_dict() == adapter.get_config_dict()
    assert torch.equal(loaded(ROWS), adapter(ROWS))
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_shared_weights_are_saved(tmp_path):
    """Two names for one tensor, which safetensors alone refuses, come back."""

    class Tied(Gate):
        def __init__(self, dim, strength=1.0):
            super().__init__(dim, strength)
            self.again = self.gate

    adapter = Tied(6)
    adapter.save(tmp_path / "a")
    assert torch.equal(Tied.load(tmp_path / "a").again, adapter.gate)


def test_the_description_says_what_the_adapter_is_for(tmp_path):
    """Class, arguments, side, base and its dimension are in config.json."""
    base = MockEmbedding(embed_dim=6, model_name="the-base")
    tmp_path.joinpath("a").mkdir()
    save_adapter(LinearLayer(6, 6), tmp_path / "a", transform="both", embed_model=base, dimension=6)
    found = json.loads((tmp_path / "a" / "config.json").read_text())
    assert found.pop("library_version")
    assert found == {
        "adapter_class": "LinearLayer",
        "adapter_config": {"in_features": 6, "out_features": 6, "bias": False},
        "transform": "both",
        "base_model": "the-base",
        "base_folder": None,
        "base_class": "MockEmbedding",
        "base_settings": {},
        "dimension": 6,
    }


def test_load_adapter_finds_the_class(tmp_path):
    """The classes of this package need no name, another one does."""
    LowRankAdapter(6, rank=2).save(tmp_path / "known")
    Gate(6).save(tmp_path / "custom")
    assert isinstance(load_adapter(tmp_path / "known")[0], LowRankAdapter)
    assert isinstance(load_adapter(tmp_path / "custom", Gate)[0], Gate)
    with pytest.raises(ModelFolderError, match="class 'Gate', .* Pass the class as 'adapter_cls'"):
        load_adapter(tmp_path / "custom")


class Foreign(torch.nn.Linear):
    """An adapter's class that shares the retired package's interface and no code with us."""

    def save(self, output_path):
        torch.save(self.state_dict(), f"{output_path}/pytorch_model.bin")

    @classmethod
    def load(cls, input_path):
        weights = torch.load(f"{input_path}/pytorch_model.bin", weights_only=True)
        adapter = cls(6, 6, bias=False)
        adapter.load_state_dict(weights)
        return adapter


@pytest.mark.parametrize("named", [TwoLayerNN, LowRankAdapter, Gate, SavesItself, Foreign])
def test_what_stands_for_the_base_is_loaded_whatever_class_is_named(named, tmp_path):
    """Code names the class that it trained; where the base was better, the folder holds that."""
    LinearLayer(6, 6).save(tmp_path / "a")
    assert type(load_adapter(tmp_path / "a", named)[0]) is LinearLayer
    trained = LinearLayer(6, 6)
    trained.linear.weight.data[0, 0] = 2.0
    trained.save(tmp_path / "a")
    with pytest.raises((ModelFolderError, OSError)):
        load_adapter(tmp_path / "a", named)


def test_retired_linear_layer(tmp_path):
    """Constructor arguments and a pickle of weights still load, under either call."""
    weight = torch.rand(6, 6)
    config = {"in_features": 6, "out_features": 6, "bias": False}
    write_retired(tmp_path, config, {"linear.weight": weight})
    assert torch.equal(LinearLayer.load(str(tmp_path)).linear.weight, weight)
    adapter, description = load_adapter(tmp_path)
    assert torch.equal(adapter.linear.weight, weight)
    assert (description.transform, description.base_model) == ("query", None)


def test_retired_two_layers(tmp_path):
    """The retired class had biases whatever its configuration said, and a residual weight."""
    weights = {
        "linear1.weight": torch.rand(5, 6),
        "linear1.bias": torch.rand(5),
        "linear2.weight": torch.rand(6, 5),
        "linear2.bias": torch.rand(6),
        "residual_weight": torch.tensor([0.5]),
    }
    config = {
        "in_features": 6,
        "hidden_features": 5,
        "out_features": 6,
        "bias": False,
        "activation_fn_str": "relu",
        "add_residual": True,
    }
    write_retired(tmp_path, config, weights)
    hidden = torch.relu(ROWS @ weights["linear1.weight"].T + weights["linear1.bias"])
    branch = hidden @ weights["linear2.weight"].T + weights["linear2.bias"]
    for adapter in (TwoLayerNN.load(str(tmp_path)), load_adapter(tmp_path)[0]):
        assert torch.allclose(adapter(ROWS), 0.5 * branch + ROWS, atol=1e-6)


def test_retired_custom_adapter(tmp_path):
    """A custom class reads its old folder; without the class, the error asks for it."""
    write_retired(tmp_path, {"dim": 6, "strength": 2.0}, {"gate": torch.ones(6)})
    assert torch.equal(Gate.load(str(tmp_path))(ROWS), 2 * ROWS)
    with pytest.raises(ModelFolderError, match="does not say which class"):
        load_adapter(tmp_path)


def test_an_adapter_that_saves_itself(tmp_path):
    """Its own save and load are used, whatever they write."""
    adapter = SavesItself(6)
    save_adapter(
        adapter, tmp_path, transform="query", embed_model=MockEmbedding(embed_dim=6), dimension=6
    )
    assert [file.name for file in tmp_path.iterdir()] == ["gate.pt"]
    assert torch.equal(load_adapter(tmp_path, SavesItself)[0].gate, adapter.gate)


@pytest.mark.parametrize("kind", [classmethod, staticmethod])
def test_an_adapter_that_only_loads_itself(tmp_path, kind):
    """The folder that it inherits still says whose vectors it is for, and how long they are."""

    def load(*arguments):
        adapter = Gate(6)
        adapter.gate.data.fill_(7)
        return adapter

    own = type("LoadsItself", (Gate,), {"load": kind(load)})
    base = MockEmbedding(embed_dim=6)
    save_adapter(own(6), tmp_path, transform="both", embed_model=base, dimension=6)
    adapter, description = load_adapter(tmp_path, own)
    assert adapter.gate.tolist() == [7] * 6
    assert (description.transform, description.dimension) == ("both", 6)


def test_an_adapter_class_of_the_retired_package(tmp_path):
    """It is served through its own save and load."""
    adapter = Foreign(6, 6, bias=False)
    base = MockEmbedding(embed_dim=6)
    save_adapter(adapter, tmp_path, transform="query", embed_model=base, dimension=6)
    assert torch.equal(load_adapter(tmp_path, Foreign)[0].weight, adapter.weight)
    with pytest.raises(ModelFolderError, match=r"Foreign\.load can't read"):
        load_adapter(tmp_path / "nowhere", Foreign)


class Touch:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_is_executed_from_a_retired_folder(tmp_path):
    """A pickle that would run code is refused, and the code does not run."""
    folder = write_retired(tmp_path / "a", {"in_features": 2, "out_features": 2, "bias": False}, {})
    trace = tmp_path / "executed"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(str(trace)), protocol=2))
    with pytest.raises(ModelFolderError, match=r"pytorch_model\.bin can't be read"):
        LinearLayer.load(folder)
    assert not trace.exists()


def damage(folder, name, content):
    """Save a layer, then write something else into one of its files."""
    LinearLayer(6, 6).save(folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)


GOOD = b'{"adapter_class": "LinearLayer", "adapter_config": %s}'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "is no adapter folder"),
        ("config.json", b'{"in_fea', "is no adapter folder"),
        ("config.json", b"[1]", "the top of the file is a list"),
        ("config.json", b'{"adapter_class": "LinearLayer"}', "config.json is incomplete"),
        ("config.json", GOOD % b"3", "'adapter_config' is no object"),
        ("config.json", GOOD % b'{"rank": 3}', "arguments .* are not those of LinearLayer"),
        ("config.json", GOOD % b'{"in_features": 5, "out_features": 5}', "do not fit LinearLayer"),
        ("config.json", GOOD[:-1] % b"{}" + b', "transform": "text"}', "'transform' is 'text'"),
        ("model.safetensors", None, r"model\.safetensors is missing"),
        ("model.safetensors", b"\x08", r"model\.safetensors can't be read"),
    ],
)
def test_damaged_folders(name, content, message, tmp_path):
    """Whatever is wrong with a folder is one clear error."""
    damage(tmp_path / "a", name, content)
    with pytest.raises(ModelFolderError, match=message):
        LinearLayer.load(tmp_path / "a")


def test_a_folder_of_something_else(tmp_path):
    """A missing folder, an empty one and a transformer model are no adapters."""
    (tmp_path / "empty").mkdir()
    transformer = write_retired(tmp_path / "bert", {"model_type": "bert"}, {})
    with pytest.raises(ModelFolderError, match="There is no adapter folder at"):
        describe_adapter_folder(tmp_path / "nowhere")
    with pytest.raises(ModelFolderError, match="it is a whole transformer model"):
        describe_adapter_folder(transformer)
    with pytest.raises(ModelFolderError, match=r"config\.json can't be read"):
        describe_adapter_folder(tmp_path / "empty")


def test_a_folder_of_another_class(tmp_path):
    """Asking for TwoLayerNN where a LinearLayer lies names both."""
    LinearLayer(6, 6).save(tmp_path / "a")
    with pytest.raises(ModelFolderError, match="class 'LinearLayer', not 'TwoLayerNN'"):
        TwoLayerNN.load(tmp_path / "a")


def test_retired_weights_that_do_not_fit(tmp_path):
    """Weights of other sizes, and a file that holds none, are clear errors."""
    config = {"in_features": 6, "out_features": 6, "bias": False}
    write_retired(tmp_path, config, {"linear.weight": torch.rand(5, 5)})
    with pytest.raises(ModelFolderError, match="do not fit LinearLayer"):
        LinearLayer.load(tmp_path)
    torch.save([1, 2], tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelFolderError, match="holds no weights"):
        LinearLayer.load(tmp_path)
