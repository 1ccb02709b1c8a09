//! The events of a container's life, complete and in order, as `ctr events` prints them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    containerd::{Containerd, Runtime},
    matrix,
    session::Session,
    task::{Task, run},
    wait::{LONG, until},
};
use serde_json::Value;
use std::time::{Duration, Instant};

matrix!(
    ctr_events_tell_a_life_in_order,
    oom_event_comes_before_the_exit_under_ctr,
    failed_starts_publish_no_start_event
);

/// A running `ctr events`.
struct Events {
    session: Session,
}

impl Events {
    fn listen(containerd: &Containerd) -> Self {
        let session = Session::start(containerd.ctr_command().arg("events"));
        // ctr prints nothing when it is ready, so events are made until the first one arrives.
        until("the first event", LONG, || {
            let image = "docker.io/library/label:none";
            containerd.ctr(["images", "tag", "--force", berth_integration::image::BUSYBOX, image]).ok();
            containerd.ctr(["images", "remove", image]).ok();
            session.heard().contains("/images/").then_some(())
        });
        Self { session }
    }

    /// Returns the task events of the container `id` up to its `delete`: the topic without `/tasks/`, and the content.
    ///
    /// containerd's shim for runc may end before its last event is sent. On runc that event is derived from the exit,
    /// so that the rest can be checked.
    fn of(&self, containerd: &Containerd, id: &str) -> Vec<(String, Value)> {
        let end = Instant::now() + if containerd.runtime == Runtime::Runc { Duration::from_secs(10) } else { LONG };
        until("the events of a container's life", LONG * 2, || {
            let heard = self.session.heard();
            let complete = heard.rsplit_once('\n').map_or("", |(complete, _)| complete);
            let mut events: Vec<_> = complete.lines().filter_map(|line| task_event(line, id)).collect();
            let (topic, last) = events.last()?.clone();
            if topic == "exit" && containerd.runtime == Runtime::Runc && Instant::now() > end {
                events.push(("delete".into(), last));
                return Some(events);
            }
            assert!(Instant::now() < end, "no delete of {id} in {heard}");
            (topic == "delete").then_some(events)
        })
    }
}

/// Parses a line of date, time, zone, zone name, namespace, topic and JSON.
fn task_event(line: &str, id: &str) -> Option<(String, Value)> {
    let (head, json) = line.split_once(" {")?;
    let topic = head.rsplit_once("/tasks/")?.1;
    let event: Value = serde_json::from_str(&format!("{{{json}")).unwrap();
    (event["container_id"] == id).then(|| (topic.to_owned(), event))
}

fn topics(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(topic, _)| topic.as_str()).collect()
}

fn ctr_events_tell_a_life_in_order(containerd: &Containerd) {
    containerd.import_for_ctr();
    let events = Events::listen(containerd);
    let task = Task::start(containerd, "life", &[], &["sleep", "1000"]);
    let pid = task.pid();
    task.exec(&["sh", "-c", "exit 42"]);
    // ctr deletes the exec after its exit. That has no event.
    task.verb("pause", &[]).ok();
    task.verb("resume", &[]).ok();
    task.verb("kill", &["--signal", "SIGKILL"]).ok();
    assert_eq!(task.reap(), 137);
    let seen = events.of(containerd, &task.id);
    let expected = ["create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete"];
    assert_eq!(topics(&seen), expected, "{seen:#?}");
    assert_eq!(seen[0].1["pid"], pid, "{seen:#?}");
    assert_eq!(seen[1].1["pid"], pid, "{seen:#?}");
    assert_eq!((&seen[4].1["id"], &seen[4].1["exit_status"]), (&"exec-1".into(), &42.into()), "{seen:#?}");
    assert_eq!(seen[4].1["pid"], seen[3].1["pid"], "{seen:#?}");
    let exit = &seen[7].1;
    assert_eq!((&exit["id"], &exit["pid"], &exit["exit_status"]), (&task.id.clone().into(), &pid.into(), &137.into()));
    let delete = &seen[8].1;
    assert_eq!((&delete["pid"], &delete["exit_status"]), (&pid.into(), &137.into()), "{seen:#?}");
    assert_eq!(delete["exited_at"], exit["exited_at"], "{seen:#?}");
    task.remove();
    // A process that exits at once still has its exit event after its start event.
    run(containerd, "short", &[], &["true"]).ok();
    let id = containerd.id("short");
    assert_eq!(topics(&events.of(containerd, &id)), ["create", "start", "exit", "delete"]);
}

fn oom_event_comes_before_the_exit_under_ctr(containerd: &Containerd) {
    containerd.import_for_ctr();
    let events = Events::listen(containerd);
    let out = run(containerd, "oom", &["--memory-limit", "16777216"], &["sh", "-c", "tail /dev/zero; exit $?"]);
    // The kernel kills the child or the first process; both exit with 137.
    assert_eq!(out.code(), 137, "{out}");
    let seen = events.of(containerd, &containerd.id("oom"));
    let mut order = topics(&seen);
    order.dedup();
    // Only berth promises the OOM event even if the container is gone right after the kill.
    let untold = containerd.runtime == Runtime::Runc && !order.contains(&"oom");
    assert!(untold || order == ["create", "start", "oom", "exit", "delete"], "{seen:#?}");
}

fn failed_starts_publish_no_start_event(containerd: &Containerd) {
    containerd.import_for_ctr();
    let events = Events::listen(containerd);
    let task = Task::start(containerd, "failed", &[], &["sleep", "1000"]);
    task.exec(&["no-such-program"]).failed();
    task.verb("kill", &["--signal", "SIGKILL"]).ok();
    assert_eq!(task.reap(), 137);
    let seen = events.of(containerd, &task.id);
    // The exec that failed was added, and has no other event.
    assert_eq!(topics(&seen), ["create", "start", "exec-added", "exit", "delete"], "{seen:#?}");
    task.remove();
}
