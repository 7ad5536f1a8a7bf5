"""The wrapper inside training frameworks: what they ask of a loader, and the real ones where they are installed."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from fakes import Coded, CodedStream, mixed, real_ids, same, stock
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler

from torchaug_gen import AugmentedLoader


def shuffled(fraction=0.3, **options):
    return mixed(stock(40, 4, shuffle=True), fraction, seed=3, **options)


def test_who_tells_the_sampler_an_epoch_tells_the_loader():
    """As Lightning and timm do."""
    reference = shuffled()
    epochs = [list(reference), list(reference)]
    for told in (lambda loader: loader.sampler, lambda loader: loader):
        loader = shuffled()
        told(loader).set_epoch(1)
        assert same(list(loader), epochs[1])
    assert isinstance(loader.sampler, RandomSampler) and len(loader.sampler) == 40
    distributed = DistributedSampler(Coded(40), 2, 0)
    assert mixed(DataLoader(Coded(40), 4, sampler=distributed)).sampler is distributed


def test_the_epoch_behind_a_whole_one_may_be_set_once_its_state_is_loaded():
    """As Lightning does, which saves behind the last batch and not behind the end."""
    loader = shuffled()
    running = iter(loader)
    for _ in range(len(loader)):
        next(running)
    state = loader.state_dict()
    second = list(loader)
    other = shuffled()
    other.load_state_dict(state)
    running = iter(other)
    other.sampler.set_epoch(1)
    assert same(list(running), second)


def test_an_unknown_length_is_a_type_error():
    """HF Trainer's has_length catches nothing else."""
    with pytest.raises(TypeError):
        len(mixed(DataLoader(CodedStream(), 4)))


def test_flags_that_frameworks_set_stay_where_they_belong():
    loader = shuffled()
    loader.mixup_enabled = False  # timm
    assert loader.mixup_enabled is False and not hasattr(loader.loader, "mixup_enabled")
    assert loader.dataset is loader.loader.dataset and loader.batch_size == 4 and len(loader) == 15


class GradientState:
    """What Accelerate's has of it."""

    def __init__(self):
        self.loaders = []

    def _add_dataloader(self, loader):
        self.loaders.append(weakref.ref(loader))

    def _remove_dataloader(self, loader):
        self.loaders = [reference for reference in self.loaders if reference() is not loader]


class DataLoaderShard:
    """An adapter as Accelerate's ``prepare`` makes it: of its own batches it tells the last one ahead of us."""

    device = torch.device("cpu")

    def __init__(self, base):
        self.base_dataloader, self.gradient_state, self.end_of_dataloader = base, GradientState(), False

    def __getattr__(self, name):
        return getattr(self.base_dataloader, name)

    def __iter__(self):
        raise AssertionError("must not be iterated")

    def __len__(self):
        return len(self.base_dataloader)


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("make", [lambda: stock(38, 4, shuffle=True), lambda: DataLoader(CodedStream(), 4)])
def test_the_last_batch_is_known_as_it_is_handed_over(make, prefetch):
    adapter = DataLoaderShard(make())
    loader = mixed(adapter, 0.3, prefetch=prefetch)
    flags, batches = [], []
    for batch in loader:
        assert adapter.gradient_state.loaders[-1]() is loader
        flags.append(loader.end_of_dataloader)
        batches.append(batch)
    assert flags == [False] * (len(flags) - 1) + [True] and loader.remainder == -1
    assert not adapter.gradient_state.loaders
    assert same(batches, list(mixed(make(), 0.3)))


class Iterated(DataLoaderShard):
    """An adapter that is iterated itself: it counts its epochs, tells them, and knows the last batch in time."""

    iteration = 0

    def set_epoch(self, epoch):
        self.iteration = epoch
        self.base_dataloader.sampler.set_epoch(epoch)

    def __iter__(self):
        self.set_epoch(self.iteration)
        self.end_of_dataloader = False
        for number, batch in enumerate(self.base_dataloader, 1):
            self.end_of_dataloader = number == len(self)
            yield batch
        self.iteration += 1


Iterated.__name__ = "DataLoaderShard"


def test_off_an_adapter_is_seen_as_it_is():
    data = Coded(23)
    make = lambda: Iterated(DataLoader(data, 4, sampler=DistributedSampler(data, 1, 0)))  # noqa: E731
    bare, loader = make(), AugmentedLoader(make())
    bare.set_epoch(3)
    loader.set_epoch(3)
    for _ in range(2):
        for expected, batch in zip(bare, loader, strict=True):
            assert same([batch], [expected])
            assert loader.end_of_dataloader == bare.end_of_dataloader
    assert loader.iteration == bare.iteration == 5


