import pytest

from jaxllm.storage.stored_object import StoredObject


@pytest.fixture
def make(bucket):
    return lambda **more: StoredObject(f"{bucket.url}/folder/.lease", **more)


def test_one_reads_what_another_wrote(bucket, make):
    first, second = make(), make()
    assert first.read() == b""
    assert first.write(b"one")
    assert second.read() == b"one"
    assert second.write(b"two")
    assert first.read() == b"two"
    assert bucket.files("folder") == {".lease": b"two"}


@pytest.mark.parametrize("before", [None, b"", b"old"])
def test_of_two_who_know_the_same_version_one_writes(bucket, make, before):
    if before is not None:
        bucket.put("folder/.lease", before)
    first, second = make(), make()
    assert first.read() == second.read() == (before or b"")
    assert first.write(b"first")
    assert not second.write(b"second")
    assert not second.write(b"second"), "it still knows an old version"
    assert first.write(b"first again")
    assert bucket.files("folder") == {".lease": b"first again"}


def test_one_that_was_removed_meanwhile_is_not_written(bucket, make):
    bucket.put("folder/.lease", b"old")
    stored = make()
    stored.read()
    bucket.remove("folder/.lease")
    assert not stored.write(b"new")
    assert bucket.files() == {}


def test_a_write_whose_answer_was_lost_is_there_but_not_confirmed(bucket, make):
    stored = make()
    stored.read()
    bucket.faults.next("cut after", method="POST")
    assert not stored.write(b"mine")
    assert stored.read() == b"mine"
    assert stored.write(b"mine again")


def test_passing_faults_are_tried_again(bucket, make):
    stored = make(timeout=30.0)
    bucket.faults.next(503, method="GET")
    assert stored.read() == b""
    bucket.faults.next(429, method="POST")
    assert stored.write(b"one")
    assert bucket.faults.count == 2


def test_a_bucket_out_of_reach_is_an_error_after_a_while(bucket, make):
    stored = make(timeout=0.2)
    stored.read()
    bucket.faults.next(503, times=None)
    with pytest.raises(OSError, match=r"folder/\.lease: no answer within 0\.2 s"):
        stored.read()
    with pytest.raises(OSError, match=r"no answer within 0\.2 s"):
        stored.write(b"one")


def test_what_the_service_refuses_is_an_error(bucket, make):
    missing = StoredObject("gs://no-such-bucket/a")
    missing.read()
    with pytest.raises(OSError, match=r"gs://no-such-bucket/a: NOT_FOUND"):
        missing.write(b"")
    stored = make()
    stored.read()
    bucket.faults.next(403, method="POST")
    with pytest.raises(OSError, match="PERMISSION_DENIED"):
        stored.write(b"one")
