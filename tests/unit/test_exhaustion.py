"""What a machine runs out of costs nobody a life."""

from __future__ import annotations

import errno
import importlib.util
import resource
import shutil
from pathlib import Path

import pytest
from contract_steps import at_work
from numpy.random import mtrand

from o9.model.loops import is_exhausted
from o9.model.states import OptimizationStatus
from o9.store import queries
from o9.store.queue.claims import AbandonClaim
from o9.store.store import Store


def caused_by(cause: BaseException) -> BaseException:
    try:
        raise ConnectionError("all attempts failed") from cause
    except ConnectionError as error:
        return error


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN])
def test_it_is_found_in_what_caused_an_error(number: int) -> None:
    assert is_exhausted(OSError(number, "no more"))
    assert is_exhausted(caused_by(caused_by(OSError(number, "no more"))))


def test_it_is_found_where_a_library_cannot_be_loaded(tmp_path: Path) -> None:
    library = tmp_path / Path(mtrand.__file__).name  # the other one is loaded
    shutil.copyfile(mtrand.__file__, library)
    extension = importlib.util.spec_from_file_location("mtrand", library)
    assert extension is not None
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(ImportError) as refused:
            importlib.util.module_from_spec(extension)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert is_exhausted(refused.value)
    with pytest.raises(ImportError) as absent:
        importlib.import_module("a_module_that_nobody_has")
    assert not is_exhausted(absent.value)


def test_other_errors_are_none() -> None:
    circle = ValueError("a")
    circle.__context__ = caused_by(circle)
    for error in (None, OSError(errno.ENOENT, "no such file"), caused_by(ZeroDivisionError()), circle):
        assert not is_exhausted(error)


@pytest.mark.parametrize("died", [True, False])
def test_whether_an_attempt_that_came_to_nothing_costs_a_life(store_url: str, died: bool) -> None:
    with Store(store_url) as store:
        claimed = at_work(store, "a")
        assert store.write(AbandonClaim("a", claimed.fence, "node-1", died))
        holding = store.read(queries.holding, "a")
        assert holding is not None
        assert (holding.status, holding.deaths) == (OptimizationStatus.CREATED.value, int(died))
