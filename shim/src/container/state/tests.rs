use berth_runtime::Kind;

use super::{
    execs::{MAX_EXECS, MAX_SPEC_BYTES},
    *,
};
use crate::{abort::Abort, io::Prepared, process::ExecSpec, testing::null};

const EXIT: Exit = Exit { status: 7, seconds: 10, nanoseconds: 20 };
const LATER: Exit = Exit { status: 8, seconds: 11, nanoseconds: 21 };

fn new_process(pid: i32) -> NewProcess {
    NewProcess { pid, pidfd: Arc::new(null()), io: Prepared::unconnected().attach(None).unwrap() }
}

fn abort() -> Arc<Abort> {
    Arc::new(Abort::new().unwrap())
}

fn created() -> State {
    let mut state = State::new("c", StdioRequest::default());
    state.created(new_process(100), Some(null()));
    state
}

fn running() -> State {
    let mut state = created();
    state.starting().unwrap();
    state.started();
    state
}

fn with_exec(exec: &str, pid: i32) -> State {
    let mut state = running();
    state.add_exec(exec, StdioRequest::default(), ExecSpec::of_size(2)).unwrap();
    state.exec_opening(exec, abort()).unwrap();
    state.exec_starting(exec).unwrap();
    state.exec_started(exec, new_process(pid));
    state
}

fn names(events: &[Event]) -> Vec<String> {
    let name = |event: &Event| match event {
        Event::Exit(e) => format!("exit {} {} {}", e.id, e.pid, e.exit_status),
        Event::Start(e) => format!("start {}", e.pid),
        Event::ExecStarted(e) => format!("exec-started {} {}", e.exec_id, e.pid),
        other => other.topic().to_owned(),
    };
    events.iter().map(name).collect()
}

fn kind<T>(result: Result<T>) -> Kind {
    result.map(drop).unwrap_err().kind()
}

#[test]
fn an_exit_during_start_is_published_after_the_start() {
    let mut state = created();
    state.starting().unwrap();
    assert!(!state.init_exited(EXIT));
    assert!(state.init_cleaned_up().is_empty());
    assert_eq!(state.status().unwrap(), Status::CREATED);
    assert_eq!(names(&state.started()), ["start 100", "exit c 100 7"]);
    assert_eq!(state.status().unwrap(), Status::STOPPED);
}

#[test]
fn a_failed_start_publishes_only_the_exit() {
    let mut state = created();
    state.starting().unwrap();
    assert!(state.start_failed().is_empty());
    assert_eq!(kind(state.starting()), Kind::FailedPrecondition);
    state.init_exited(EXIT);
    assert_eq!(names(&state.init_cleaned_up()), ["exit c 100 7"]);
}

#[test]
fn a_container_without_a_process_is_restored_once() {
    let mut state = State::new("c", StdioRequest::default());
    state.created_without_process();
    assert_eq!((state.status().unwrap(), state.init.pid), (Status::CREATED, 0));
    assert_eq!(kind(state.starting()), Kind::FailedPrecondition);
    assert_eq!(kind(state.checkpointable()), Kind::FailedPrecondition);
    assert_eq!(kind(state.signal_target("")), Kind::FailedPrecondition);
    state.restoring().unwrap();
    assert_eq!(kind(state.restoring()), Kind::FailedPrecondition);
    assert_eq!(names(&state.restored(new_process(100))), ["start 100"]);
    state.checkpointable().unwrap();
    state.init_exited(EXIT);
    assert_eq!(kind(state.checkpointable()), Kind::FailedPrecondition);
    assert_eq!(names(&state.init_cleaned_up()), ["exit c 100 7"]);
}

#[test]
fn the_exit_of_init_is_published_last() {
    let mut state = with_exec("e", 200);
    state.init_exited(EXIT);
    assert!(state.init_cleaned_up().is_empty());
    assert_eq!(state.status().unwrap(), Status::RUNNING);
    assert_eq!(names(&state.exec_exited("e", LATER)), ["exit e 200 8", "exit c 100 7"]);
}

#[test]
fn the_exit_of_init_waits_for_an_exec_that_is_being_made() {
    let mut state = running();
    state.add_exec("e", StdioRequest::default(), ExecSpec::of_size(0)).unwrap();
    state.exec_opening("e", abort()).unwrap();
    state.exec_starting("e").unwrap();
    state.init_exited(EXIT);
    assert!(state.init_cleaned_up().is_empty());
    assert_eq!(names(&state.exec_started("e", new_process(200))), ["exec-started e 200"]);
    assert_eq!(names(&state.exec_exited("e", LATER)), ["exit e 200 8", "exit c 100 7"]);
}