class DataLoaderDispatcher(DataLoaderShard):
    """One that reads on the first of several processes for all of them; it claims to be what it adapts."""

    def __init__(self, base, processes):
        super().__init__(base)
        self.state = SimpleNamespace(num_processes=processes, device=torch.device("cpu"))

    @property
    def __class__(self):
        return type(self.base_dataloader)

    def __iter__(self):
        # Each process gets its part of these.
        return iter(self.base_dataloader)

    def state_dict(self):
        return self.dl_state_dict

    def load_state_dict(self, state):
        self.base_dataloader.load_state_dict(state)


@pytest.mark.parametrize("make", [lambda: stock(38, 4, shuffle=True), lambda: DataLoader(CodedStream(), 4)])
def test_a_process_that_is_alone_reads_for_itself(make):
    adapter = DataLoaderDispatcher(make(), processes=1)
    loader = mixed(adapter, 0.3)
    assert same(list(loader), list(mixed(make(), 0.3)))
    assert loader.end_of_dataloader and not adapter.gradient_state.loaders


@pytest.mark.parametrize("make", [lambda: stock(23, 4), lambda: DataLoader(CodedStream(), 4)])
def test_what_is_read_for_several_processes_is_taken_as_it_comes(make):
    loader = mixed(DataLoaderDispatcher(make(), processes=2), 0.3)
    found = list(loader)
    assert [row for images, _ in found for row in real_ids(images)] == list(range(23))
    # Indices cannot be regrouped where somebody else loads them: rows are carried.
    assert {len(images) for images, _ in found[:-1]} == {4}
    other = mixed(DataLoaderDispatcher(make(), processes=2), 0.3)
    running = iter(loader)
    next(running), next(running), next(running)
    with pytest.warns(RuntimeWarning, match="DataLoaderDispatcher over .* cannot be positioned"):
        other.load_state_dict(loader.state_dict())
        assert same(list(other), list(running))


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", [None, True])
@pytest.mark.parametrize("make", [lambda: DataLoader(CodedStream(), 4), lambda: stock(38, 4, shuffle=True)])
def test_accelerates_adapters_are_read_through(make, dispatch):
    accelerate = pytest.importorskip("accelerate")
    settings = accelerate.DataLoaderConfiguration(dispatch_batches=dispatch)
    adapter = accelerate.Accelerator(cpu=True, dataloader_config=settings).prepare(make())
    assert same(list(mixed(adapter, 0.3)), list(mixed(make(), 0.3)))


@pytest.mark.slow
def test_accelerate_takes_its_last_step():
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
    net = nn.Linear(1, 1)
    net, optimizer, inner = accelerator.prepare(net, torch.optim.SGD(net.parameters(), 0.1), stock(38, 4, shuffle=True))
    loader, steps, batches = mixed(inner, 0.3), 0, []
    for batch in loader:
        batches.append(batch)
        with accelerator.accumulate(net):
            accelerator.backward(net(batch[0].mean()[None]).sum())
            steps += accelerator.sync_gradients
            optimizer.step()
            optimizer.zero_grad()
    assert len(batches) % 4 and steps == -(-len(batches) // 4) == -(-len(loader) // 4)
    assert same(batches, list(mixed(stock(38, 4, shuffle=True), 0.3)))


@pytest.mark.slow
def test_lightning_resumes_exactly_behind_any_step(tmp_path):
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = nn.Linear(1, 1), []

        def training_step(self, batch, index):
            self.seen.append([part.clone() for part in batch])
            return self.layer(batch[0].mean()[None]).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    def fit(path=None, **options):
        module = Module()
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", devices=1, **quiet, **options)
        trainer.fit(module, shuffled(), ckpt_path=path)
        return module.seen

    reference = shuffled()
    expected = [*reference, *reference]
    steps = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=5, save_top_k=-1, filename="{step}")
    epochs = ModelCheckpoint(dirpath=tmp_path, every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    assert same(fit(callbacks=[steps, epochs]), expected)
    for step in (5, 10, 15, 20, 25):
        assert same(fit(tmp_path / f"step={step}.ckpt", enable_checkpointing=False), expected[step:])
    assert same(fit(tmp_path / "epoch=0.ckpt", enable_checkpointing=False), expected[15:])


@pytest.mark.slow
def test_ignite_runs_all_epochs():
    engine = pytest.importorskip("ignite.engine")
    seen = []
    trainer = engine.Engine(lambda _, batch: seen.append(real_ids(batch[0])))
    loader, other = shuffled(), shuffled()
    trainer.run(loader, max_epochs=2)
    assert seen == [real_ids(images) for images, _ in [*other, *other]]


def test_one_pass_after_the_other_leaves_no_reference_to_the_loader():
    loader = AugmentedLoader(stock(), tag="t")
    for _ in loader:
        pass
    gone = weakref.ref(loader)
    gc.disable()
    try:
        del loader
        assert gone() is None
    finally:
        gc.enable()
