use std::sync::Arc;

use super::{children::ReapTable, *};

#[test]
fn an_unregistered_child_without_spawns_in_flight_is_an_orphan() {
    assert!(ReapTable::default().is_orphan(7));
}

#[test]
fn a_registered_child_is_not_an_orphan() {
    let children = Arc::new(Children::default());
    let spawning = children.begin_spawn();
    children.register(&spawning, 7);
    drop(spawning);
    assert!(!children.table().is_orphan(7));
    children.unregister(7);
    assert!(children.table().is_orphan(7));
}

#[test]
fn only_spawns_that_began_before_the_exit_protect_a_child() {
    let children = Arc::new(Children::default());
    let before = children.begin_spawn();
    assert!(!children.table().is_orphan(7));
    let after = children.begin_spawn();
    assert!(!children.table().is_orphan(7));
    drop(before);
    // `after` began when the child 7 had exited already.
    assert!(children.table().is_orphan(7));
    drop(after);
}

#[test]
fn each_unclaimed_child_has_its_own_spawns_in_flight() {
    let children = Arc::new(Children::default());
    let first = children.begin_spawn();
    assert!(!children.table().is_orphan(7));
    let second = children.begin_spawn();
    drop(first);
    assert!(!children.table().is_orphan(8));
    drop(second);
    assert!(children.table().is_orphan(8));
}

#[test]
fn the_exit_status_is_read_through_the_pidfd() {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    for (script, status) in [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137), ("kill -34 $$", 162)] {
        #[expect(
            clippy::disallowed_methods,
            clippy::zombie_processes,
            reason = "a test needs some child, and waits by pidfd"
        )]
        let child = std::process::Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let exit = crate::testing::runtime().block_on(wait_exit(&pidfd));
        assert_eq!(exit.status, status, "{script}");
        assert!(exit.seconds > 1_600_000_000);
    }
}
