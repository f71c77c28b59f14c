import pytest

from napari_slidecorr.errors import ProjectError, TrainingError
from napari_slidecorr.events import Event, JobEnd, JobStatus, Predicted, Trained
from napari_slidecorr.session import Session, sentence


class HandRunner:
    """Runs nothing by itself; the test sends events and ends."""

    def __init__(self):
        self.cancelled = False

    def __call__(self, make_events, on_event, on_end):
        self.make_events, self.on_event, self.on_end = make_events, on_event, on_end
        return self

    def cancel(self):
        self.cancelled = True

    def pause(self):
        self.paused = True

    def resume(self):
        self.paused = False

    def stop(self, seconds):
        self.cancelled = True
        self.on_end(JobEnd(JobStatus.CANCELLED))
        return seconds > 0


@pytest.fixture
def runner():
    return HandRunner()


@pytest.fixture
def session(runner):
    return Session(runner)


@pytest.fixture
def heard(session):
    """What the session told, in order."""
    told = []
    for name in ("job_started", "job_event", "job_ended", "message", "current_slide_changed", "project_changed"):
        getattr(session, name).connect(lambda *args, name=name: told.append((name, *args)), check_nargs=False)
    return told


def test_the_end_is_told_to_all_whatever_its_starter_does_with_it(session, runner, heard):
    def broken(_end):
        raise RuntimeError("its dock is gone")

    session.start(list, "Training", on_end=broken)
    end = JobEnd(JobStatus.COMPLETED)
    with pytest.raises(RuntimeError, match="gone"):
        runner.on_end(end)
    assert not session.busy
    assert heard[-2:] == [("job_ended", end), ("message", "Training completed.", False)]


def test_a_job_starts_speaks_and_ends_once(session, runner, heard):
    own = []
    assert session.start(list, "Training", own.append, own.append)
    event, end = Event(phase="epoch 1"), JobEnd(JobStatus.COMPLETED, result=7)
    assert (session.busy, session.job_title) == (True, "Training")
    runner.on_event(event)
    runner.on_end(end)
    assert own == [event, end]
    assert heard == [
        ("job_started", "Training"),
        ("job_event", event),
        ("job_ended", end),
        ("message", "Training completed.", False),
    ]
    assert (session.busy, session.job_title) == (False, "")


def test_a_job_pauses_and_goes_on(session, runner):
    told = []
    session.job_paused.connect(told.append)
    session.pause()
    assert not session.paused, "nothing runs"
    session.start(list, "Training")
    session.pause()
    session.pause()
    assert (session.paused, runner.paused, session.busy) == (True, True, True)
    session.resume()
    assert (session.paused, runner.paused, told) == (False, False, [True, False])
    session.pause()
    runner.on_end(JobEnd(JobStatus.CANCELLED))
    assert not session.paused, "the next job does not begin paused"


def test_a_second_job_is_refused_with_a_message(session, runner, heard):
    session.start(list, "Training")
    first = runner.make_events
    assert not session.start(dict, "Prediction")
    assert runner.make_events is first
    (told,) = (entry for entry in heard if entry[0] == "message")
    assert told == ("message", "Training still runs. Prediction can start when it ends or is cancelled.", True)


def test_another_can_start_when_the_end_is_heard(session, runner):
    started = []
    session.job_ended.connect(lambda _end: started.append(session.start(list, "Prediction")))
    session.start(list, "Training")
    runner.on_end(JobEnd(JobStatus.CANCELLED))
    assert started == [True]
    assert session.job_title == "Prediction"


def test_a_failure_is_told_in_its_own_words(session, runner, heard):
    session.start(list, "Training")
    runner.on_end(JobEnd(JobStatus.FAILED, error=TrainingError("The loss is not a number. Lower the learning rate.")))
    assert heard[-1] == ("message", "Training failed: The loss is not a number. Lower the learning rate.", True)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        pytest.param(TrainingError("Too hot."), "Too hot.", id="ours"),
        pytest.param(RuntimeError("CUDA out of memory"), "RuntimeError: CUDA out of memory", id="not ours"),
        pytest.param(MemoryError(), "MemoryError", id="says nothing"),
    ],
)
def test_sentence(error, told):
    assert sentence(error) == told


def test_cancel_and_close_reach_the_job(session, runner):
    session.cancel()
    assert session.close()
    assert not runner.cancelled, "without a job there is nothing to cancel"
    session.start(list, "Training")
    session.cancel()
    assert runner.cancelled
    assert session.close()
    assert not session.busy


def test_the_slide_in_view_is_told_when_it_changes(session, heard):
    for slide_id in ("a", "a", "b", None):
        session.current_slide = slide_id
    assert heard == [("current_slide_changed", name) for name in ("a", "b", "")]


def test_without_project_the_error_says_where_to_open_one(session):
    with pytest.raises(ProjectError, match="Slides dock"):
        session.require_project()


def test_the_project_stays_while_a_job_runs(session, runner):
    session.start(list, "Training")
    with pytest.raises(ProjectError, match="Training still runs"):
        session.project = None
    runner.on_end(JobEnd(JobStatus.COMPLETED))
    session.project = None


def test_results_are_news_for_every_dock(session, runner):
    class Map:
        slide_id = "a"

    news = []
    session.runs_changed.connect(lambda: news.append("runs"))
    session.maps_changed.connect(news.append)
    session.start(list, "Work")
    runner.on_event(Trained(phase="trained", result=None))
    runner.on_event(Predicted(phase="predicted", result=Map()))
    assert news == ["runs", "a"]