#[test]
fn an_exec_that_waits_for_its_client_does_not_delay_the_exit_of_init() {
    let mut state = running();
    state.add_exec("e", StdioRequest::default(), ExecSpec::of_size(0)).unwrap();
    state.exec_opening("e", abort()).unwrap();
    assert_eq!(kind(state.exec_opening("e", abort())), Kind::FailedPrecondition);
    assert_eq!(kind(state.take_exec("e")), Kind::FailedPrecondition);
    state.init_exited(EXIT);
    assert_eq!(names(&state.init_cleaned_up()), ["exit c 100 7"]);
    assert_eq!(kind(state.exec_starting("e")), Kind::FailedPrecondition);
    assert!(state.exec_start_failed("e").is_empty());
    state.deleted();
    assert_eq!(kind(state.exec_starting("e")), Kind::NotFound);
    assert!(state.exec_start_failed("e").is_empty());
}

#[test]
fn a_failed_exec_publishes_nothing_and_releases_its_waiters() {
    let mut state = running();
    state.add_exec("e", StdioRequest::default(), ExecSpec::of_size(0)).unwrap();
    let waiter = state.process("e").unwrap().waiter();
    state.exec_opening("e", abort()).unwrap();
    state.exec_starting("e").unwrap();
    state.init_exited(EXIT);
    state.init_cleaned_up();
    assert_eq!(names(&state.exec_start_failed("e")), ["exit c 100 7"]);
    assert_eq!(crate::testing::runtime().block_on(waiter.exit()).status, 255);
    assert_eq!(state.process_status("e").unwrap(), Status::STOPPED);
    assert_eq!(kind(state.exec_opening("e", abort())), Kind::FailedPrecondition);
}

#[test]
fn the_exit_of_init_is_published_once_and_after_the_clean_up() {
    let mut state = running();
    state.init_exited(EXIT);
    assert!(state.announce_exit().is_none());
    assert_eq!(state.init_cleaned_up().len(), 1);
    assert!(state.init_cleaned_up().is_empty());
    state.init_exited(LATER);
    assert_eq!(state.init.exit(), Some(EXIT));
}

#[test]
fn no_exec_starts_once_init_is_reaped() {
    let mut state = running();
    state.add_exec("early", StdioRequest::default(), ExecSpec::of_size(0)).unwrap();
    state.init_exited(EXIT);
    assert_eq!(kind(state.add_exec("late", StdioRequest::default(), ExecSpec::of_size(0))), Kind::FailedPrecondition);
    assert_eq!(kind(state.exec_opening("early", abort())), Kind::FailedPrecondition);
    assert_eq!(state.init_cleaned_up().len(), 1);
}

#[test]
fn an_exec_id_is_reserved_until_its_delete() {
    let mut state = created();
    state.add_exec("e", StdioRequest::default(), ExecSpec::of_size(0)).unwrap();
    assert_eq!(kind(state.add_exec("e", StdioRequest::default(), ExecSpec::of_size(0))), Kind::AlreadyExists);
    state.take_exec("e").unwrap();
    assert_eq!(kind(state.take_exec("e")), Kind::NotFound);
    state.add_exec("e", StdioRequest::default(), ExecSpec::of_size(0)).unwrap();
}

#[test]
fn a_running_exec_cannot_be_deleted() {
    let mut state = with_exec("e", 200);
    assert_eq!(kind(state.take_exec("e")), Kind::FailedPrecondition);
    state.exec_exited("e", LATER);
    assert_eq!(state.take_exec("e").unwrap().exit(), Some(LATER));
}

#[test]
fn only_running_processes_can_be_signalled() {
    let mut state = running();
    assert!(state.signal_target("").is_ok());
    assert_eq!(kind(state.signal_target("e")), Kind::NotFound);
    state.add_exec("e", StdioRequest::default(), ExecSpec::of_size(0)).unwrap();
    assert_eq!(kind(state.signal_target("e")), Kind::FailedPrecondition);
    state.exec_opening("e", abort()).unwrap();
    state.exec_starting("e").unwrap();
    state.exec_started("e", new_process(200));
    assert!(state.signal_target("e").is_ok());
    state.exec_exited("e", LATER);
    assert_eq!(kind(state.signal_target("e")), Kind::NotFound);
    state.init_exited(EXIT);
    assert_eq!(kind(state.signal_target("")), Kind::NotFound);
}

#[test]
fn state_reports_pausing_and_execs_of_a_paused_container_as_paused() {
    let mut state = with_exec("e", 200);
    state.pausing().unwrap();
    assert_eq!(state.process_status("e").unwrap(), Status::PAUSING);
    assert_eq!(kind(state.pausing()), Kind::FailedPrecondition);
    assert!(state.paused().is_some());
    assert_eq!(state.process_status("").unwrap(), Status::PAUSED);
    assert_eq!(state.process_status("e").unwrap(), Status::PAUSED);
    assert_eq!(kind(state.add_exec("f", StdioRequest::default(), ExecSpec::of_size(0))), Kind::FailedPrecondition);
    state.resuming().unwrap();
    assert!(state.resumed().is_some());
    assert_eq!(kind(state.resuming()), Kind::FailedPrecondition);
    assert_eq!(state.process_status("e").unwrap(), Status::RUNNING);
}

#[test]
fn a_container_runs_on_after_a_failed_pause() {
    let mut state = running();
    state.pausing().unwrap();
    state.pause_failed();
    assert_eq!(state.status().unwrap(), Status::RUNNING);
}

#[test]
fn an_exit_while_paused_is_published_and_asks_for_a_thaw() {
    let mut state = running();
    state.pausing().unwrap();
    state.paused();
    assert!(state.init_exited(EXIT));
    assert_eq!(names(&state.init_cleaned_up()), ["exit c 100 7"]);
    assert!(state.resumed().is_none());
    assert_eq!(state.status().unwrap(), Status::STOPPED);
}

#[test]
fn an_exit_during_pause_stays() {
    let mut state = running();
    state.pausing().unwrap();
    state.init_exited(EXIT);
    state.init_cleaned_up();
    assert!(state.paused().is_none());
    assert_eq!(state.status().unwrap(), Status::STOPPED);
}

#[test]
fn only_created_and_stopped_containers_can_be_deleted() {
    assert_eq!(kind(State::new("c", StdioRequest::default()).deletable()), Kind::NotFound);
    assert!(created().deletable().is_ok());
    let mut state = running();
    assert_eq!(kind(state.deletable()), Kind::FailedPrecondition);
    state.init_exited(EXIT);
    assert_eq!(kind(state.deletable()), Kind::FailedPrecondition);
    state.init_cleaned_up();
    assert!(state.deletable().is_ok());
    state.deleted();
    assert_eq!(kind(state.deletable()), Kind::NotFound);
    assert_eq!(kind(state.status()), Kind::NotFound);
}

#[test]
fn limits_can_be_updated_until_init_exits() {
    assert!(created().updatable().is_ok());
    let mut state = running();
    assert!(state.updatable().is_ok());
    state.init_exited(EXIT);
    let error = state.updatable().unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (Kind::FailedPrecondition, "cannot update a stopped container".into())
    );
}

#[test]
fn a_start_of_an_exec_can_be_aborted() {
    let mut state = running();
    state.add_exec("e", StdioRequest::default(), ExecSpec::of_size(0)).unwrap();
    assert!(state.abort_exec("e", 9).is_none(), "nothing to be ended yet");
    let abort = abort();
    state.exec_opening("e", abort.clone()).unwrap();
    let waiter = state.abort_exec("e", 9).unwrap();
    assert_eq!(abort.signal(), Some(9));
    assert!(state.exec_start_failed("e").is_empty());
    assert_eq!(crate::testing::runtime().block_on(waiter.exit()).status, 137);
    assert!(state.abort_exec("e", 9).is_none());
    assert_eq!(state.take_exec("e").unwrap().exit().unwrap().status, 137);
    // A running exec takes signals as any other process.
    assert!(with_exec("f", 200).abort_exec("f", 9).is_none());
}

#[test]
fn execs_of_one_container_are_limited_in_number_and_size() {
    let mut state = running();
    for n in 0..MAX_EXECS {
        state.add_exec(&format!("e{n}"), StdioRequest::default(), ExecSpec::of_size(0)).unwrap();
    }
    let e = state.add_exec("more", StdioRequest::default(), ExecSpec::of_size(0)).unwrap_err();
    assert!(crate::error::is_shortage(&e) && e.to_string().contains("4096 execs"), "{e}");
    state.take_exec("e7").unwrap();
    state.add_exec("more", StdioRequest::default(), ExecSpec::of_size(MAX_SPEC_BYTES)).unwrap();
    state.take_exec("e8").unwrap();
    let e = state.add_exec("large", StdioRequest::default(), ExecSpec::of_size(1)).unwrap_err();
    assert!(crate::error::is_shortage(&e) && e.to_string().contains("to start"), "{e}");
    // A started exec keeps no specification.
    state.exec_opening("more", abort()).unwrap();
    state.add_exec("large", StdioRequest::default(), ExecSpec::of_size(1)).unwrap();
}
